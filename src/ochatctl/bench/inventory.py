"""What there is to benchmark with: data sets, here or not yet, and the runs that were made."""

from dataclasses import dataclass
from pathlib import Path

from ochatctl.bench.datasets import DATASETS, has_data
from ochatctl.bench.journal import FILE_NAME as JOURNAL_NAME
from ochatctl.bench.results import FILE_NAME, read_result
from ochatctl.bench.run import RUNS_DIR
from ochatctl.bench.summary import shown, summarise
from ochatctl.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetLine:
    """A data set, and whether it was downloaded."""

    name: str
    about: str
    source: str
    licence: str
    is_here: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLine:
    """A scored run; `score` is as it is shown, with its unit."""

    path: Path
    suite: str
    model: str
    judge: str
    score: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """Both. `unscored` runs have answers and no score yet; `num_unreadable` are damaged, or of a newer version."""

    datasets: tuple[DatasetLine, ...]
    runs: tuple[RunLine, ...]
    unscored: tuple[Path, ...]
    num_unreadable: int


def inventory(runs_dir: Path = RUNS_DIR) -> Inventory:
    """Look at the data sets' cache, and at the scored runs below a folder, the newest last."""
    runs, num_unreadable = [], 0
    for path in sorted(runs_dir.glob(f"*/{FILE_NAME}"), key=lambda file: file.stat().st_mtime):
        try:
            summary = summarise(read_result(path))
        except DataError:
            num_unreadable += 1
            continue
        value = shown(summary.overall.estimate.value, summary.unit)
        runs.append(
            RunLine(
                path=path.parent,
                suite=summary.suite,
                model=summary.model,
                judge=summary.judge,
                score=f"{value} %" if summary.unit == "ratio" else f"{value} of 10",
            )
        )
    datasets = tuple(
        DatasetLine(name=one.name, about=one.about, source=one.source, licence=one.licence, is_here=has_data(one.name))
        for one in DATASETS.values()
    )
    begun = sorted(journal.parent for journal in runs_dir.glob(f"*/{JOURNAL_NAME}"))
    unscored = tuple(run for run in begun if not (run / FILE_NAME).exists())
    return Inventory(datasets=datasets, runs=tuple(runs), unscored=unscored, num_unreadable=num_unreadable)
