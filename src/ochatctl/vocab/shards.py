"""Weight files as streams: the tensors of a folder, their bytes in chunks, a safetensors file written from them.

safetensors is a length (8 bytes), a JSON header, and the tensors' bytes one after the other, so a file can be rewritten
without holding a tensor. A `.bin` file is read memory-mapped, by torch and with `weights_only=True`.
"""

import json
import math
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ochatctl.errors import DataError, EnvironmentProblem
from ochatctl.files import read_json, write_json

CHUNK_BYTES = 16 << 20
SAFETENSORS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_BIN_NAME = "pytorch_model.bin"
_BIN_INDEX_NAME = "pytorch_model.bin.index.json"
_MAX_HEADER_BYTES = 100 << 20

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A tensor's name, type, shape and size; its bytes stay on disk."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


class Shard(Protocol):
    """One weight file."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def chunks(self, name: str, *, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Give a tensor's bytes from `start` to `stop`, in pieces of up to `CHUNK_BYTES`."""
        ...

    def shares_storage(self, one: str, other: str) -> bool:
        """Tell whether two names are one matrix, as a `.bin` file keeps tied embeddings."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """All weight files of a folder."""

    shards: tuple[Shard, ...]
    # The name of each as safetensors, in the same order.
    file_names: tuple[str, ...]
    # What the index file says beside `weight_map`; None where the folder has a single file and no index.
    index_metadata: Mapping[str, Any] | None
    is_bin: bool

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor for shard in self.shards for name, tensor in shard.tensors.items()}

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    def shard_of(self, name: str) -> Shard:
        """Give the file that holds a tensor."""
        return next(shard for shard in self.shards if name in shard.tensors)


class SafetensorsShard:
    """A `.safetensors` file."""

    def __init__(self, path: Path) -> None:
        # A hub cache holds symlinks; a hard link must be to the file itself.
        self.path = path.resolve()
        header, self._data_start = _read_header(path)
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.tensors: dict[str, Tensor] = {}
        self._offsets: dict[str, int] = {}
        size = path.stat().st_size - self._data_start
        end = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
            start, stop = entry["data_offsets"]
            end = max(end, stop)
            self._offsets[name] = start
            self.tensors[name] = Tensor(
                name=name, dtype=entry["dtype"], shape=tuple(entry["shape"]), num_bytes=stop - start
            )
        if end != size:
            raise DataError(f"{path}: {size} bytes of tensors, where its header says {end}", hint="download it again")

    def chunks(self, name: str, *, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        left = (self.tensors[name].num_bytes if stop is None else stop) - start
        # One buffer a call, used again and again: a consumer copies what it keeps.
        buffer = memoryview(bytearray(min(CHUNK_BYTES, max(left, 0))))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._data_start + self._offsets[name] + start)
            while left > 0:
                count = file.readinto(buffer[: min(len(buffer), left)])
                if not count:
                    raise DataError(f"{self.path}: ends within `{name}`")
                left -= count
                yield buffer[:count]

    def shares_storage(self, one: str, other: str) -> bool:
        return False  # the format holds a matrix once a name


class BinShard:
    """A PyTorch `.bin` file; nothing in it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.metadata: dict[str, str] = {"format": "pt"}
        state = _load_bin(path)
        self._state: dict[str, torch.Tensor] = {}
        self.tensors: dict[str, Tensor] = {}
        for name, value in state.items():
            if not isinstance(value, torch.Tensor) or value.dtype not in _NAMES:
                kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
                raise DataError(f"{path}: `{name}` is a `{kind}`, which a safetensors file cannot hold")
            self._state[name] = value
            num_bytes = value.numel() * value.element_size()
            self.tensors[name] = Tensor(
                name=name, dtype=_NAMES[value.dtype], shape=tuple(value.shape), num_bytes=num_bytes
            )

    def chunks(self, name: str, *, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        # A contiguous tensor stays in the mapped file; only one that is transposed is copied.
        raw = self._state[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        stop = raw.nbytes if stop is None else stop
        for at in range(start, stop, CHUNK_BYTES):
            yield memoryview(raw[at : min(at + CHUNK_BYTES, stop)])  # type: ignore[arg-type]  # numpy has the protocol

    def shares_storage(self, one: str, other: str) -> bool:
        a, b = self._state.get(one), self._state.get(other)
        return a is not None and b is not None and a.data_ptr() == b.data_ptr() and a.shape == b.shape


def open_weights(model_dir: Path) -> Weights:
    """Read the headers of a folder's weight files.

    Raises:
        DataError: no weights, a missing or broken file.
    """
    opening: tuple[tuple[str, str, type[SafetensorsShard] | type[BinShard]], ...] = (
        (INDEX_NAME, SAFETENSORS_NAME, SafetensorsShard),
        (_BIN_INDEX_NAME, _BIN_NAME, BinShard),
    )
    for index_name, single_name, kind in opening:
        is_bin = kind is BinShard
        if (model_dir / index_name).is_file():
            table = read_json(model_dir / index_name)
            paths = _indexed_files(model_dir / index_name, table)
            shards: tuple[Shard, ...] = tuple(kind(path) for path in paths)
            _check_index(model_dir / index_name, table, shards)
            names = tuple(_safetensors_name(path.name) for path in paths)
            return Weights(shards=shards, file_names=names, index_metadata=table.get("metadata") or {}, is_bin=is_bin)
        if (model_dir / single_name).is_file():
            shard: Shard = kind(model_dir / single_name)
            return Weights(shards=(shard,), file_names=(SAFETENSORS_NAME,), index_metadata=None, is_bin=is_bin)
    raise DataError(
        f"`{model_dir}` holds no weights: no `{SAFETENSORS_NAME}`, no `{_BIN_NAME}`, and no index of shards",
        hint=f"hf download OWNER/NAME --local-dir {model_dir}",
    )


def write_safetensors(
    path: Path, tensors: Iterable[tuple[Tensor, Iterable[memoryview]]], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file from streams of bytes; wider types come first, so that every tensor is aligned."""
    ordered = sorted(tensors, key=lambda item: -_item_bytes(item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for tensor, _ in ordered:
        header[tensor.name] = {
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + tensor.num_bytes],
        }  # fmt: skip
        at += tensor.num_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor, stream in ordered:
            written = 0
            for chunk in stream:
                while len(chunk):  # an unbuffered write may take less than it was given
                    count = file.write(chunk)
                    written += count
                    chunk = chunk[count:]
            assert written == tensor.num_bytes, f"{tensor.name}: {written} of {tensor.num_bytes} bytes"


def write_index(path: Path, weight_map: Mapping[str, str], metadata: Mapping[str, Any], *, num_bytes: int) -> None:
    """Write the index of a model in shards."""
    write_json(
        path, {"metadata": {**metadata, "total_size": num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    )


def row_chunks(shard: Shard, name: str, *, stop: int) -> Iterator[torch.Tensor]:
    """Give rows 0 to `stop` of a matrix (or elements of a vector) in chunks.

    Shapes:
        each chunk is [rows, width]; a vector's width is 1.
    """
    tensor = shard.tensors[name]
    row_bytes = tensor.num_bytes // tensor.shape[0]
    rows = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, stop, rows):
        count = min(rows, stop - start)
        raw = bytearray()
        for chunk in shard.chunks(name, start=start * row_bytes, stop=(start + count) * row_bytes):
            raw += chunk
        yield torch.frombuffer(raw, dtype=DTYPES[tensor.dtype]).view(count, -1)


def mean_row(shard: Shard, name: str, *, num_rows: int) -> torch.Tensor:
    """Give the float32 mean of the first `num_rows` rows.

    Rows are taken as float32 and summed in float64, chunk by chunk; the sum is divided in float64 and rounded once to
    float32. A float32 sum over 32,000 rows would lose the last two or three digits.

    Raises:
        DataError: a row is not finite.
    """
    total: torch.Tensor | None = None
    for rows in row_chunks(shard, name, stop=num_rows):
        part = rows.float().sum(dim=0, dtype=torch.float64)
        total = part if total is None else total + part
    assert total is not None, "a matrix without rows"
    mean = (total / num_rows).float()
    if not bool(torch.isfinite(mean).all()):
        raise DataError(f"{shard.path}: `{name}` holds values that are not finite, so its mean is none")
    return mean


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        raw = file.read(size) if size <= _MAX_HEADER_BYTES else b""
    try:
        header = json.loads(raw)
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                count = math.prod(entry["shape"])
                dtype = DTYPES.get(entry["dtype"])
                if dtype is not None and stop - start != count * dtype.itemsize:
                    raise ValueError(f"`{name}` has {stop - start} bytes")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a safetensors file, or a part of one, or a Git LFS pointer: {error}", hint="download it again"
        ) from error
    return header, 8 + size


def _load_bin(path: Path) -> dict[str, Any]:
    try:
        # Files from before torch 1.6 are no zip archive, and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds more than weights, so it is not read: {str(error).splitlines()[0]}",
            hint="convert it to safetensors where you trust its source",
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not a PyTorch weight file: {error}", hint="download it again") from error
    except MemoryError as error:
        raise EnvironmentProblem(f"{path}: too little memory to read it") from error
    if not isinstance(state, dict):
        raise DataError(f"{path}: holds a `{type(state).__name__}`, not a table of tensors")
    return state


def _indexed_files(index: Path, table: Any) -> list[Path]:
    weight_map = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{index}: has no `weight_map`")
    names = list(dict.fromkeys(str(name) for name in weight_map.values()))
    for name in names:
        if Path(name).name != name:
            raise DataError(f"{index}: names `{name}`, which is not a file of its folder")
        if not (index.parent / name).is_file():
            raise DataError(f"{index}: names `{name}`, which is missing", hint="download it again")
    return [index.parent / name for name in names]


def _safetensors_name(name: str) -> str:
    return (
        name.replace("pytorch_model", "model", 1).removesuffix(".bin") + ".safetensors"
        if name.endswith(".bin")
        else name
    )


def _check_index(index: Path, table: Any, shards: tuple[Shard, ...]) -> None:
    names = dict(zip(dict.fromkeys(table["weight_map"].values()), shards, strict=True))
    for name, shard_name in table["weight_map"].items():
        if name not in names[shard_name].tensors:
            raise DataError(f"{index}: `{name}` is not in `{shard_name}`")


def _item_bytes(tensor: Tensor) -> int:
    return DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else 1
