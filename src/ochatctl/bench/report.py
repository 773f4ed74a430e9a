"""Answers in a journal -> scores by task, with their noise and with what could not be scored counted beside them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ochatctl.bench.journal import Record
from ochatctl.bench.task import Score, Task, grade

FORMAT = "ochatctl.bench.report"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """One line of the report. Errors and questions not asked stand outside the score: they are no answers.

    Units: `score` and `standard_error` are ratios, over right, wrong and unmatched answers; None where there is none,
    or too few to tell the noise.
    """

    task: str
    num_items: int
    num_right: int
    num_wrong: int
    num_unmatched: int
    num_errors: int
    num_unasked: int
    score: float | None
    standard_error: float | None
    num_prompt_tokens: int
    num_answer_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The scores of one run; `overall` counts every item once, so a large task weighs more."""

    model: str
    journal: Path
    tasks: tuple[TaskReport, ...]
    overall: TaskReport
    errors: tuple[str, ...]
    format: str = FORMAT
    version: int = VERSION


def make_report(tasks: Sequence[Task], records: Iterable[Record], *, model: str, journal: Path) -> Report:
    """Grade what was answered and count the rest."""
    by_id = {record.id: record for record in records}
    items = [item for task in tasks for item in task.items]
    errors = [f"{item.id}: {by_id[item.id].error}" for item in items if item.id in by_id and by_id[item.id].error]
    return Report(
        model=model,
        journal=journal,
        tasks=tuple(_task_report(task.name, [task], by_id) for task in tasks),
        overall=_task_report("all", tasks, by_id),
        errors=tuple(errors),
    )


def _task_report(name: str, tasks: Sequence[Task], by_id: Mapping[str, Record]) -> TaskReport:
    items = [item for task in tasks for item in task.items]
    records = [by_id[item.id] for item in items if item.id in by_id]
    scores: list[Score] = [
        grade(item, text) for item in items if item.id in by_id and (text := by_id[item.id].text) is not None
    ]
    num_right = sum(score.right for score in scores)
    num_unmatched = sum(not score.answer.matched for score in scores)
    mean = num_right / len(scores) if scores else None
    return TaskReport(
        task=name,
        num_items=len(items),
        num_right=num_right,
        num_wrong=len(scores) - num_right - num_unmatched,
        num_unmatched=num_unmatched,
        num_errors=sum(record.text is None for record in records),
        num_unasked=len(items) - len(records),
        score=mean,
        # The sample's standard deviation over the root of its size.
        standard_error=math.sqrt(mean * (1 - mean) / (len(scores) - 1))
        if mean is not None and len(scores) > 1
        else None,
        num_prompt_tokens=sum(record.num_prompt_tokens for record in records),
        num_answer_tokens=sum(record.num_answer_tokens for record in records),
    )
