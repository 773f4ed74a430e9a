"""Published scores of other models: data with their sources, shown in a column of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.bench.results import Result
from ochatctl.config import read_toml

_FILE = Path(__file__).with_name("anchors.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """One published score. Units: as `Result.unit` of its benchmark says, a ratio or points."""

    benchmark: str
    model: str
    value: float
    judge: str
    about: str
    source: str
    note: str = ""


def anchors(benchmark: str | None = None) -> tuple[Anchor, ...]:
    """Give the published scores of one benchmark (`alpacaeval`, `mtbench-single`, `mtbench-pairwise`) or of all."""
    data = read_toml(_FILE)
    notes = data["notes"]
    tables = {name: table for name, table in data.items() if name not in ("sources", "notes")}
    return tuple(
        _anchor(name, model, value, table, data["sources"], notes.get(model, ""))
        for name, table in tables.items()
        if benchmark in (None, name)
        for model, value in table["values"].items()
    )


def anchors_of(result: Result) -> tuple[Anchor, ...]:
    """Give the scores that stand beside a result as a record of what was published, the best first."""
    mode = result.protocol.get("mode", "single")
    name = f"mtbench-{mode}" if result.suite == "mtbench" else result.suite
    if name == "alpacaeval" and result.protocol.get("annotator", "alpaca_eval_gpt4") != "alpaca_eval_gpt4":
        return ()
    return tuple(sorted(anchors(name), key=lambda anchor: -anchor.value))


def is_same_judge(result: Result, anchor: Anchor) -> bool:
    """Tell whether a result may be read against a published score: the very judge that gave it."""
    return result.judge == anchor.judge


def _anchor(
    name: str, model: str, value: float, table: Mapping[str, Any], sources: Mapping[str, str], note: str
) -> Anchor:
    # A note speaks of one number: it goes with the benchmark that it names.
    named = {"alpacaeval": "AlpacaEval", "mtbench-single": "MT-bench", "mtbench-pairwise": "pairwise"}[name]
    return Anchor(
        benchmark=name,
        model=model,
        value=value if name == "mtbench-single" else value / 100,
        judge=table["judge"],
        about=table["about"],
        source=sources[table["source"]],
        note=note if named in note else "",
    )
