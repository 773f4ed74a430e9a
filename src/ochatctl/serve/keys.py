"""API keys: made, kept as SHA-256 in a private file, and recognised in constant time.

in: keys as given and a keys file, out: the name of who calls
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ochatctl.errors import ConfigError, DataError, EnvironmentProblem, UsageProblem
from ochatctl.files import atomic_file, read_json, write_json

_FORMAT = "ochatctl-keys"
_VERSION = 1
_PREFIX = "sk-"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME_RULE = "1 to 64 letters, digits, dots, dashes and underscores"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredKey:
    """One key of a file: who has it, the SHA-256 of it, and the day it was made."""

    name: str
    sha256: str
    created: str = ""


def new_key(path: Path, name: str) -> str:
    """Make a key, keep its name and hash in the file, and give it: it is nowhere else.

    Raises:
        UsageProblem: the name is taken, or none.
        DataError: the file is no keys file.
        EnvironmentProblem: it cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UsageProblem(f"`--name {name}` is not {_NAME_RULE}", hint=f"ochatctl keys new --name alice --file {path}")
    keys = read_keys(path) if os.path.exists(path) else ()  # no fault where a folder on the way may not be entered
    if any(each.name == name for each in keys):
        raise UsageProblem(
            f"{path}: there is a key `{name}` already", hint=f"ochatctl keys revoke --name {name} --file {path}"
        )
    key = _PREFIX + secrets.token_urlsafe(32)
    created = time.strftime("%Y-%m-%d", time.gmtime())
    _write(path, (*keys, StoredKey(name=name, sha256=hashlib.sha256(key.encode()).hexdigest(), created=created)))
    return key


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file.

    Raises:
        UsageProblem: there is none of this name.
        DataError: the file is no keys file.
        EnvironmentProblem: it cannot be written.
    """
    keys = read_keys(path)
    left = tuple(each for each in keys if each.name != name)
    if len(left) == len(keys):
        raise UsageProblem(f"{path}: there is no key `{name}`", hint=f"ochatctl keys list --file {path}")
    _write(path, left)


def read_keys(path: Path) -> tuple[StoredKey, ...]:
    """Give the keys of a file.

    Raises:
        DataError: missing, not readable, malformed, or of a newer version.
    """
    try:
        path.stat()
        table = read_json(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", hint=f"ochatctl keys new --name alice --file {path}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint=f"ls -l {path}") from error
    if not isinstance(table, dict) or table.get("format") != _FORMAT:
        raise DataError(f"{path}: not a keys file", hint="ochatctl keys new --name alice --file keys.json")
    if not isinstance(table.get("version"), int) or table["version"] > _VERSION:
        raise DataError(f"{path}: version {table.get('version')}, and this ochatctl reads up to {_VERSION}")
    return tuple(_stored(table.get("keys"), path))


class KeyRing:
    """The keys that open the server: those given as they are, and those of a file.

    Held as SHA-256 and compared in constant time, each with every one. Without any, everybody may call.
    """

    def __init__(self, api_keys: Collection[str] = (), file: Path | None = None) -> None:
        self._file = file
        self._given = tuple((f"key-{number}", _digest(key.encode())) for number, key in enumerate(api_keys, start=1))
        self._keys = self._given
        self.reload()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def is_open(self) -> bool:
        """Whether a request needs no key; with a keys file, one does, though the file be empty."""
        return not self._given and self._file is None

    def reload(self) -> None:
        """Read the file once more; where it cannot be read, the keys stay as they are.

        Raises:
            DataError: the file is no keys file.
        """
        if self._file is not None:
            stored = read_keys(self._file)
            self._keys = (*self._given, *((each.name, bytes.fromhex(each.sha256)) for each in stored))

    def name_of(self, key: bytes) -> str | None:
        """Give the name of a key, or None for one that is not known."""
        digest = _digest(key)
        found = None
        for name, known in self._keys:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def check_keys(api_keys: Collection[str]) -> None:
    """Stop where a key could never be sent.

    Raises:
        ConfigError: never shows the key.
    """
    for key in api_keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError("an API key is empty, or holds a space or a character that no HTTP header can carry")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _stored(items: Any, path: Path) -> Iterator[StoredKey]:
    if not isinstance(items, list):
        raise DataError(f"{path}: `keys` is not a list")
    for number, item in enumerate(items):
        where = f"{path}: keys[{number}]"
        if not isinstance(item, dict):
            raise DataError(f"{where} is not an object")
        name, digest = item.get("name"), item.get("sha256")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DataError(f"{where}: `name` is not {_NAME_RULE}")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise DataError(f"{where}: `sha256` is not a SHA-256 in hexadecimal")
        yield StoredKey(name=name, sha256=digest, created=str(item.get("created", "")))


def _write(path: Path, keys: tuple[StoredKey, ...]) -> None:
    """Write a file that only its owner reads; one that is there keeps its owner and mode, for a server reads it."""
    table = {"format": _FORMAT, "version": _VERSION, "keys": [asdict(key) for key in keys]}
    try:
        old = path.stat() if path.exists() else None
        with atomic_file(path) as part:
            write_json(part, table)
            part.chmod(0o600 if old is None else old.st_mode & 0o777)
            if old is not None and hasattr(os, "chown"):  # Windows has none
                with contextlib.suppress(PermissionError):  # who is not root can give nothing away
                    os.chown(part, old.st_uid, old.st_gid)
    except OSError as error:
        raise EnvironmentProblem(
            f"{path}: cannot be written: {error.strerror}", hint="choose another `--file`, or write it as its owner"
        ) from error
