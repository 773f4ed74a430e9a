"""Drawings of a result as SVG: a radar over categories, and bars with their intervals.

in: names and values, out: coordinates that `page.html` draws; nothing here writes markup
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ochatctl.bench.summary import Part, Summary

_RADIUS = 100.0
_LABEL_RADIUS = 112.0
_RINGS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A spoke of the radar: its end, and where and how its name stands."""

    name: str
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Radar:
    """A radar in a square from -100 to 100: rings and outlines as `points` of SVG polygons, an outline a summary."""

    axes: tuple[Axis, ...]
    rings: tuple[str, ...]
    outlines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A bar and the interval on it. Units: percent of the bar's room."""

    name: str
    width: float
    low: float | None
    high: float | None


def full(unit: str) -> float:
    """Give the best score there is: MT-bench's points end at 10."""
    return 10.0 if unit == "points" else 1.0


def radar(summaries: Sequence[Summary]) -> Radar | None:
    """Give a radar over the suites or groups of the first summary; fewer than three make none."""
    names = [part.name for part in summaries[0].at_a_glance]
    if len(names) < 3:
        return None
    turns = [_direction(index, len(names)) for index in range(len(names))]
    return Radar(
        axes=tuple(_axis(name, x, y) for name, (x, y) in zip(names, turns, strict=True)),
        rings=tuple(_points(turns, [ring] * len(names)) for ring in _RINGS),
        outlines=tuple(_points(turns, [_share(summary, name) for name in names]) for summary in summaries),
    )


def bars(parts: Sequence[Part], unit: str) -> tuple[Bar, ...]:
    """Give a bar for each part; one without a score is empty."""
    return tuple(
        Bar(
            name=part.name,
            width=_percent(part.estimate.value or 0.0, unit),
            low=None if part.estimate.low is None else _percent(part.estimate.low, unit),
            high=None if part.estimate.high is None else _percent(part.estimate.high, unit),
        )
        for part in parts
    )


def _percent(value: float, unit: str) -> float:
    return round(100 * min(max(value / full(unit), 0.0), 1.0), 2)


def _direction(index: int, count: int) -> tuple[float, float]:
    """Give the unit vector of an axis; the first points up, the rest follow clockwise."""
    angle = 2 * math.pi * index / count
    return math.sin(angle), -math.cos(angle)


def _axis(name: str, x: float, y: float) -> Axis:
    return Axis(
        name=name,
        x=round(_RADIUS * x, 2),
        y=round(_RADIUS * y, 2),
        label_x=round(_LABEL_RADIUS * x, 2),
        label_y=round(_LABEL_RADIUS * y, 2),
        anchor="middle" if abs(x) < 0.1 else "start" if x > 0 else "end",
    )


def _points(turns: Sequence[tuple[float, float]], shares: Sequence[float]) -> str:
    return " ".join(
        f"{_RADIUS * share * x:.2f},{_RADIUS * share * y:.2f}" for (x, y), share in zip(turns, shares, strict=True)
    )


def _share(summary: Summary, name: str) -> float:
    value = next((part.estimate.value for part in summary.at_a_glance if part.name == name), None)
    return _percent(value or 0.0, summary.unit) / 100
