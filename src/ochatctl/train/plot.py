"""`ochatctl plot`: `metrics.jsonl` of one or more runs -> one PNG of loss, learning rate, gradient and throughput."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.errors import DataError
from ochatctl.extras import require
from ochatctl.files import atomic_file
from ochatctl.train.records import METRICS_FILE, METRICS_FORMAT, METRICS_VERSION

# About as many points as a panel is wide; the mean over a fiftieth of a run shows its trend.
_TREND_RATIO = 1 / 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """The steps of a run, one dict each; `evals` are the lines that hold an `eval_loss`."""

    name: str
    steps: list[dict[str, Any]]
    evals: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlotResult:
    """What was drawn."""

    path: Path
    runs: dict[str, int]


def read_metrics(run_dir: Path) -> Metrics:
    """Read a run's metrics; a last line that is cut off is left out, since a run may be writing it.

    Raises:
        DataError: no such file, not ours, or written by a newer version.
    """
    path = run_dir / METRICS_FILE if run_dir.is_dir() else run_dir
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file", hint="give the folder that `ochatctl train --out` was given"
        ) from error
    steps, evals = [], []
    for number, line in enumerate(lines, start=1):
        try:
            table = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}:{number}: not valid JSON") from error
        if number == 1:
            _check_header(path, table)
        elif "eval_loss" in table:
            evals.append(table)
        elif "loss" in table:
            steps.append(table)
    if not steps:
        raise DataError(f"{path}: no step has been taken yet", hint="try again when the run has taken one")
    return Metrics(name=str(run_dir), steps=steps, evals=evals)


def plot_runs(run_dirs: Sequence[Path], out_path: Path) -> PlotResult:
    """Draw runs over each other.

    Raises:
        DataError: as `read_metrics`.
        MissingExtra: matplotlib is not installed.
    """
    runs = [read_metrics(run_dir) for run_dir in run_dirs]
    require("matplotlib", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), dpi=120, layout="constrained")
    loss, lr, norm, speed = figure.subplots(2, 2, sharex=True).ravel()
    for number, run in enumerate(runs):
        colour = f"C{number}"
        steps = [table["step"] for table in run.steps]
        losses = _values(run.steps, "loss")
        loss.plot(steps, losses, color=colour, alpha=0.3, linewidth=0.8)
        loss.plot(steps, _trend(losses), color=colour, linewidth=1.8, label=run.name)
        if run.evals:
            points = [table["step"] for table in run.evals]
            loss.plot(
                points, _values(run.evals, "eval_loss"), "o--", color=colour, markersize=4, label=f"{run.name} eval"
            )
        lr.plot(steps, _values(run.steps, "lr"), color=colour)
        norm.plot(steps, _values(run.steps, "grad_norm"), color=colour, linewidth=0.8)
        rates = _values(run.steps, "tokens_per_second")
        speed.plot(steps, rates, color=colour, alpha=0.3, linewidth=0.8)
        speed.plot(steps, _trend(rates), color=colour, linewidth=1.8)
    titles = {
        loss: "loss",
        lr: "learning rate",
        norm: "gradient norm, before clipping",
        speed: "tokens/s, over all ranks",
    }
    for panel, title in titles.items():
        panel.set_title(title, loc="left", fontsize=10)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in (norm, speed):
        panel.set_xlabel("step")
        panel.set_ylim(bottom=0)
    lr.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    loss.legend(frameon=False, fontsize=9)
    with atomic_file(out_path) as part, part.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)
    return PlotResult(path=out_path, runs={run.name: len(run.steps) for run in runs})


def _check_header(path: Path, table: Any) -> None:
    if not isinstance(table, dict) or table.get("format") != METRICS_FORMAT:
        raise DataError(f"{path}: not a file of metrics of ours")
    if not isinstance(table.get("version"), int) or table["version"] > METRICS_VERSION:
        raise DataError(
            f"{path}: metrics version {table.get('version')}, and this ochatctl reads up to {METRICS_VERSION}",
            hint="pip install -U ochatctl",
        )


def _values(tables: list[dict[str, Any]], key: str) -> list[float]:
    return [float("nan") if table.get(key) is None else float(table[key]) for table in tables]


def _trend(values: list[float]) -> list[float]:
    """Give the exponential mean, without the pull towards its first value."""
    keep = 1 - 1 / max(1.0, len(values) * _TREND_RATIO)
    trend, mean, weight = [], 0.0, 0.0
    for value in values:
        if value == value:  # a value that is no number leaves the trend where it is
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        trend.append(mean / weight if weight else value)
    return trend
