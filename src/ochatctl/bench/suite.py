"""Tasks with known answers, from the questions to the report.

in: names of suites and task files, and a target, out: `journal.jsonl`, `report.json` and `questions.jsonl` in the
run's folder
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ochatctl.bench.answers_compat import NAME as COMPAT
from ochatctl.bench.journal import Record
from ochatctl.bench.report import Report, make_report
from ochatctl.bench.results import ACCURACY, Line, Question, Result, Status, write_result
from ochatctl.bench.run import RunConfig, run_dialogues
from ochatctl.bench.runner import Dialogue, Watch
from ochatctl.bench.select import select
from ochatctl.bench.subset import allocate, draw
from ochatctl.bench.task import Item, Task, grade
from ochatctl.config import to_table
from ochatctl.engine.client import Ask
from ochatctl.errors import UsageProblem
from ochatctl.files import write_json

REPORT_NAME = "report.json"


def run_suite(
    tasks: Sequence[str | Path],
    config: RunConfig,
    watch: Watch,
    *,
    subset: int | None = None,
    as_ochat: bool = False,
) -> Report:
    """Ask every item once, at temperature 0, and grade the answers.

    `limit` takes the first items of each task; `subset` draws so many of all tasks together, each task its share, and
    the scores are then those of all items, with the noise of not having asked the rest. `as_ochat` asks without stop
    strings and token limits, as ochat 3.2.2 did.

    Guarantees: a run that was killed and started again ends in the same report, where the answers are deterministic. A
    larger `limit` or `subset` asks only what a smaller one has not.

    Raises:
        UsageProblem: the journal in `out_dir` belongs to other tasks or settings.
        DataError: a suite's data are not here.
        RemoteError, RunError: nothing answers.
    """
    if subset is not None and config.limit is not None:
        raise UsageProblem("`--subset` draws from all questions, and `--limit` takes the first: give one of them")
    selection = select([str(task) for task in tasks])
    for text in selection.notes:
        watch.note(text)
    whole = selection.tasks
    asked = _drawn(whole, subset, config.seed) if subset is not None else [_first(task, config.limit) for task in whole]
    content = {"tasks": {task.name: task.digest for task in whole}} | ({"asked": COMPAT} if as_ochat else {})
    # Task by task, so that an engine's prefix cache serves the prompts of one.
    dialogues = [_dialogue(item, task, as_ochat=as_ochat) for task in asked for item in task.items]
    run = asyncio.run(run_dialogues("suite", content, dialogues, config, watch))
    report = make_report(
        asked,
        run.records,
        model=run.model,
        journal=run.journal,
        full_sizes={task.name: len(task.items) for task in whole} if subset is not None else None,
    )
    write_json(run.out_dir / REPORT_NAME, to_table(report))
    write_result(run.out_dir, _result(asked, run.records, report, as_ochat=as_ochat))
    return report


def _first(task: Task, limit: int | None) -> Task:
    return replace(task, items=task.items[:limit])


def _drawn(tasks: Sequence[Task], subset: int, seed: int) -> list[Task]:
    counts = allocate([len(task.items) for task in tasks], subset)
    return [
        replace(
            task, items=tuple(task.items[place] for place in draw([item.id for item in task.items], count, seed=seed))
        )
        for task, count in zip(tasks, counts, strict=True)
    ]


def _dialogue(item: Item, task: Task, *, as_ochat: bool) -> Dialogue:
    ask = Ask(temperature=0.0, stop=() if as_ochat else task.stop, max_tokens=None if as_ochat else task.max_tokens)
    return Dialogue(id=item.id, turns=(item.prompt,), ask=ask)


def _result(tasks: Sequence[Task], records: Sequence[Record], report: Report, *, as_ochat: bool) -> Result:
    by_id = {record.id: record for record in records}
    return Result(
        suite="suite",
        model=report.model,
        measure=ACCURACY,
        unit="ratio",
        questions=tuple(_question(item, task, by_id) for task in tasks for item in task.items),
        protocol={"asked": COMPAT} if as_ochat else {},
        full_sizes={line.task: line.num_full for line in report.tasks} if report.is_subset else {},
        notes=_notes(report),
        num_prompt_tokens=report.overall.num_prompt_tokens,
        num_answer_tokens=report.overall.num_answer_tokens,
        seconds=report.timing.seconds,
    )


def _notes(report: Report) -> tuple[str, ...]:
    if not report.is_subset:
        return ()
    return (
        f"{report.overall.num_items:,} of {report.overall.num_full:,} questions, drawn: the scores are estimates of"
        " them all, in which each task weighs as many questions as it has",
    )


def _question(item: Item, task: Task, by_id: Mapping[str, Record]) -> Question:
    record = by_id.get(item.id)
    asked = Line(role="user", text=_own_part(item.prompt, task))
    reference = Line(role="reference", text=" or ".join(item.labels))
    if record is None or record.text is None:
        status: Status = "unasked" if record is None else "error"
        return Question(id=item.id, group=task.name, scores={}, status=status, transcript=(asked, reference))
    score = grade(item, record.text)
    return Question(
        id=item.id,
        group=task.name,
        scores={"1": float(score.right)},
        status="scored" if score.answer.matched else "unmatched",
        transcript=(asked, Line(role="assistant", text=record.text), reference),
    )


def _own_part(prompt: str, task: Task) -> str:
    """Leave out the worked examples, which are the same for every question of a task."""
    places = [prompt.rfind(stop) for stop in task.stop]
    return f"[...]{prompt[max(places) :]}" if places and max(places) > 0 else prompt
