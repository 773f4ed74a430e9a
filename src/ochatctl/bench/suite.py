"""Tasks with known answers, from the questions to the report.

in: task files and a target, out: `journal.jsonl` and `report.json` in the run's folder
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ochatctl.bench.report import Report, make_report
from ochatctl.bench.run import RunConfig, run_dialogues
from ochatctl.bench.runner import Dialogue, Watch
from ochatctl.bench.task import Task, read_task
from ochatctl.config import to_table
from ochatctl.engine.client import Ask
from ochatctl.errors import UsageProblem
from ochatctl.files import write_json

REPORT_NAME = "report.json"


def run_suite(task_paths: Sequence[Path], config: RunConfig, watch: Watch) -> Report:
    """Ask every item once, at temperature 0, and grade the answers; `limit` takes the first items of each task.

    Guarantees: a run that was killed and started again ends in the same report, where the answers are deterministic.

    Raises:
        UsageProblem: the journal in `out_dir` belongs to other tasks or settings.
        RemoteError, RunError: nothing answers.
    """
    tasks = read_tasks(task_paths)
    asked = [replace(task, items=task.items[: config.limit]) for task in tasks]
    # Task by task, so that an engine's prefix cache serves the prompts of one.
    dialogues = [
        Dialogue(id=item.id, turns=(item.prompt,), ask=Ask(temperature=0.0, stop=task.stop))
        for task in asked
        for item in task.items
    ]
    content = {"tasks": {task.name: task.digest for task in tasks}}
    run = asyncio.run(run_dialogues("suite", content, dialogues, config, watch))
    report = make_report(asked, run.records, model=run.model, journal=run.journal)
    write_json(run.out_dir / REPORT_NAME, to_table(report))
    return report


def read_tasks(paths: Sequence[Path]) -> tuple[Task, ...]:
    """Read task files; a report tells them apart by name.

    Raises:
        UsageProblem: two of one name.
        DataError: names `file:line`.
    """
    tasks = tuple(read_task(path) for path in paths)
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UsageProblem(f"two tasks are called `{name}`", hint="rename one of the files")
    return tasks
