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

from ochatctl.bench.cost import Load, Purse
from ochatctl.bench.datasets import data_file
from ochatctl.bench.journal import Record
from ochatctl.bench.judged import (
    UNKNOWN_ANSWER,
    Answers,
    JudgedReport,
    given_answers,
    judge_is_there,
    keep_scores,
)
from ochatctl.bench.run import RunConfig, run_dialogues
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
from ochatctl.engine.client import Ask
from ochatctl.errors import UsageProblem

DATA = "mtbench"
MAX_TOKENS = 1024  # FastChat's
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
class MtBenchReport(JudgedReport):
    """What came of a run; `answers` and `judgments` are FastChat's files."""

    mode: str
    score: SingleScore | PairScore | None = None
    format: str = FORMAT
    version: int = VERSION


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
        answers = await _ask_model(questions, asked, judging, config, purse, watch)
    else:
        answers = _given(bench.answers, questions, asked, judging, config, watch)
    report = MtBenchReport.of(answers, len(asked), mode=bench.mode)
    if judging is None:
        return report
    judged = await judging.judge(answers.model, answers.by_question, config, answers.out_dir, purse, watch)
    result = replace(
        judged.result,
        notes=(*answers.notes, *judged.result.notes),
        num_prompt_tokens=answers.num_prompt_tokens,
        num_answer_tokens=answers.num_answer_tokens,
    )
    report = replace(
        report,
        judge=judged.judge,
        judgments=judged.path,
        score=judged.score,
        num_unparsed=judged.num_unparsed,
        num_asked_again=judged.num_asked_again,
        notes=result.notes,
        judge_errors=judged.errors,
    )
    keep_scores(report, result, judged.path.stem)
    return report


async def _ask_model(
    questions: Sequence[Question],
    asked: Sequence[Question],
    judging: Judging | None,
    config: RunConfig,
    purse: Purse,
    watch: Watch,
) -> Answers[tuple[str, ...]]:
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
        DATA, content, dialogues, config, watch, purse=purse, later=later, ready=judge_is_there(config, ASK)
    )
    rows = list(answer_rows(asked, run.records, run.model))
    path = run.out_dir / "model_answer" / f"{run.slug}.jsonl"
    write_rows(path, rows)
    return Answers.of_run(run, path, {row["question_id"]: tuple(row["choices"][0]["turns"]) for row in rows})


def _given(
    path: Path,
    questions: Sequence[Question],
    asked: Sequence[Question],
    judging: Judging | None,
    config: RunConfig,
    watch: Watch,
) -> Answers[tuple[str, ...]]:
    """Take the answers of a file as they are; one that lacks a turn is none."""
    file = read_answers(path)
    texts = {
        question.question_id: file.texts[question.question_id]
        for question in asked
        if len(file.texts.get(question.question_id, ())) >= len(question.turns)
    }
    return given_answers(
        DATA,
        digest_of(questions),
        path,
        file.model,
        texts,
        len(asked),
        config,
        watch,
        loads=lambda out_dir: judging.loads(texts, config, out_dir) if judging is not None else (),
        notes=[f"{path}: question {name} is answered twice; the last counts" for name in file.duplicates],
    )


def _expected(questions: Iterable[Question], records: Iterable[Record]) -> Texts:
    """Give the answers that are there, and for those that are not a text as long as answers are: to count tokens."""
    texts = {(record.id, record.turn): record.text for record in records if record.text is not None}
    return {
        question.question_id: tuple(
            texts.get((str(question.question_id), turn), UNKNOWN_ANSWER) for turn in range(1, len(question.turns) + 1)
        )
        for question in questions
    }
