"""`--tasks gsm8k,bbh/date_understanding,mine.jsonl` -> the tasks to ask.

in: names of suites, of parts of them, and files of the user's, out: tasks, in that order, each once
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ochatctl.bench.datasets import data_dir, has_data
from ochatctl.bench.suite_spec import Suite, read_suite_file, suite_files
from ochatctl.bench.suites import agieval, bbh, bbh_mc, gsm8k, mmlu, truthfulqa
from ochatctl.bench.task import Task, read_task
from ochatctl.config import did_you_mean
from ochatctl.errors import DataError, UsageProblem

SUITES: Mapping[str, Suite] = {
    module.SUITE.name: module.SUITE for module in (gsm8k, bbh, agieval, truthfulqa, bbh_mc, mmlu)
}
# What OpenChat calls its vLLM Eval.
OPENCHAT = "openchat"
_TAKES = (
    f"`--tasks` takes {', '.join((*SUITES, OPENCHAT))}, a part such as `bbh/date_understanding`, and FILE.jsonl"
    ' of rows {"question", "label"[, "options"]}'
)
_OPENCHAT_SUITES = ("agieval", "bbh_mc", "truthfulqa", "bbh", "gsm8k")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The tasks, and what the user should know of them."""

    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = ()


def names(given: Sequence[str]) -> tuple[str, ...]:
    """Split `--tasks` at its commas; `openchat` is its whole suite."""
    found = [name.strip() for text in given for name in text.split(",") if name.strip()]
    return tuple(part for name in found for part in (_OPENCHAT_SUITES if name == OPENCHAT else (name,)))


def missing_data(given: Sequence[str]) -> tuple[str, ...]:
    """Give the data sets that must be here for these names, and are not.

    Raises:
        UsageProblem: a name that is no suite's, or no name at all.
        DataError: no such file.
    """
    if not names(given):
        raise UsageProblem("`--tasks` is missing: the questions to ask", hint=f"--tasks {OPENCHAT}")
    for name in names(given):
        if name.endswith(".jsonl") and not Path(name).exists():
            raise DataError(f"{name}: no such file", hint=_TAKES)
    suites = {_suite(name).dataset: None for name in names(given) if not _is_file(name)}
    return tuple(name for name in suites if not has_data(name))


def select(given: Sequence[str]) -> Selection:
    """Read the tasks that were named.

    Raises:
        UsageProblem: no such suite, or two files of one name.
        DataError: no such part of a suite, its data are not here, or a malformed file.
    """
    tasks: dict[str, Task] = {}
    origins: dict[str, str] = {}
    notes: dict[str, None] = {}
    for name in names(given):
        found, said = ((read_task(Path(name)),), ()) if _is_file(name) else _tasks(name)
        notes |= dict.fromkeys(said)
        for task in found:
            if task.name in tasks and (_is_file(name) or not task.suite):
                raise UsageProblem(f"two tasks are called `{task.name}`", hint="rename one of the files")
            tasks[task.name] = task
            origins[task.name] = name
    return Selection(tasks=tuple(tasks.values()), notes=tuple(notes))


def _is_file(name: str) -> bool:
    return name.endswith(".jsonl") or Path(name).is_file()


def _suite(name: str) -> Suite:
    first = name.partition("/")[0]
    if Path(name).is_dir():
        raise UsageProblem(f"`{name}` is a folder, and `--tasks` takes names and files", hint=f"{name}/FILE.jsonl")
    if first not in SUITES:
        known = [*SUITES, OPENCHAT]
        raise UsageProblem(
            f"no suite and no file `{name}`{did_you_mean(first, known)}",
            hint=_TAKES,
        )
    return SUITES[first]


def _tasks(name: str) -> tuple[tuple[Task, ...], tuple[str, ...]]:
    suite = _suite(name)
    wanted = name.partition("/")[2]
    tasks = [read_suite_file(suite, path) for path in suite_files(suite)]
    absent = []
    for extra, read in suite.extra.items():
        if has_data(extra):
            tasks.append(read(suite, data_dir(extra)))
        else:
            absent.append(extra)
    if not wanted:
        said = tuple(
            f"{suite.name} is asked without {extra}, which is licensed apart: `ochatctl bench download {extra}`"
            for extra in absent
        )
        return tuple(tasks), said
    parts = {task.name.removeprefix(f"{suite.name}/"): task for task in tasks}
    if wanted in parts:
        return (parts[wanted],), ()
    for extra in absent:
        if wanted.startswith(extra):
            data_dir(extra)
    raise DataError(
        f"`{suite.name}` has no part `{wanted}`{did_you_mean(wanted, parts)}", hint=f"it has {', '.join(parts)}"
    )
