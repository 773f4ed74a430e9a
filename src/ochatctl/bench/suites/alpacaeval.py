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
from ochatctl.bench.cost import Load, Purse
from ochatctl.bench.datasets import data_file
from ochatctl.bench.journal import Record
from ochatctl.bench.judge import judge_all, judge_load
from ochatctl.bench.judged import (
    JUDGMENTS_DIR,
    SCORES_DIR,
    UNKNOWN_ANSWER,
    Answers,
    JudgedReport,
    given_answers,
    judge_is_there,
    keep_scores,
)
from ochatctl.bench.preferences import (
    Output,
    WinRate,
    read_outputs,
    win_rate,
    write_annotations,
    write_outputs,
)
from ochatctl.bench.run import RunConfig, run_dialogues
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
from ochatctl.chat.conversation import Message
from ochatctl.errors import UsageProblem

DATA, PROMPTS = "alpacaeval", "alpacaeval_prompts"
# alpaca_eval's of OpenChat's entries was the whole context; no answer of theirs comes near this.
MAX_TOKENS = 2048
FORMAT = "ochatctl.bench.alpacaeval"
VERSION = 1
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
class AlpacaEvalReport(JudgedReport):
    """What came of a run; `answers` is alpaca_eval's `model_outputs.json`, `judgments` its `annotations.json`."""

    annotator: str
    rate: WinRate | None = None
    format: str = FORMAT
    version: int = VERSION


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
        answers = await _ask_model(bench, items, asked, template, config, purse, watch)
    else:
        answers = _given(bench, bench.answers, items, asked, template, config, watch)
    report = AlpacaEvalReport.of(answers, len(asked.instructions), annotator=annotator.name)
    if template is None:
        return report
    return await _judge(report, answers, asked, annotator, template, config, purse, watch)


async def _judge(
    report: AlpacaEvalReport,
    answers: Answers[Output],
    asked: Items,
    annotator: Annotator,
    template: tuple[Message, ...],
    config: RunConfig,
    purse: Purse,
    watch: Watch,
) -> AlpacaEvalReport:
    assert config.judge is not None
    outputs = answers.by_question
    judging = await judge_all(
        SUITE,
        cases(asked, outputs, annotator, template),
        config.judge,
        folder=answers.out_dir / JUDGMENTS_DIR,
        watch=watch,
        needs=annotator.needs,
        purse=purse,
        yes=config.yes,
    )
    rows = annotations(asked, outputs, judging, annotator, config.judge.name)
    rate = win_rate(rows)
    result = result_of(asked, answers, judging, annotator=annotator)
    name = f"{config.judge.slug}_{annotator.name}"
    scores = answers.out_dir / SCORES_DIR / name
    write_annotations(scores / "annotations.json", rows)
    write_leaderboard(scores / "leaderboard.csv", answers.model, rate)
    report = replace(
        report,
        judge=judging.judge,
        judgments=scores / "annotations.json",
        rate=rate,
        num_unparsed=judging.num_unparsed,
        num_asked_again=judging.num_asked_again,
        notes=result.notes,
        judge_errors=judging.errors,
    )
    keep_scores(report, result, name)
    return report


async def _ask_model(
    bench: AlpacaEval,
    items: Items,
    asked: Items,
    template: tuple[Message, ...] | None,
    config: RunConfig,
    purse: Purse,
    watch: Watch,
) -> Answers[Output]:
    def later(out_dir: Path, records: Sequence[Record]) -> Sequence[Load]:
        return _judge_loads(bench, asked, _expected(asked, records), template, config, out_dir)

    # Without `--max-tokens` an answer has room enough to end by itself.
    config = config if config.max_tokens is not None else replace(config, max_tokens=MAX_TOKENS)
    annotator = ANNOTATORS[bench.annotator]
    run = await run_dialogues(
        SUITE,
        {"instructions": items.digest, "temperature": bench.temperature},
        dialogues(asked, bench.temperature),
        config,
        watch,
        purse=purse,
        later=later,
        ready=judge_is_there(config, annotator.ask, annotator.needs),
    )
    outputs = outputs_of(asked, run.records, run.model)
    path = run.out_dir / "model_outputs.json"
    write_outputs(path, outputs.values())
    return Answers.of_run(run, path, outputs)


def _given(
    bench: AlpacaEval,
    path: Path,
    items: Items,
    asked: Items,
    template: tuple[Message, ...] | None,
    config: RunConfig,
    watch: Watch,
) -> Answers[Output]:
    """Take the outputs of a file as they are."""
    file = read_outputs(path)
    models = list(dict.fromkeys(row.generator for row in file))
    if len(models) != 1:
        raise UsageProblem(
            f"{path}: outputs of {len(models)} generators, where one is judged at a time", hint="one file a generator"
        )
    by_instruction = {row.instruction: row for row in file}
    outputs = {
        str(number): replace(by_instruction[item.instruction], dataset=item.dataset)
        for number, item in enumerate(asked.instructions, start=1)
        if item.instruction in by_instruction
    }
    return given_answers(
        SUITE,
        items.digest,
        path,
        models[0],
        outputs,
        len(asked.instructions),
        config,
        watch,
        loads=lambda out_dir: _judge_loads(bench, asked, outputs, template, config, out_dir),
    )


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
    annotator = ANNOTATORS[bench.annotator]
    return [judge_load(cases(asked, outputs, annotator, template), config.judge, out_dir / JUDGMENTS_DIR)]


def _expected(asked: Items, records: Sequence[Record]) -> Mapping[str, Output]:
    """Give the outputs that are there, and for those that are not a text as long as answers are: to count tokens."""
    known = outputs_of(asked, records, "")
    return {
        str(number): known.get(
            str(number), Output(instruction=item.instruction, output=UNKNOWN_ANSWER, generator="", dataset=item.dataset)
        )
        for number, item in enumerate(asked.instructions, start=1)
    }
