"""What every suite brings home: its questions, with what was answered and how it scored; reports are made of this.

`questions.jsonl` in a run's folder, written when the run is scored:

{"format": "ochatctl.bench.questions", "version": 1, "suite": "mtbench", "model": "...", "judge": "...", ...}
{"id": "81", "group": "writing", "scores": {"1": 8.0, "2": 7.0}, "status": "scored", "transcript": [...]}
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ochatctl.bench.journal import FILE_NAME as JOURNAL_NAME
from ochatctl.bench.journal import peek
from ochatctl.config import build
from ochatctl.errors import ConfigError, DataError
from ochatctl.files import atomic_file, read_jsonl

FORMAT = "ochatctl.bench.questions"
VERSION = 1
FILE_NAME = "questions.jsonl"
# The measure whose scores are 1 for a right answer and 0 for any other.
ACCURACY = "accuracy"

# unmatched: answered, and no extractor found a value; unreadable: a judge's reply gave no score.
Status = Literal["scored", "unmatched", "unreadable", "error", "unasked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a transcript; `role` is `user`, `assistant`, `judge` or `reference`."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question's outcome. `scores` are by turn or by order ("1", "2", ...); what has none is not in it.

    An unmatched answer scores 0: it is not right, and no letter was guessed. Errors have no score at all.
    """

    id: str
    group: str
    scores: dict[str, float]
    status: Status
    transcript: tuple[Line, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A scored run. `unit` says what a score is: `points` of 10, or a `ratio` from 0 to 1, shown in percent.

    `measure` names it (`score`, `win rate`, `accuracy`); two results are comparable where suite, measure, judge,
    protocol and questions are the same. `protocol` is what else decides a score (mode, baseline, compatibility).
    `full_sizes` are those of the groups of which a subset was drawn: each then weighs as many questions as it has.
    """

    suite: str
    model: str
    measure: str
    unit: Literal["points", "ratio"]
    questions: tuple[Question, ...]
    judge: str = ""
    protocol: dict[str, str] = field(default_factory=dict)
    full_sizes: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    num_duplicates: int = 0
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    seconds: float = 0.0

    @property
    def groups(self) -> tuple[str, ...]:
        """The categories or tasks, in the order of their first question."""
        return tuple(dict.fromkeys(question.group for question in self.questions))

    def count(self, status: Status) -> int:
        """Say how many questions ended so."""
        return sum(question.status == status for question in self.questions)


def write_result(run_dir: Path, result: Result) -> Path:
    """Write `questions.jsonl`, whole or not at all, and give its path."""
    head = {key: value for key, value in asdict(result).items() if key != "questions"}
    path = run_dir / FILE_NAME
    with atomic_file(path) as part, part.open("w", encoding="utf-8") as lines:
        for value in ({"format": FORMAT, "version": VERSION, **head}, *map(asdict, result.questions)):
            lines.write(json.dumps(value, ensure_ascii=False) + "\n")
    return path


def read_result(run: Path) -> Result:
    """Read a run's folder, or its `questions.jsonl`.

    Raises:
        DataError: not one, written by a newer version, or not scored yet.
    """
    path = run / FILE_NAME if run.is_dir() else run
    if not path.exists():
        raise _not_scored(run)
    lines = read_jsonl(path)
    where, head = next(lines, (f"{path}:1", None))
    try:
        head = _checked_head(head, where)
        questions = [build(Question, value, where=where) for where, value in lines]
        return replace(build(Result, {**head, "questions": []}, where=where), questions=tuple(questions))
    except ConfigError as error:
        raise DataError(error.message, hint="score the run again with the command that made it") from error


def _not_scored(run: Path) -> DataError:
    journal = run / JOURNAL_NAME
    if not journal.is_file():
        return DataError(f"{run}: no `{FILE_NAME}` of a scored run", hint="ochatctl bench list")
    num_answers = len(peek(journal))
    return DataError(
        f"{run}: {num_answers} answer{'' if num_answers == 1 else 's'} so far, and no score yet",
        hint="the command that began the run goes on with it and scores it; for MT-bench and AlpacaEval it needs "
        "`--judge NAME`",
    )


def _checked_head(head: Any, where: str) -> dict[str, Any]:
    if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(head.get("version"), int):
        raise DataError(f"{where}: not a file of `{FORMAT}`", hint="name the run's folder: `ochatctl bench list`")
    if head["version"] > VERSION:
        raise DataError(
            f"{where}: version {head['version']} of `{FORMAT}`, and this ochatctl reads up to {VERSION}",
            hint="pip install -U ochatctl",
        )
    return {key: value for key, value in head.items() if key not in ("format", "version")}


def comparable(results: Iterable[Result]) -> str:
    """Give what forbids comparing results with each other, or nothing."""
    several = list(results)
    for name in ("suite", "measure", "judge", "protocol"):
        values = [getattr(result, name) for result in several]
        if any(value != values[0] for value in values):
            return f"{name} differs: " + ", ".join(f"`{_shown(value)}`" for value in values)
    return ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
