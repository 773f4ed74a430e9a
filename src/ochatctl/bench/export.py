"""Scored runs as JSON, CSV, Markdown and one HTML page that needs nothing beside it.

in: Results, out: text
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ochatctl.bench.anchors import Anchor, anchors_of, is_same_judge
from ochatctl.bench.charts import bars, full, radar
from ochatctl.bench.noise import Difference
from ochatctl.bench.results import Result, comparable
from ochatctl.bench.summary import Comparison, Part, Summary, compare, shown, summarise
from ochatctl.errors import DataError

COLUMNS = ("part", "score", "95 % interval", "questions", "unmatched", "unreadable", "errors", "unasked")
DIFFERENCE_COLUMNS = ("part", "first", "second", "difference", "95 % interval", "questions", "")
_TEMPLATE = Path(__file__).with_name("page.html")


def rows(summary: Summary) -> list[tuple[str, ...]]:
    """Give a summary's lines as a person reads them: over all, by turn, by suite, by category or task."""
    return [_row(part, summary.unit) for part in _parts(summary)]


def difference_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Give the lines of two runs side by side, with their paired differences: over all, by suite, by group."""
    first, second = comparison.first, comparison.second
    named = {part.name: part for part in (*second.suites, *second.groups)}
    found = comparison.suites | comparison.groups
    groups = first.groups if len(first.groups) > 1 else ()
    return [
        _difference_row(first.overall, second.overall, comparison.overall, first.unit),
        *(_difference_row(one, named.get(one.name), found[one.name], first.unit) for one in (*first.suites, *groups)),
    ]


def published_table(result: Result) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """Give columns, rows and a line about published scores; the run stands in their column only under their judge."""
    found = anchors_of(result)
    if not found:
        return (), [], ""
    summary, published = summarise(result), f"judged by {found[0].judge}, published"
    own = shown(summary.overall.estimate.value, summary.unit)
    about = f"published by others: {found[0].about}; source: {found[0].source}"
    lines = [(anchor.model, shown(anchor.value, summary.unit), anchor.note) for anchor in found]
    this = f"{result.model} (this run)"
    if is_same_judge(result, found[0]):
        return ("model", published, "note"), [(this, own, ""), *lines], about
    columns = ("model", published, f"judged by {result.judge or 'nobody'}", "note")
    apart: list[tuple[str, ...]] = [(name, value, "", note) for name, value, note in lines]
    return columns, [(this, "", own, ""), *apart], f"{about}; not comparable with another judge's scores"


def to_json(results: Sequence[Result]) -> str:
    """Give the summaries as a JSON list."""
    return json.dumps([asdict(summarise(result)) for result in results], indent=2, ensure_ascii=False) + "\n"


def to_csv(results: Sequence[Result]) -> str:
    """Give one line a run and part, with plain numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    estimates = ("value", "standard_error", "low", "high", "num_questions")
    counts = ("num_unmatched", "num_unreadable", "num_errors", "num_unasked")
    writer.writerow(("suite", "model", "judge", "measure", "unit", "part", *estimates, *counts))
    for result in results:
        summary = summarise(result)
        for part in _parts(summary):
            names = (summary.suite, summary.model, summary.judge, summary.measure, summary.unit, part.name)
            numbers = [getattr(part.estimate, name) for name in estimates] + [getattr(part, name) for name in counts]
            writer.writerow([*names, *numbers])
    return text.getvalue()


def to_markdown(results: Sequence[Result]) -> str:
    """Give a heading and a table a run."""
    return "\n".join(_markdown(summarise(result)) for result in results)


def to_html(results: Sequence[Result]) -> str:
    """Give one self-contained page: scores, radar, bars, published scores, the difference of two, all transcripts.

    Guarantees: no text of a model, a judge or a question is markup or script in it; it loads nothing.
    """
    from jinja2 import Environment, StrictUndefined

    summaries = [summarise(result) for result in results]
    alike = not comparable(results)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update({"shown": shown, "full": full, "bars": bars})
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        title=" and ".join(dict.fromkeys(f"{summary.model} on {summary.suite}" for summary in summaries)),
        summaries=summaries,
        columns=COLUMNS,
        rows=[rows(summary) for summary in summaries],
        radar=radar(summaries) if alike else None,
        comparison=_comparison(results) if alike and len(results) == 2 else None,
        anchors=_anchors(results),
        # In a script element only `<` could end it.
        data=json.dumps([_page_data(result) for result in results], ensure_ascii=False).replace("<", "\\u003c"),
    )


FORMATS: dict[str, Callable[[Sequence[Result]], str]] = {
    ".json": to_json,
    ".csv": to_csv,
    ".md": to_markdown,
    ".html": to_html,
}


def difference_line(comparison: Comparison) -> str:
    """Say in a sentence what two runs differ by, and whether that is noise."""
    found, unit = comparison.overall, comparison.first.unit
    sign = "+" if found.value > 0 else ""
    names = [comparison.second.model, comparison.first.model]
    if names[0] == names[1]:
        names = ["the second run", "the first"]
    text = (
        f"{names[0]} - {names[1]}: {sign}{shown(found.value, unit)} "
        f"[{shown(found.low, unit)}, {shown(found.high, unit)}] over {found.num_questions} questions"
    )
    left_out = f" ({found.num_left_out} more are not scored alike in both)" if found.num_left_out else ""
    verdict = "this is noise, for the interval holds zero" if found.is_noise else "more than noise"
    return f"{text}{left_out}: {verdict}"


def _comparison(results: Sequence[Result]) -> Comparison | None:
    try:
        return compare(results[0], results[1])
    except DataError:  # no question in common
        return None


def _anchors(results: Sequence[Result]) -> list[tuple[Anchor, bool]]:
    """Give the published scores of the first run's benchmark, and whether its judge is theirs."""
    return [(anchor, is_same_judge(results[0], anchor)) for anchor in anchors_of(results[0])]


def _page_data(result: Result) -> dict[str, Any]:
    return {"model": result.model, "unit": result.unit, "questions": [asdict(one) for one in result.questions]}


def _parts(summary: Summary) -> tuple[Part, ...]:
    groups = summary.groups if len(summary.groups) > 1 else ()
    return (summary.overall, *summary.turns, *summary.suites, *groups)


def _row(part: Part, unit: str) -> tuple[str, ...]:
    found = part.estimate
    interval = "-" if found.low is None else f"{shown(found.low, unit)} to {shown(found.high, unit)}"
    counts = (found.num_questions, part.num_unmatched, part.num_unreadable, part.num_errors, part.num_unasked)
    return (part.name, shown(found.value, unit), interval, *map(str, counts))


def _difference_row(first: Part, second: Part | None, found: Difference | None, unit: str) -> tuple[str, ...]:
    if found is None:
        values = [shown(part.estimate.value if part else None, unit) for part in (first, second)]
        return (first.name, *values, "-", "-", "-", "too few questions")
    # Over the questions of both: the difference is theirs.
    values = [shown(value, unit) for value in (found.first, found.second)]
    interval = f"{shown(found.low, unit)} to {shown(found.high, unit)}"
    verdict = "noise" if found.is_noise else "more than noise"
    return (first.name, *values, shown(found.value, unit), interval, str(found.num_questions), verdict)


def _markdown(summary: Summary) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    judged = f", judged by {summary.judge}" if summary.judge else ""
    notes = [f"- {note}" for note in summary.notes]
    return "\n".join(
        [
            f"## {summary.model} on {summary.suite}{judged}",
            "",
            line((COLUMNS[0], f"{summary.measure} ({_unit(summary.unit)})", *COLUMNS[2:])),
            line(["---"] * len(COLUMNS)),
            *(line(row) for row in rows(summary)),
            "",
            *([*notes, ""] if notes else []),
        ]
    )


def _unit(unit: str) -> str:
    return "%" if unit == "ratio" else "of 10"
