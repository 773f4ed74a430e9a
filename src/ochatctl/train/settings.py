"""Defaults, a preset, a DeepSpeed JSON, `--set` and flags -> one request: each later one wins, and each source is kept.

in: what was typed, out: TrainRequest
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ochatctl.config import build
from ochatctl.errors import ConfigError
from ochatctl.presets import leaves, load_preset, merge, read_set
from ochatctl.train.deepspeed_json import DeepSpeedFile, Difference, check_passed, read_deepspeed
from ochatctl.train.request import FLAG_KEYS, Base, TrainRequest, flat

_Table = Mapping[str, Any]


def read_request(*, preset: str | None = None, sets: Sequence[str] = (), flags: _Table | None = None) -> TrainRequest:
    """Merge what was typed; `flags` are those given on the command line, by their names.

    Raises:
        ConfigError: an unknown key or preset, a value of another type, or a flag that contradicts a DeepSpeed JSON;
            names where it stands.
    """
    below: list[tuple[str, _Table]] = []
    if preset is not None:
        below.append((f"preset {preset}", load_preset(preset, command="train").table))
    typed = [("--set", read_set(text)[1]) for text in sets]
    given = [_from_flag(name, value) for name, value in (flags or {}).items() if value is not None]
    for source, table in below + typed:
        _refuse_bare_keys(table, source)
        build(TrainRequest, table, where=source)
    path = merge([table for _, table in below + typed + given]).get("deepspeed_config")
    differences: tuple[Difference, ...] = ()
    if path is not None:
        file = read_deepspeed(Path(str(path)).expanduser())
        build(TrainRequest, file.table, where=file.path)
        _refuse_contradictions(file, typed + given)
        differences = (*_against(below, file), *file.differences)
        below.append((file.path, file.table))
    tables = [table for _, table in below + typed]
    request = build(TrainRequest, merge(tables), where="preset and `--set`")
    whole = build(TrainRequest, merge([*tables, *(table for _, table in given)]), where="`ochatctl train`")
    check_passed(whole.deepspeed)
    sources = {key: source for source, table in below + typed + given for key in leaves(table)}
    base = Base(preset=preset, sets=tuple(sets), request=request, sources=sources, differences=differences)
    return replace(whole, base=base)


def _refuse_bare_keys(table: _Table, source: str) -> None:
    """Name the table of a key that stands outside it, as `lr` for `optim.lr`."""
    keys = flat(TrainRequest())
    for name in table:
        whole = FLAG_KEYS.get(name) or next((key for key in keys if key.endswith(f".{name}")), None)
        if whole is not None and name not in {key.partition(".")[0] for key in keys}:
            raise ConfigError(f"{source}: unknown key `{name}`; did you mean `{whole}`?")


def _from_flag(name: str, value: Any) -> tuple[str, _Table]:
    _, table = read_set(f"{FLAG_KEYS.get(name, name)}=0")
    return "--" + name.replace("_", "-"), _put(table, value)


def _put(table: _Table, value: Any) -> dict[str, Any]:
    return {key: _put(inner, value) if isinstance(inner, Mapping) else value for key, inner in table.items()}


def _refuse_contradictions(file: DeepSpeedFile, typed: Sequence[tuple[str, _Table]]) -> None:
    """Refuse a value that was typed, and that the file says otherwise."""
    theirs = flat(build(TrainRequest, file.table, where=file.path))
    said = set(leaves(file.table))
    for source, table in typed:
        ours = flat(build(TrainRequest, table, where=source))
        for key in said & set(leaves(table)) & set(theirs):
            if ours[key] != theirs[key]:
                named = f"{source} {key}" if source == "--set" else source
                raise ConfigError(
                    f"`{named}` is `{ours[key]}`, and {file.path} says `{theirs[key]}`", hint="leave one of them out"
                )


def _against(below: Sequence[tuple[str, _Table]], file: DeepSpeedFile) -> list[Difference]:
    """Give what the file changes in a preset."""
    preset = merge([table for _, table in below])
    said = set(leaves(file.table)) & set(leaves(preset))
    before, after = (flat(build(TrainRequest, table, where="preset")) for table in (preset, file.table))
    return [
        Difference(key=key, theirs=str(after[key]), ours=str(after[key]), why=f"instead of the preset's {before[key]}")
        for key in sorted(said & set(before))
        if before[key] != after[key]
    ]
