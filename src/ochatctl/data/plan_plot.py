"""Draw a plan: how long the rows are, and how full its steps."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ochatctl.data.bins import Ints
from ochatctl.data.packing import Plan
from ochatctl.errors import UsageProblem
from ochatctl.extras import require
from ochatctl.files import atomic_file

FORMATS = ("png", "svg", "pdf")

_BLUE, _ORANGE, _GREY = "#3b6ea8", "#d9822b", "#777777"
_NUM_BARS = 60
_MOST_STEPS = 2000


def plot_plan(path: Path, plan: Plan, lengths: Ints, *, step_tokens: int) -> None:
    """Write a picture of the lengths and of the steps' fill; `step_tokens` is what a step can hold.

    Raises:
        UsageProblem: no format of that name.
        MissingExtra: matplotlib is not installed.
    """
    check_format(path)
    figure = require("matplotlib.figure", extra="plot").Figure(figsize=(9, 7), layout="constrained")
    rows_axis, fill_axis = figure.subplots(2)
    _draw_lengths(rows_axis, lengths)
    _draw_fill(fill_axis, plan.step_tokens(lengths) / step_tokens)
    with atomic_file(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=150)


def check_format(path: Path) -> None:
    """Refuse a picture that cannot be written.

    Raises:
        UsageProblem: no format of that name.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise UsageProblem(
            f"`{path}` is no picture that can be written",
            hint=f"`--plot {path.stem}.png`, or {', '.join(FORMATS[1:])}",
        )


def _draw_lengths(axis: Any, lengths: Ints) -> None:
    """Bars of rows by length, and over them the share of all tokens in rows up to that length."""
    longest = int(lengths.max())
    edges = np.linspace(0, longest, min(_NUM_BARS, longest) + 1)
    axis.hist(lengths, bins=edges, color=_BLUE)
    axis.set_xlim(0, longest)
    axis.set_xlabel("length of a row, tokens")
    axis.set_ylabel("rows", color=_BLUE)
    axis.set_title(
        f"{len(lengths):,} rows, {int(lengths.sum()):,} tokens: mean {lengths.mean():,.0f}, "
        f"median {np.median(lengths):,.0f}, longest {longest:,}",
        loc="left",
    )
    share_axis = axis.twinx()
    ordered = np.sort(lengths)
    share_axis.plot(ordered, np.cumsum(ordered) / ordered.sum() * 100, color=_ORANGE)
    share_axis.set_ylim(0, 100)
    share_axis.set_ylabel("tokens in rows up to that length, %", color=_ORANGE)


def _draw_fill(axis: Any, fill_S: npt.NDArray[np.float64]) -> None:
    """A dot a step, or of each of many groups of steps the emptiest and the fullest."""
    percent = fill_S * 100
    at = np.arange(1, len(percent) + 1)
    if len(percent) > _MOST_STEPS:
        starts = np.linspace(0, len(percent), _MOST_STEPS, endpoint=False).astype(np.int64)
        low, high = np.minimum.reduceat(percent, starts), np.maximum.reduceat(percent, starts)
        axis.vlines(at[starts], low, high, color=_BLUE)
    else:
        axis.plot(at, percent, ".", color=_BLUE, markersize=4)
    axis.margins(x=0.01)
    axis.axhline(percent.mean(), color=_GREY, linewidth=0.8)
    # Most plans fill more than 98 %, where a scale from 0 would show a straight line.
    lowest = float(percent.min())
    axis.set_ylim(max(0.0, min(95.0, lowest - 2)), 100.5)
    axis.set_xlabel("step")
    axis.set_ylabel("tokens of a step, % of what it holds")
    axis.set_title(
        f"{len(percent):,} steps: mean {percent.mean():.2f} %, emptiest {lowest:.2f} %, fullest {percent.max():.2f} %",
        loc="left",
    )
