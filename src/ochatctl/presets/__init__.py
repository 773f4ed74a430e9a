"""Presets: TOML tables with a name, and how `--preset NAME|FILE.toml` and `--set key=value` are read.

A preset's own keys are `command`, what it is for, and `description`; all others belong to that command's request.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.config import did_you_mean, read_toml
from ochatctl.errors import ConfigError

_FOLDER = Path(__file__).parent
_HINT = "ochatctl presets"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A preset with its file's text, comments included."""

    name: str
    command: str
    description: str
    table: Mapping[str, Any]
    text: str


def names() -> tuple[str, ...]:
    """Give the names of those that come with ochatctl."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_preset(name: str, *, command: str | None = None) -> Preset:
    """Give a preset by name, or a user's own by its file.

    Raises:
        ConfigError: no such preset, not TOML, or for another command than `command`.
    """
    is_file = name.endswith(".toml")
    if not is_file and name not in names():
        raise ConfigError(f"no preset `{name}`{did_you_mean(name, names())}", hint=_HINT)
    path = Path(name).expanduser() if is_file else _FOLDER / f"{name}.toml"
    table = read_toml(path)
    preset = Preset(
        name=name,
        command=str(table.pop("command", command or "")),
        description=str(table.pop("description", "")),
        table=table,
        text=path.read_text(encoding="utf-8"),
    )
    if command is not None and preset.command != command:
        raise ConfigError(f"preset `{name}` is for `ochatctl {preset.command}`, not `{command}`", hint=_HINT)
    return preset


def read_set(text: str) -> tuple[str, dict[str, Any]]:
    """Read `key=value` with a TOML value; what is no TOML is a string. Give the key, and the table that sets it.

    Raises:
        ConfigError: no `=` in it.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"`--set {text}` is not of the form `key=value`", hint="--set optim.lr=2e-5")
    try:
        parsed = tomllib.loads(f"value = {value}")
        table: Any = parsed["value"] if len(parsed) == 1 else value
    except tomllib.TOMLDecodeError:
        table = value
    for part in reversed(key.split(".")):
        table = {part: table}
    return key, table


def merge(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay tables over each other, the last on top."""
    out: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            below = out.get(key)
            out[key] = merge([below, value]) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return out


def leaves(table: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Give the keys of a table, in the form `table.key`."""
    out: list[str] = []
    for key, value in table.items():
        out += leaves(value, prefix=f"{prefix}{key}.") if isinstance(value, Mapping) else [prefix + key]
    return out
