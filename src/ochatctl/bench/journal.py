"""Answers on disk as they come: an append-only JSONL file, so that a killed run loses only what was in flight.

{"format": "ochatctl.bench.journal", "version": 1, "digest": "...", "settings": {...}}
{"id": "tasks:1", "turn": 1, "text": "...", "finish_reason": "stop", "num_prompt_tokens": 9, ...}
{"id": "tasks:2", "turn": 1, "error": "RemoteError: ..."}
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ochatctl.config import build
from ochatctl.errors import ConfigError, DataError, UsageProblem
from ochatctl.files import make_dir

FORMAT = "ochatctl.bench.journal"
VERSION = 1
FILE_NAME = "journal.jsonl"
_MAGIC = json.dumps({"format": FORMAT})[:-1].encode("ascii")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One answer, or the failure to get one: then `error` says why, and there is no text to grade.

    `model` is what the endpoint calls itself, where that is not the name that it was asked under.

    Units: `time` is seconds since 1970, at the end of the answer; `seconds` is how long it took.
    """

    id: str
    turn: int = 1
    text: str | None = None
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    seconds: float = 0.0
    time: float = 0.0
    error: str | None = None
    model: str | None = None
    first_logprobs: dict[str, float] | None = None


class Journal:
    """The journal of one run, open for appending; only one process may hold it.

    `settings` is everything that an answer depends on. A journal that was begun with others is refused, and what
    differs is named; with `yes` it is begun anew, and what it held stands beside it, for answers may have cost money.

    Raises:
        UsageProblem: other settings, or another process writes it.
        DataError: malformed anywhere but in its last line, or written by a newer version.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, yes: bool = False) -> None:
        self.path = path
        self._records: dict[tuple[str, int], Record] = {}
        make_dir(path.parent)
        self._file: IO[bytes] = path.open("a+b")
        try:
            _lock(self._file, path)
            self._resume(dict(settings), yes=yes)
        except BaseException:
            self._file.close()
            raise

    def answer(self, item_id: str, turn: int = 1) -> Record | None:
        """Give the answer that stands in the journal; an error is none."""
        record = self.record(item_id, turn)
        return record if record is not None and record.error is None else None

    def record(self, item_id: str, turn: int = 1) -> Record | None:
        """Give what the journal holds of a question: an answer, or else the last failure."""
        return self._records.get((item_id, turn))

    @property
    def records(self) -> tuple[Record, ...]:
        """The last record of each question: an answer, or else the last failure."""
        return tuple(self._records.values())

    def append(self, record: Record) -> None:
        """Write one record; it has left this process when this returns."""
        self._write({key: value for key, value in asdict(record).items() if value is not None})
        self._records[record.id, record.turn] = record

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value).encode("ascii") + b"\n")
        self._file.flush()

    def _resume(self, settings: dict[str, Any], *, yes: bool) -> None:
        header, records, good_bytes = _read(self._file, self.path)
        if header is not None and header.get("digest") != digest(settings):
            if not yes:
                raise _refused(self.path, header, settings)
            _set_aside(self._file, self.path, header)
            header, records, good_bytes = None, [], 0
        self._file.truncate(good_bytes if header is not None else 0)
        self._file.seek(0, 2)
        if header is None:
            self._write({"format": FORMAT, "version": VERSION, "digest": digest(settings), "settings": settings})
        for record in records:
            # An answer is never taken back by a failure that was written after it.
            if record.error is None or self.answer(record.id, record.turn) is None:
                self._records[record.id, record.turn] = record


def peek(path: Path) -> dict[tuple[str, int], Record]:
    """Give the answers in a journal without taking it; none where there is no journal yet.

    Raises:
        DataError: malformed, or written by a newer version.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        _, records, _ = _read(file, path)
    return {(record.id, record.turn): record for record in records if record.error is None}


def digest(settings: Mapping[str, Any]) -> str:
    """Give the SHA-256 of settings, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode("ascii")).hexdigest()


def _read(file: IO[bytes], path: Path) -> tuple[dict[str, Any] | None, list[Record], int]:
    """Give the header, the records, and how many bytes of the file are whole lines of them."""
    header: dict[str, Any] | None = None
    records: list[Record] = []
    good_bytes = 0
    for number, line, is_last in _lines(file):
        where = f"{path}:{number}"
        if not line.endswith(b"\n") and is_last and (number > 1 or _MAGIC.startswith(line[: len(_MAGIC)])):
            break  # the line that a kill cut off
        try:
            value = json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError):
            value = None
        if not isinstance(value, dict):
            raise DataError(f"{where}: not a line of a journal", hint="choose another `--out`")
        if header is None:
            header = _checked_header(value, path)
        else:
            records.append(_record(value, where))
        good_bytes += len(line)
    return header, records, good_bytes


def _record(value: dict[str, Any], where: str) -> Record:
    try:
        return build(Record, value, where=where)
    except ConfigError as error:
        raise DataError(error.message, hint="choose another `--out`") from error


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    file.seek(0)
    lines = file.readlines()
    for number, line in enumerate(lines, start=1):
        yield number, line, number == len(lines)


def _checked_header(value: dict[str, Any], path: Path) -> dict[str, Any]:
    if value.get("format") != FORMAT or not isinstance(value.get("version"), int):
        raise DataError(f"{path}: not a journal of `{FORMAT}`", hint="choose another `--out`")
    if value["version"] > VERSION:
        raise DataError(
            f"{path}: version {value['version']} of `{FORMAT}`, and this ochatctl reads up to {VERSION}",
            hint="pip install -U ochatctl",
        )
    return value


def _refused(path: Path, header: dict[str, Any], settings: dict[str, Any]) -> UsageProblem:
    old = header.get("settings")
    old = old if isinstance(old, dict) else {}
    hint = "choose another `--out`, or add `--yes` to overwrite it"
    if old.get("suite") != settings.get("suite"):
        return UsageProblem(f"`{path}` belongs to a run of `bench {old.get('suite')}`", hint=hint)
    changed = [key for key in {**old, **settings} if old.get(key) != settings.get(key)]
    named = "; ".join(f"`{key}` was {_shown(old.get(key))} and is {_shown(settings.get(key))}" for key in changed)
    return UsageProblem(f"`{path}` was begun with other settings: {named or 'its digest differs'}", hint=hint)


def _set_aside(file: IO[bytes], path: Path, header: dict[str, Any]) -> None:
    """Copy a journal that is to be overwritten to a name with its digest."""
    file.seek(0)
    name = f"{path.stem}.{str(header.get('digest'))[:8]}{path.suffix}"
    path.with_name(re.sub(r"[^\w.-]", "-", name)).write_bytes(file.read())


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text if len(text) <= 80 else text[:77] + '...'}`"


def _lock(file: IO[bytes], path: Path) -> None:
    # Where there is no fcntl (native Windows) nothing is locked; a lock file would outlive a killed run.
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageProblem(f"`{path}` is being written by another run", hint="choose another `--out`") from error
