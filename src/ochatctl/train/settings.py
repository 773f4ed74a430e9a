"""Defaults, a preset, `--set` and flags -> one request: each later one wins, and each value's source is kept.

in: what was typed, out: TrainRequest
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ochatctl.config import build
from ochatctl.presets import leaves, load_preset, merge, read_set
from ochatctl.train.request import FLAG_KEYS, Base, TrainRequest


def read_request(
    *, preset: str | None = None, sets: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> TrainRequest:
    """Merge what was typed; `flags` are those given on the command line, by their names.

    Raises:
        ConfigError: an unknown key or preset, or a value of another type; names where it stands.
    """
    tables: list[tuple[str, Mapping[str, Any]]] = []
    if preset is not None:
        tables.append((f"preset {preset}", load_preset(preset, command="train").table))
    for text in sets:
        tables.append(("--set", read_set(text)[1]))
    for source, table in tables:
        build(TrainRequest, table, where=source)
    request = build(TrainRequest, merge([table for _, table in tables]), where="preset and `--set`")
    sources = {key: source for source, table in tables for key in leaves(table)}
    typed = {name: value for name, value in (flags or {}).items() if value is not None}
    for name, value in typed.items():
        key = FLAG_KEYS.get(name, name)
        flag = "--" + name.replace("_", "-")
        _, table = read_set(f"{key}=0")
        tables.append((flag, _put(table, value)))
        sources[key] = flag
    base = Base(preset=preset, sets=tuple(sets), request=request, sources=sources)
    whole = build(TrainRequest, merge([table for _, table in tables]), where="`ochatctl train`")
    return replace(whole, base=base)


def _put(table: Mapping[str, Any], value: Any) -> dict[str, Any]:
    return {key: _put(inner, value) if isinstance(inner, Mapping) else value for key, inner in table.items()}
