"""MT-bench: two-turn questions to a model, its answers to a judge.

in: FastChat's files and a target, out: in the run's folder `journal.jsonl`, `model_answer/NAME.jsonl`, and with a judge
`judgments/JUDGE.jsonl` (as they came), `model_judgment/JUDGE_single.jsonl` or `JUDGE_pair.jsonl`, `report.json` and
`questions.jsonl`, and the latter again in `scores/JUDGE_single/`

Source: lm-sys/FastChat, `fastchat/llm_judge/`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ochatctl.bench.cost import CHARS_PER_TOKEN, Load, Purse, ask_leave
from ochatctl.bench.datasets import data_file
from ochatctl.bench.journal import Record
from ochatctl.bench.judge import JudgeReport, preflight
from ochatctl.bench.results import write_result
from ochatctl.bench.run import EXPECTED_ANSWER_TOKENS, RUNS_DIR, RunConfig, run_dialogues
from ochatctl.bench.runner import Dialogue, Watch
from ochatctl.bench.suites.mtbench_files import (
    Question,
    Texts,
    answer_rows,
    digest_of,
    read_answers,
    read_questions,
    write_rows,
)
from ochatctl.bench.suites.mtbench_judge import ASK, Compat
from ochatctl.bench.suites.mtbench_judging import Judging
from ochatctl.bench.suites.mtbench_score import PairScore, SingleScore
from ochatctl.bench.target import slug_of
from ochatctl.config import to_table
from ochatctl.engine.client import Ask
from ochatctl.errors import UsageProblem
from ochatctl.files import write_json

DATA = "mtbench"
MAX_TOKENS = 1024  # FastChat's
REPORT_NAME = "report.json"
FORMAT = "ochatctl.bench.mtbench"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MtBench:
    """What is asked and how it is judged; None is the data set that `bench download mtbench` gets.

    `answers` are judged as they are, and no model is asked. `mode="pairwise"` compares with `baseline`, a file of
    another model's answers. `compat="fastchat"` reads the judge as FastChat does, and asks it once.
    """

    questions: Path | None = None
    references: Path | None = None
    judge_prompts: Path | None = None
    answers: Path | None = None
    mode: Literal["single", "pairwise"] = "single"
    baseline: Path | None = None
    compat: Compat | None = None

    def files(self, *, judged: bool) -> tuple[Path, Path | None, Path | None]:
        """Give the files of questions, references and judge prompts; the last two only for a judge.

        Raises:
            DataError: the data set is not here; the hint is the command that gets it.
        """
        questions = self.questions or data_file(DATA, "question.jsonl")
        if not judged:
            return questions, None, None
        references = self.references or data_file(DATA, "reference_answer/gpt-4.jsonl")
        return questions, references, self.judge_prompts or data_file(DATA, "judge_prompts.jsonl")


@dataclass(frozen=True, kw_only=True, slots=True)
class MtBenchReport:
    """What came of a run. Without a judge there is no score; what failed or could not be read stands beside it."""

    model: str
    mode: str
    out_dir: Path
    journal: Path | None
    answers: Path
    num_questions: int
    num_answered: int
    judge: JudgeReport | None = None
    judgments: Path | None = None
    score: SingleScore | PairScore | None = None
    num_unparsed: int = 0
    num_asked_again: int = 0
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    format: str = FORMAT
    version: int = VERSION


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answered:
    """A model's answers, whether they were asked for or read."""

    model: str
    out_dir: Path
    journal: Path | None
    path: Path
    texts: Texts
    records: tuple[Record, ...] = ()
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run_mtbench(bench: MtBench, config: RunConfig, watch: Watch) -> MtBenchReport:
    """Ask every turn once, at its category's temperature; write FastChat's answer file; have the answers judged.

    Guarantees: a run that was killed and started again ends in the same report, where answers and judge are
    deterministic.

    Raises:
        UsageProblem: the journal in `out_dir` belongs to other questions or settings, or a paid judge needs a yes.
        ConfigError: no such judge.
        RemoteError, RunError: nothing answers.
    """
    if bench.mode == "pairwise" and config.judge is not None and bench.baseline is None:
        raise UsageProblem(
            "`--mode pairwise` needs `--baseline FILE`: the answers of the model to compare with",
            hint=f"{config.command} --baseline FILE".lstrip(),
        )
    questions_path, references, prompts = bench.files(judged=config.judge is not None)
    questions = read_questions(questions_path)
    asked = questions[: config.limit]
    judging = None
    if references is not None and prompts is not None:
        baseline = bench.baseline if bench.mode == "pairwise" else None
        judging = Judging.read(asked, references, prompts, baseline, bench.compat)
    return asyncio.run(_run(bench, questions, asked, judging, config, watch))


async def _run(
    bench: MtBench,
    questions: Sequence[Question],
    asked: Sequence[Question],
    judging: Judging | None,
    config: RunConfig,
    watch: Watch,
) -> MtBenchReport:
    purse = config.purse()
    if bench.answers is None:
        answered = await _ask_model(questions, asked, judging, config, purse, watch)
    else:
        answered = _given(bench.answers, questions, asked, judging, config, watch)
    report = MtBenchReport(
        model=answered.model,
        mode=bench.mode,
        out_dir=answered.out_dir,
        journal=answered.journal,
        answers=answered.path,
        num_questions=len(asked),
        num_answered=sum(question.question_id in answered.texts for question in asked),
        notes=answered.notes,
        errors=answered.errors,
    )
    if judging is None:
        return report
    judged = await judging.judge(answered.model, answered.texts, config, answered.out_dir, purse, watch)
    result = replace(
        judged.result,
        notes=(*answered.notes, *judged.result.notes),
        num_prompt_tokens=sum(record.num_prompt_tokens for record in answered.records),
        num_answer_tokens=sum(record.num_answer_tokens for record in answered.records),
    )
    # Of the last judge and mode; the others' stay beside it.
    write_result(answered.out_dir, result)
    write_result(answered.out_dir / "scores" / judged.path.stem, result)
    report = replace(
        report,
        judge=judged.judge,
        judgments=judged.path,
        score=judged.score,
        num_unparsed=judged.num_unparsed,
        num_asked_again=judged.num_asked_again,
        notes=result.notes,
        errors=(*report.errors, *judged.errors),
    )
    write_json(answered.out_dir / REPORT_NAME, to_table(report))
    return report


async def _ask_model(
    questions: Sequence[Question],
    asked: Sequence[Question],
    judging: Judging | None,
    config: RunConfig,
    purse: Purse,
    watch: Watch,
) -> _Answered:
    def later(out_dir: Path, records: Sequence[Record]) -> Sequence[Load]:
        return judging.loads(_expected(asked, records), config, out_dir) if judging is not None else ()

    dialogues = [
        Dialogue(
            id=str(question.question_id),
            turns=question.turns,
            ask=Ask(temperature=question.temperature, max_tokens=MAX_TOKENS),
        )
        for question in asked
    ]
    content = {"questions": digest_of(questions)}
    run = await run_dialogues(
        "mtbench", content, dialogues, config, watch, purse=purse, later=later, ready=lambda: _preflight(config)
    )
    rows = list(answer_rows(asked, run.records, run.model))
    path = run.out_dir / "model_answer" / f"{run.slug}.jsonl"
    write_rows(path, rows)
    wanted = {str(question.question_id) for question in asked}
    records = tuple(record for record in run.records if record.id in wanted)
    return _Answered(
        model=run.model,
        out_dir=run.out_dir,
        journal=run.journal,
        path=path,
        texts={row["question_id"]: tuple(row["choices"][0]["turns"]) for row in rows},
        records=records,
        errors=tuple(f"{record.id}, turn {record.turn}: {record.error}" for record in records if record.error),
    )


async def _preflight(config: RunConfig) -> None:
    if config.judge is not None:
        await preflight(config.judge, ASK)


def _given(
    path: Path,
    questions: Sequence[Question],
    asked: Sequence[Question],
    judging: Judging | None,
    config: RunConfig,
    watch: Watch,
) -> _Answered:
    """Take the answers of a file as they are."""
    file = read_answers(path)
    out_dir = config.out_dir or RUNS_DIR / f"mtbench-{slug_of(file.model)}-{digest_of(questions)[:8]}"
    notes = [f"{path}: question {name} is answered twice; the last counts" for name in file.duplicates]
    texts = {
        question.question_id: file.texts[question.question_id]
        for question in asked
        if len(file.texts.get(question.question_id, ())) >= len(question.turns)
    }
    if len(texts) < len(asked):
        notes.append(f"{path}: {len(asked) - len(texts)} of {len(asked)} questions are not answered in it")
    for note in notes:
        watch.note(note)
    if judging is not None:
        ask_leave(judging.loads(texts, config, out_dir), config.leave, watch)
    return _Answered(model=file.model, out_dir=out_dir, journal=None, path=path, texts=texts, notes=tuple(notes))


def _expected(questions: Iterable[Question], records: Iterable[Record]) -> Texts:
    """Give the answers that are there, and for those that are not a text as long as answers are: to count tokens."""
    texts = {(record.id, record.turn): record.text for record in records if record.text is not None}
    unknown = "x" * (EXPECTED_ANSWER_TOKENS * CHARS_PER_TOKEN)
    return {
        question.question_id: tuple(
            texts.get((str(question.question_id), turn), unknown) for turn in range(1, len(question.turns) + 1)
        )
        for question in questions
    }
