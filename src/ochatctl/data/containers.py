"""Files -> items: JSON, JSONL, parquet, HTML and text, compressed or not, never the whole file at once.

in: a path, out: one Item a value that it holds, or that it holds in a form that cannot be read.
"""

import codecs
import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ochatctl.data.html_pages import LONGEST_PAGE_BYTES, page_item
from ochatctl.data.json_stream import decode_lines, decode_stream
from ochatctl.data.plain_text import text_pieces

# What a file's name says of what it holds; "json" may as well be lines, which its beginning tells.
SUFFIXES = {
    ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet",
    ".html": "html", ".htm": "html",
    ".txt": "text", ".md": "text",
}  # fmt: skip
COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# `surrogateescape` knows no half of a UTF-16 unit.
_VISIBLE = "ochatctl-visible"
codecs.register_error(_VISIBLE, lambda error: ("\udcff", getattr(error, "end", 0)))
_PEEK_CHARS = 1 << 16
_READ_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that a file holds, and where; `problem` says why there is no value, which then is the raw text.

    `places` is empty unless `join_parts` made it of several items: then it names the place of each.
    """

    where: str
    value: Any
    problem: str = ""
    places: tuple[str, ...] = ()

    @property
    def num_parts(self) -> int:
        """How many items of the input it stands for."""
        return len(self.places) or 1


def container_of(path: Path, *, by_name: bool = False) -> str:
    """Give what a file is, by its name, or else by how it begins; `by_name` gives "" where the name does not say."""
    suffixes = path.suffixes[-2:] if path.suffix.lower() in COMPRESSED_SUFFIXES else path.suffixes[-1:]
    named = SUFFIXES.get(suffixes[0].lower(), "") if suffixes else ""
    if by_name or named not in ("", "json"):
        return named
    with contextlib.suppress(OSError, EOFError, pa.ArrowException):
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return "parquet"
        with _open(path) as opened:
            start = opened.text().read(_PEEK_CHARS).lstrip()
        if start.startswith("<"):
            return "html"
        return "jsonl" if _is_lines(start) else "json"
    return "jsonl"


def read_container(path: Path, container: str) -> Iterator[Item]:
    """Give the items of a file that is a `json`, `jsonl`, `parquet`, `html` or `text`.

    Guarantees: what can be read of a file that is damaged or cut off is given, and then one item with a problem.
    """
    damage: str | None = None
    pending: Item | None = None
    try:
        if container == "parquet":
            yield from _parquet_items(path)
            return
        with _open(path) as opened:
            for item in _READERS[container](opened, path):
                if pending is not None:
                    yield pending
                pending = item
            damage = opened.damage
    except (OSError, EOFError, pa.ArrowException) as error:
        damage = str(error)
    if damage is None:
        if pending is not None:
            yield pending
        return
    problem = f"the file is damaged or cut off: {damage}"
    if pending is not None and not pending.problem:
        yield pending
        pending = None
    # The last item's own problem comes of the damage.
    yield replace(pending, problem=problem) if pending else Item(where=str(path), value=None, problem=problem)


class _Opened(io.RawIOBase):
    """A file's bytes, decompressed; what is damaged ends them, and is remembered."""

    def __init__(self, path: Path) -> None:
        self.damage: str | None = None
        self._path = path
        with path.open("rb") as file:
            start = file.read(4)
        # By content: a `.json` may be compressed, and a `.gz` may have been unpacked on its way here.
        self._compression = next((name for magic, name in _MAGIC.items() if start and _is_prefix(start, magic)), None)
        self._stream = pa.input_stream(str(path), compression=self._compression)
        self._num_read_bytes = 0
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), _READ_BYTES)
        if self.damage is None:
            try:
                data: bytes = self._stream.read(size)
            except (OSError, EOFError, pa.ArrowException) as error:
                self.damage = str(error)
                self._rest = self._salvaged()
        if self.damage is not None:
            data, self._rest = self._rest[:size], self._rest[size:]
        self._num_read_bytes += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _salvaged(self) -> bytes:
        """Give what the read that failed had got: a byte at a time, since a failing read gives nothing."""
        rest = bytearray()
        with (
            contextlib.suppress(OSError, EOFError, pa.ArrowException),
            pa.input_stream(str(self._path), compression=self._compression) as again,
        ):
            left = self._num_read_bytes
            while left:
                left -= len(again.read(min(left, _READ_BYTES)))
            while len(rest) < _READ_BYTES and (byte := again.read(1)):
                rest += byte
        return bytes(rest)

    def close(self) -> None:
        self._stream.close()
        super().close()

    def buffered(self) -> io.BufferedReader:
        return io.BufferedReader(self, _READ_BYTES)

    def text(self) -> io.TextIOWrapper:
        # Bytes that are no text become lone surrogates, which the one conversation that holds them is rejected for.
        stream = self.buffered()
        if stream.peek(2)[:2] in _UTF_16:
            return io.TextIOWrapper(stream, encoding="utf-16", errors=_VISIBLE, newline="\n")
        return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[_Opened]:
    opened = _Opened(path)
    try:
        yield opened
    finally:
        opened.close()


def _is_prefix(start: bytes, magic: bytes) -> bool:
    return start.startswith(magic) or magic.startswith(start)


def _line_items(opened: _Opened, path: Path) -> Iterator[Item]:
    for number, decoded in decode_lines(opened.text()):
        yield Item(where=f"{path}:{number}", value=decoded.value, problem=decoded.problem)


def _stream_items(opened: _Opened, path: Path) -> Iterator[Item]:
    for number, decoded in enumerate(decode_stream(opened.text()), start=1):
        yield Item(where=f"{path}#{number}", value=decoded.value, problem=decoded.problem)


def _page_items(opened: _Opened, path: Path) -> Iterator[Item]:
    page = opened.buffered().read(LONGEST_PAGE_BYTES + 1)
    if len(page) > LONGEST_PAGE_BYTES:
        yield Item(where=str(path), value=None, problem="the page is too long")
        return
    decoded = page_item(page)
    yield Item(where=str(path), value=decoded.value, problem=decoded.problem)


def _text_items(opened: _Opened, path: Path) -> Iterator[Item]:
    pieces = enumerate(text_pieces(opened.text()), start=1)
    first = next(pieces, None)
    if first is None:
        yield Item(where=str(path), value="", problem="the text is empty")
        return
    second = next(pieces, None)
    if second is None:
        yield Item(where=str(path), value={"id": path.name, "text": first[1]})
        return
    for number, piece in itertools.chain((first, second), pieces):
        yield Item(where=f"{path}#{number}", value={"id": f"{path.name}#{number}", "text": piece})


_READERS: dict[str, Callable[[_Opened, Path], Iterator[Item]]] = {
    "json": _stream_items,
    "jsonl": _line_items,
    "html": _page_items,
    "text": _text_items,
}


def _parquet_items(path: Path) -> Iterator[Item]:
    numbers = itertools.count(1)
    for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
        for value in batch.to_pylist():
            yield Item(where=f"{path}#{next(numbers)}", value=value)


def _is_lines(start: str) -> bool:
    """Tell JSONL from an array and from objects that are spread over lines."""
    first, newline, rest = start.partition("\n")
    if start.startswith("["):
        return bool(newline) and _is_json(first) and rest.lstrip().startswith("[")
    if not start.startswith("{") or not newline or _is_json(first):
        return not _is_json_pair(first)
    if first.strip() == "{":
        return False
    try:
        json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        # Longer than what is seen here, or a first line that is broken: then the next ones are objects too.
        return any(line.startswith("{") for line in rest.split("\n"))
    return False


def _is_json_pair(line: str) -> bool:
    """Tell several objects on one line."""
    if not line.startswith("{"):
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(line)
    except (ValueError, RecursionError):
        return False
    return line[end:].lstrip().startswith("{")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
