"""AlpacaEval 1 and 2: a model's answers against a reference's, judged pair by pair.

in: AlpacaEval's files and a target, out: in the run's folder `journal.jsonl`, `model_outputs.json`, and with a judge
`judgments/JUDGE.jsonl` (as they came), `report.json`, `questions.jsonl`, and in `scores/JUDGE_ANNOTATOR/` the latter
again with alpaca_eval's `annotations.json` and `leaderboard.csv`

Source: tatsu-lab/alpaca_eval 0.6.6.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ochatctl.bench.annotators import ANNOTATORS, Annotator, read_template
from ochatctl.bench.cost import CHARS_PER_TOKEN, Load, Purse, ask_leave
from ochatctl.bench.datasets import data_file
from ochatctl.bench.journal import Record
from ochatctl.bench.judge import JudgeReport, judge_all, judge_load, preflight
from ochatctl.bench.preferences import (
    Output,
    WinRate,
    read_outputs,
    win_rate,
    write_annotations,
    write_outputs,
)
from ochatctl.bench.results import write_result
from ochatctl.bench.run import EXPECTED_ANSWER_TOKENS, RUNS_DIR, RunConfig, run_dialogues
from ochatctl.bench.runner import Watch
from ochatctl.bench.suites.alpacaeval_judging import (
    SUITE,
    TEMPERATURE,
    Items,
    annotations,
    cases,
    dialogues,
    join,
    outputs_of,
    result_of,
    write_leaderboard,
)
from ochatctl.bench.target import slug_of
from ochatctl.chat.conversation import Message
from ochatctl.config import to_table
from ochatctl.errors import UsageProblem
from ochatctl.files import write_json

DATA, PROMPTS = "alpacaeval", "alpacaeval_prompts"
# alpaca_eval's of OpenChat's entries was the whole context; no answer of theirs comes near this.
MAX_TOKENS = 2048
REPORT_NAME = "report.json"
FORMAT = "ochatctl.bench.alpacaeval"
VERSION = 1
_FOLDER = "judgments"
# AlpacaEval 1's reference is what its instructions come with, 2's is a file of its own.
_REFERENCES = {
    "alpaca_eval_gpt4": "alpaca_eval.json",
    "weighted_alpaca_eval_gpt4_turbo": "alpaca_eval_gpt4_baseline.json",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AlpacaEval:
    """What is asked and how it is judged; None is the data set that `bench download alpacaeval` gets.

    `items` are instructions; default: the reference's own. `answers` are judged as they are, and no model is asked.
    """

    annotator: str = "alpaca_eval_gpt4"
    reference: Path | None = None
    items: Path | None = None
    prompt: Path | None = None
    answers: Path | None = None
    temperature: float = TEMPERATURE

    def read_items(self) -> Items:
        """Read what is asked, and what it is compared with.

        Raises:
            DataError: a file is malformed or not here, or the reference lacks an instruction.
        """
        reference = self.reference or data_file(DATA, _REFERENCES[self.annotator])
        return join(read_outputs(reference), read_outputs(self.items) if self.items is not None else None)

    def read_prompt(self) -> tuple[Message, ...]:
        """Read the annotator's prompt; raises as `read_items` does."""
        return read_template(self.prompt or data_file(PROMPTS, ANNOTATORS[self.annotator].template_file))


@dataclass(frozen=True, kw_only=True, slots=True)
class AlpacaEvalReport:
    """What came of a run. Without a judge there is no win rate."""

    model: str
    annotator: str
    out_dir: Path
    journal: Path | None
    outputs: Path
    num_instructions: int
    num_answered: int
    judge: JudgeReport | None = None
    annotations: Path | None = None
    rate: WinRate | None = None
    num_asked_again: int = 0
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    format: str = FORMAT
    version: int = VERSION


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answered:
    """A model's outputs by question id, whether they were asked for or read."""

    model: str
    out_dir: Path
    journal: Path | None
    path: Path
    outputs: Mapping[str, Output]
    records: tuple[Record, ...] = ()


def run_alpacaeval(bench: AlpacaEval, config: RunConfig, watch: Watch) -> AlpacaEvalReport:
    """Ask every instruction once, write alpaca_eval's `model_outputs.json`, and have the answers judged.

    Guarantees: a run that was killed and started again ends in the same report, where answers and judge are
    deterministic.

    Raises:
        UsageProblem: the journal in `out_dir` belongs to other instructions or settings, or a paid judge needs a yes.
        ConfigError: no such judge, or it gives no log probabilities and the annotator reads nothing else.
        RemoteError, RunError: nothing answers.
    """
    items = bench.read_items()
    template = bench.read_prompt() if config.judge is not None else None
    asked = replace(items, instructions=items.instructions[: config.limit])
    return asyncio.run(_run(bench, items, asked, template, config, watch))


async def _run(
    bench: AlpacaEval,
    items: Items,
    asked: Items,
    template: tuple[Message, ...] | None,
    config: RunConfig,
    watch: Watch,
) -> AlpacaEvalReport:
    purse, annotator = config.purse(), ANNOTATORS[bench.annotator]
    if bench.answers is None:
        answered = await _ask_model(bench, items, asked, template, config, purse, watch)
    else:
        answered = _given(bench, items, asked, template, config, watch)
    report = AlpacaEvalReport(
        model=answered.model,
        annotator=annotator.name,
        out_dir=answered.out_dir,
        journal=answered.journal,
        outputs=answered.path,
        num_instructions=len(asked.instructions),
        num_answered=len(answered.outputs),
        errors=tuple(f"{record.id}: {record.error}" for record in answered.records if record.error),
    )
    if template is None:
        return report
    return await _judge(report, answered, asked, annotator, template, config, purse, watch)


async def _judge(
    report: AlpacaEvalReport,
    answered: _Answered,
    asked: Items,
    annotator: Annotator,
    template: tuple[Message, ...],
    config: RunConfig,
    purse: Purse,
    watch: Watch,
) -> AlpacaEvalReport:
    assert config.judge is not None
    out_dir = answered.out_dir
    judging = await judge_all(
        SUITE,
        cases(asked, answered.outputs, annotator, template),
        config.judge,
        folder=out_dir / _FOLDER,
        watch=watch,
        needs=annotator.needs,
        purse=purse,
        yes=config.yes,
    )
    rows = annotations(asked, answered.outputs, judging, annotator, config.judge.name)
    rate = win_rate(rows)
    result = result_of(
        asked, answered.outputs, judging, model=answered.model, annotator=annotator, records=answered.records
    )
    # Another judge, or the other annotator, leaves these where they are.
    scores = out_dir / "scores" / f"{config.judge.slug}_{annotator.name}"
    write_result(scores, result)
    write_annotations(scores / "annotations.json", rows)
    write_leaderboard(scores / "leaderboard.csv", answered.model, rate)
    write_result(out_dir, result)
    report = replace(
        report,
        judge=judging.judge,
        annotations=scores / "annotations.json",
        rate=rate,
        num_asked_again=judging.num_asked_again,
        notes=result.notes,
        errors=(*report.errors, *judging.errors),
    )
    write_json(out_dir / REPORT_NAME, to_table(report))
    return report


async def _ask_model(
    bench: AlpacaEval,
    items: Items,
    asked: Items,
    template: tuple[Message, ...] | None,
    config: RunConfig,
    purse: Purse,
    watch: Watch,
) -> _Answered:
    def later(out_dir: Path, records: Sequence[Record]) -> Sequence[Load]:
        return _judge_loads(bench, asked, _expected(asked, records), template, config, out_dir)

    # Without `--max-tokens` an answer has room enough to end by itself.
    config = config if config.max_tokens is not None else replace(config, max_tokens=MAX_TOKENS)
    content = {"instructions": items.digest, "temperature": bench.temperature}
    run = await run_dialogues(
        SUITE,
        content,
        dialogues(asked, bench.temperature),
        config,
        watch,
        purse=purse,
        later=later,
        ready=lambda: _preflight(ANNOTATORS[bench.annotator], config),
    )
    wanted = {str(number) for number in range(1, len(asked.instructions) + 1)}
    records = tuple(record for record in run.records if record.id in wanted)
    outputs = outputs_of(asked, records, run.model)
    path = run.out_dir / "model_outputs.json"
    write_outputs(path, outputs.values())
    return _Answered(
        model=run.model, out_dir=run.out_dir, journal=run.journal, path=path, outputs=outputs, records=records
    )


async def _preflight(annotator: Annotator, config: RunConfig) -> None:
    """Ask the judge one word before the model is asked 805 questions for it."""
    if config.judge is not None:
        await preflight(config.judge, annotator.ask, annotator.needs)


def _given(
    bench: AlpacaEval,
    items: Items,
    asked: Items,
    template: tuple[Message, ...] | None,
    config: RunConfig,
    watch: Watch,
) -> _Answered:
    """Take the outputs of a file as they are."""
    assert bench.answers is not None
    file = read_outputs(bench.answers)
    models = list(dict.fromkeys(row.generator for row in file))
    if len(models) != 1:
        raise UsageProblem(
            f"{bench.answers}: outputs of {len(models)} generators, where one is judged at a time",
            hint="one file a generator",
        )
    by_instruction = {row.instruction: row for row in file}
    outputs = {
        str(number): replace(by_instruction[item.instruction], dataset=item.dataset)
        for number, item in enumerate(asked.instructions, start=1)
        if item.instruction in by_instruction
    }
    if len(outputs) < len(asked.instructions):
        num_lacking = len(asked.instructions) - len(outputs)
        watch.note(f"{bench.answers}: {num_lacking} of {len(asked.instructions)} instructions have no output in it")
    out_dir = config.out_dir or RUNS_DIR / f"{SUITE}-{slug_of(models[0])}-{items.digest[:8]}"
    ask_leave(_judge_loads(bench, asked, outputs, template, config, out_dir), config.leave, watch)
    return _Answered(model=models[0], out_dir=out_dir, journal=None, path=bench.answers, outputs=outputs)


def _judge_loads(
    bench: AlpacaEval,
    asked: Items,
    outputs: Mapping[str, Output],
    template: tuple[Message, ...] | None,
    config: RunConfig,
    out_dir: Path,
) -> list[Load]:
    """Estimate what the judge will be sent."""
    if template is None or config.judge is None:
        return []
    return [judge_load(cases(asked, outputs, ANNOTATORS[bench.annotator], template), config.judge, out_dir / _FOLDER)]


def _expected(asked: Items, records: Sequence[Record]) -> Mapping[str, Output]:
    """Give the outputs that are there, and for those that are not a text as long as answers are: to count tokens."""
    unknown = "x" * (EXPECTED_ANSWER_TOKENS * CHARS_PER_TOKEN)
    known = outputs_of(asked, records, "")
    return {
        str(number): known.get(
            str(number), Output(instruction=item.instruction, output=unknown, generator="", dataset=item.dataset)
        )
        for number, item in enumerate(asked.instructions, start=1)
    }
