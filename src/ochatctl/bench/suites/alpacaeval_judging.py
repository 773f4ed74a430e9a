"""AlpacaEval's answers to a judge and back: pairs in a seeded order, alpaca_eval's files, each question's outcome.

in: instructions with the model's and the reference's outputs, out: cases for a judge; from its verdicts the rows of
`annotations.json`, the line of `leaderboard.csv` and a Result

Source: tatsu-lab/alpaca_eval 0.6.6. The length-controlled win rate is not made here: see `bench/length_control.py`.
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ochatctl.bench.annotators import Annotator, fill, first_token, is_swapped, ranking, unswap
from ochatctl.bench.journal import Record
from ochatctl.bench.judge import Case, Judging, Verdict
from ochatctl.bench.judged import Answers
from ochatctl.bench.preferences import Annotation, Output, WinRate
from ochatctl.bench.results import Line, Question, Result, Status
from ochatctl.bench.runner import Dialogue
from ochatctl.chat.conversation import Message
from ochatctl.engine.client import Ask
from ochatctl.errors import DataError
from ochatctl.files import atomic_file

SUITE = "alpacaeval"
# As OpenChat's entries in alpaca_eval were made.
TEMPERATURE = 0.7
_LEADERBOARD = ("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """What is asked and what it is compared with: `reference` by instruction, from one generator."""

    instructions: tuple[Output, ...]
    reference: Mapping[str, Output]

    @property
    def digest(self) -> str:
        """A digest of what is asked; another reference is another judgment, not another answer."""
        text = json.dumps([item.instruction for item in self.instructions])
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def join(reference: Sequence[Output], instructions: Sequence[Output] | None = None) -> Items:
    """Give the items: the reference's own instructions, or those given, each with the reference's output.

    Raises:
        DataError: the reference has no output to an instruction; alpaca_eval would leave it out in silence.
    """
    outputs = {row.instruction: row for row in reference}
    asked = tuple(instructions if instructions is not None else reference)
    lacking = [row.instruction for row in asked if row.instruction not in outputs]
    if lacking:
        raise DataError(
            f"the reference has no output to {len(lacking)} of {len(asked)} instructions, such as `{lacking[0][:80]}`",
            hint="give the reference that belongs to these items with `--reference FILE`",
        )
    return Items(instructions=asked, reference=outputs)


def dialogues(items: Items, temperature: float = TEMPERATURE) -> list[Dialogue]:
    """Give the questions in the order of the items, each with its number for its id."""
    return [
        Dialogue(id=str(number), turns=(item.instruction,), ask=Ask(temperature=temperature))
        for number, item in enumerate(items.instructions, start=1)
    ]


def outputs_of(items: Items, records: Sequence[Record], model: str) -> dict[str, Output]:
    """Give the model's outputs by question id; a question that failed is not among them."""
    texts = {record.id: record.text for record in records}
    found = {str(number): item for number, item in enumerate(items.instructions, start=1)}
    return {
        key: Output(instruction=item.instruction, output=text, generator=model, dataset=item.dataset)
        for key, item in found.items()
        if (text := texts.get(key)) is not None
    }


def cases(
    items: Items, outputs: Mapping[str, Output], annotator: Annotator, template: tuple[Message, ...]
) -> list[Case[float]]:
    """Give what the judge is asked about each output: the pair in a seeded order, as alpaca_eval draws it."""
    return [_case(key, items.reference[own.instruction], own, annotator, template) for key, own in outputs.items()]


def annotations(
    items: Items, outputs: Mapping[str, Output], judging: Judging[float], annotator: Annotator, judge: str
) -> tuple[Annotation, ...]:
    """Give `annotations.json`'s rows; a judgment that could not be read, or failed, has no preference.

    `annotator` is named with its judge where that is not the published one: such rows are not alpaca_eval's.
    """
    name = annotator.name if judge == annotator.published_judge else f"{annotator.name} by {judge}"
    rows = []
    for verdict in judging.verdicts:
        own = outputs[verdict.case.id]
        other = items.reference[own.instruction]
        record = verdict.record
        rows.append(
            Annotation(
                instruction=own.instruction,
                output_1=other.output,
                generator_1=other.generator,
                output_2=own.output,
                generator_2=own.generator,
                annotator=name,
                preference=verdict.value,
                dataset=own.dataset,
                raw_completion=record.text if record is not None else None,
            )
        )
    return tuple(rows)


def result_of(
    items: Items,
    answers: Answers[Output],
    judging: Judging[float],
    *,
    annotator: Annotator,
) -> Result:
    """Give the scored run, a question a win from 0 to 1."""
    verdicts = {verdict.case.id: verdict for verdict in judging.verdicts}
    asked = {record.id: record for record in answers.records}
    questions = tuple(
        _question(str(number), item, items, answers.by_question, verdicts, asked)
        for number, item in enumerate(items.instructions, start=1)
    )
    notes = list(judging.notes)
    if judging.judge.name != annotator.published_judge:
        notes.append(f"alpaca_eval's leaderboard for this annotator was judged by `{annotator.published_judge}`")
    return Result(
        suite=SUITE,
        model=answers.model,
        measure="win rate",
        unit="ratio",
        judge=judging.judge.name,
        protocol={"annotator": annotator.name, "reference": _generators(items)},
        questions=questions,
        notes=(*answers.notes, *notes),
        num_prompt_tokens=answers.num_prompt_tokens,
        num_answer_tokens=answers.num_answer_tokens,
    )


def write_leaderboard(path: Path, model: str, rate: WinRate) -> None:
    """Write `leaderboard.csv` with one line, under alpaca_eval's headings."""
    values = asdict(rate)
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["", *_LEADERBOARD, "mode", "avg_length"])
        writer.writerow([model, *(values[name] for name in _LEADERBOARD), "community", rate.avg_length])


def _case(key: str, other: Output, own: Output, annotator: Annotator, template: tuple[Message, ...]) -> Case[float]:
    swapped = is_swapped(own.instruction)
    first, second = (own, other) if swapped else (other, own)
    parts = fill(template, instruction=own.instruction, output_1=first.output, output_2=second.output)

    def read(record: Record) -> float | None:
        found = first_token(record.first_logprobs or {}) if annotator.num_top_logprobs else ranking(record.text or "")
        return unswap(found, swapped=swapped)

    return Case(
        id=key,
        system="\n\n".join(part.content for part in parts if part.role == "system"),
        prompt="\n\n".join(part.content for part in parts if part.role != "system"),
        read=read,
        ask=annotator.ask,
    )


def _question(
    key: str,
    item: Output,
    items: Items,
    outputs: Mapping[str, Output],
    verdicts: Mapping[str, Verdict[float]],
    asked: Mapping[str, Record],
) -> Question:
    own, verdict = outputs.get(key), verdicts.get(key)
    other = items.reference[item.instruction]
    lines = [Line(role="user", text=item.instruction), Line(role="reference", text=other.output)]
    if own is not None:
        lines.append(Line(role="assistant", text=own.output))
    if verdict is not None and verdict.record is not None and verdict.record.text is not None:
        lines.append(Line(role="judge", text=verdict.record.text))
    status: Status = "scored"
    if own is None:
        status = "error" if key in asked else "unasked"
    elif verdict is None or verdict.record is None or verdict.record.error is not None:
        status = "error"
    elif verdict.value is None:
        status = "unreadable"
    return Question(
        id=key,
        group=item.dataset or "all",
        scores={"1": verdict.value - 1} if verdict is not None and verdict.value is not None else {},
        status=status,
        transcript=tuple(lines),
    )


def _generators(items: Items) -> str:
    return ", ".join(dict.fromkeys(items.reference[item.instruction].generator for item in items.instructions))
