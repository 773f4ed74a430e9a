"""Turn a TOML or JSON table into a frozen dataclass, strictly: a typo is an error that names the right key."""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ochatctl.errors import ConfigError
from ochatctl.files import write_json

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Give the table that a TOML file holds.

    Raises:
        ConfigError: missing or malformed.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def build(cls: type[T], table: Mapping[str, Any], *, where: str) -> T:
    """Make a `cls` of a table; a field with the metadata `key=False` is not for tables.

    Raises:
        ConfigError: an unknown or missing key, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    every = dataclasses.fields(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in every if field.metadata.get("key", True)}
    for key in table:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key `{key}`{did_you_mean(key, fields)}")
    values = {key: _convert(hints[key], value, f"{where}: `{key}`") for key, value in table.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}: key `{name}` is missing")
    return cls(**values)


def to_table(config: Any) -> dict[str, Any]:
    """Give the table that `build` turns into an equal config."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def to_toml(table: Mapping[str, Any], *, prefix: str = "") -> str:
    """Give a table as TOML; keys without a value are left out."""
    plain = {key: value for key, value in table.items() if value is not None and not isinstance(value, Mapping)}
    # JSON's strings, numbers, booleans and flat lists are TOML as well, but for DEL, which TOML wants escaped.
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f") for key, value in plain.items()
    ]
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            lines += ["", f"[{prefix}{key}]", to_toml(value, prefix=f"{prefix}{key}.")]
    return "\n".join(lines)


def write_run(path: Path, config: Any) -> None:
    """Write a config as `run.json`, which crosses from the parent process to its children."""
    write_json(path, to_table(config))


def read_run(cls: type[T], path: Path) -> T:
    """Read back what `write_run` wrote, as strictly as a preset."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return build(cls, table, where=str(path))


def did_you_mean(name: str, choices: typing.Iterable[str]) -> str:
    """Give `; did you mean ...?` where a choice is close, else nothing."""
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [arg for arg in args if arg is not type(None)]
        return _convert(inner, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where} is `{value}`, not one of {', '.join(f'`{arg}`' for arg in args)}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(args) == len(value):
            return tuple(
                _convert(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True))
            )
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast(type[Any], hint), value, where=where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    if dataclasses.is_dataclass(hint) or origin is dict:
        name = "table"
    elif origin is tuple:
        name = "list" if args[1:] == (Ellipsis,) else f"list of {len(args)}"
    else:
        name = f"`{getattr(hint, '__name__', str(hint))}`"
    raise ConfigError(f"{where} is `{value}`, which is not a {name}")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
