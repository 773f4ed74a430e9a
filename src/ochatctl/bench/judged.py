"""What MT-bench and AlpacaEval have in common: a model's answers, asked for or read from a file, and a judge's report.

in: a suite's questions and a `RunConfig`, out: `Answers`, then a `JudgedReport`, written beside the scores

A suite gets its `Answers` from `run_dialogues` or `given_answers`, makes its report of them, and without a judge that
is all. With one it has them judged, and hands what came of it to `keep_scores`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from ochatctl.bench.cost import CHARS_PER_TOKEN, Load, ask_leave
from ochatctl.bench.journal import Record
from ochatctl.bench.judge import JudgeReport, preflight
from ochatctl.bench.results import Result, write_result
from ochatctl.bench.run import EXPECTED_ANSWER_TOKENS, RUNS_DIR, Run, RunConfig
from ochatctl.bench.runner import Watch
from ochatctl.bench.target import slug_of
from ochatctl.config import to_table
from ochatctl.engine.client import Ask
from ochatctl.errors import DataError
from ochatctl.files import write_json

REPORT_NAME = "report.json"
# In the run's folder: a judge's words as they came, and the scores of each judge, of which the last stand above, too.
JUDGMENTS_DIR, SCORES_DIR = "judgments", "scores"
# Stands for an answer that has not come yet, where the tokens of what a judge will read are counted.
UNKNOWN_ANSWER = "x" * (EXPECTED_ANSWER_TOKENS * CHARS_PER_TOKEN)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers(Generic[T]):
    """A model's answers by question. `path` is the file they stand in; `journal` is None where they were given."""

    model: str
    out_dir: Path
    journal: Path | None
    path: Path
    by_question: Mapping[Any, T]
    records: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of_run(cls, run: Run, path: Path, by_question: Mapping[Any, T]) -> Self:
        """Give the answers of a run, which were written to `path`."""
        return cls(
            model=run.model,
            out_dir=run.out_dir,
            journal=run.journal,
            path=path,
            by_question=by_question,
            records=run.records,
        )

    @property
    def errors(self) -> tuple[str, ...]:
        """Which questions have no answer, and why."""
        return tuple(f"{_name(record)}: {record.error}" for record in self.records if record.error)

    @property
    def num_prompt_tokens(self) -> int:
        """Of all requests that were answered."""
        return sum(record.num_prompt_tokens for record in self.records)

    @property
    def num_answer_tokens(self) -> int:
        """Of all answers."""
        return sum(record.num_answer_tokens for record in self.records)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedReport:
    """What came of a run. Without a judge there is no score; what failed or could not be read stands beside it.

    `errors` are of answers that failed, `judge_errors` of judgments.
    """

    model: str
    out_dir: Path
    journal: Path | None
    answers: Path
    num_questions: int
    num_answered: int
    judge: JudgeReport | None = None
    judgments: Path | None = None
    num_unparsed: int = 0
    num_asked_again: int = 0
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    judge_errors: tuple[str, ...] = ()

    @classmethod
    def of(cls, answers: Answers[Any], num_questions: int, **own: Any) -> Self:
        """Give the report on answers that no judge has read; `own` are a suite's own fields."""
        return cls(
            model=answers.model,
            out_dir=answers.out_dir,
            journal=answers.journal,
            answers=answers.path,
            num_questions=num_questions,
            num_answered=len(answers.by_question),
            notes=answers.notes,
            errors=answers.errors,
            **own,
        )


def given_answers(
    suite: str,
    content_digest: str,
    path: Path,
    model: str,
    by_question: Mapping[Any, T],
    num_questions: int,
    config: RunConfig,
    watch: Watch,
    *,
    loads: Callable[[Path], Sequence[Load]],
    notes: Sequence[str] = (),
) -> Answers[T]:
    """Take the answers of a file as they are; where a judge will read them, get leave to send them there.

    Raises:
        DataError: none of the questions is answered in the file.
        UsageProblem: a judge may cost money, and nobody said yes.
    """
    if not by_question:
        raise DataError(
            f"{path}: none of the {num_questions} questions is answered in it",
            hint="the file and the questions must be of one benchmark",
        )
    if len(by_question) < num_questions:
        left_out = f"{num_questions - len(by_question)} of {num_questions} questions are not answered in it"
        notes = (*notes, f"{path}: {left_out}")
    for note in notes:
        watch.note(note)
    out_dir = config.out_dir or RUNS_DIR / f"{suite}-{slug_of(model)}-{content_digest[:8]}"
    ask_leave(loads(out_dir), config.leave, watch)
    return Answers(model=model, out_dir=out_dir, journal=None, path=path, by_question=by_question, notes=tuple(notes))


def judge_is_there(config: RunConfig, ask: Ask, needs: Collection[str] = ()) -> Callable[[], Awaitable[None]]:
    """Give what `run_dialogues` awaits before it asks: one word of the judge, where there is to be one."""

    async def ready() -> None:
        if config.judge is not None:
            await preflight(config.judge, ask, needs)

    return ready


def keep_scores(report: JudgedReport, result: Result, name: str) -> None:
    """Write the report and each question's outcome; another judge's, under another name, stay where they are."""
    write_result(report.out_dir / SCORES_DIR / name, result)
    write_result(report.out_dir, result)
    write_json(report.out_dir / REPORT_NAME, to_table(report))


def _name(record: Record) -> str:
    return record.id if record.turn == 1 else f"{record.id}, turn {record.turn}"
