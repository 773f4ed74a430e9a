"""A JSONL file -> shards of some megabytes -> the rows of each, in worker processes, in order, and resumable.

in: Shards (byte ranges that depend on the file alone), out: one EncodedShard each. `encode_shard` is a pure function of
a shard and its config: where it runs, and in what company, changes nothing.

Where a folder is given, each encoded shard is written to a file there whose name is a digest of everything that decides
its content, so that a run that was killed finds what is finished, whatever was changed in between.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ochatctl
from ochatctl.chat.conversation import Conversation, Document, parse_record
from ochatctl.chat.families import family_tokenizer
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.data.encode import EncodeConfig, Outcome, Row, encode_record, with_labels
from ochatctl.data.flat import read_arrays, write_arrays
from ochatctl.data.formats import Rejected, to_draft
from ochatctl.data.workers import Workers
from ochatctl.errors import DataError, RunError

SHARD_BYTES = 8 << 20

_FORMAT = "ochatctl-shard"
_VERSION = 1
_CLEAN_HINT = "`ochatctl data clean FILE --out clean.jsonl` drops and counts what cannot be read"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Some lines of a JSONL file, from `start_byte` to `end_byte`, and which of its records to encode.

    `shown` is the file's name in errors. A `strict` one holds what `data clean` writes; any other is read as `data
    clean` reads files. `chosen` has a byte a record, not 0 for those to encode; None is all. `digest` is of the lines.
    """

    path: Path
    shown: str
    strict: bool
    start_byte: int
    end_byte: int
    first_line: int
    num_records: int
    digest: str
    chosen: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedShard:
    """The outcomes of a shard's chosen records, as arrays.

    Shapes: T tokens, R rows, M chosen records. `input_ids`, `loss_weights` [T]; `row_offsets` [R+1], in tokens;
    `counts` [M, 6]: rows, condition (an index of `conditions`, -1 for a document), tokens, and Outcome's three counts.
    """

    conditions: list[str]
    input_ids: npt.NDArray[np.int32]
    loss_weights: npt.NDArray[np.float32]
    row_offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def outcomes(self) -> Iterator[Outcome]:
        """Give the outcomes in the order of the records."""
        start = 0
        for index, num_rows in enumerate(self.counts[:, 0].tolist()):
            yield self._outcome(index, start)
            start += num_rows

    def outcome(self, index: int) -> Outcome:
        """Give one outcome."""
        return self._outcome(index, int(self.counts[:index, 0].sum()))

    def _outcome(self, index: int, first_row: int) -> Outcome:
        num_rows, condition, num_tokens, num_unsupervised, num_cut_prompts, num_lost = self.counts[index].tolist()
        offsets = self.row_offsets[first_row : first_row + num_rows + 1].tolist()
        rows = [
            with_labels(self.input_ids[start:end], self.loss_weights[start:end])
            for start, end in itertools.pairwise(offsets)
        ]
        return Outcome(
            condition=None if condition < 0 else self.conditions[condition],
            num_tokens=num_tokens,
            rows=rows,
            num_unsupervised=num_unsupervised,
            num_cut_prompts=num_cut_prompts,
            num_lost_tokens=num_lost,
        )


def cut_file(
    path: Path, *, shown: str, strict: bool, limit: int | None = None, shard_bytes: int = SHARD_BYTES
) -> Iterator[Shard]:
    """Cut a JSONL file after the line that fills a shard; only the first `limit` records are in any.

    Raises:
        DataError: missing, or a folder.
    """
    start_byte = end_byte = num_records = num_all = 0
    first_line = 1
    state = hashlib.blake2b(digest_size=16)

    def shard() -> Shard:
        return Shard(
            path=path, shown=shown, strict=strict, start_byte=start_byte, end_byte=end_byte, first_line=first_line,
            num_records=num_records, digest=state.hexdigest(),
        )  # fmt: skip

    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if num_all == limit:
                    break
                end_byte += len(line)
                state.update(line)
                is_record = bool(line.strip())
                num_records += is_record
                num_all += is_record
                if end_byte - start_byte >= shard_bytes:
                    yield shard()
                    start_byte, num_records, first_line = end_byte, 0, number + 1
                    state = hashlib.blake2b(digest_size=16)
    except FileNotFoundError as error:
        raise DataError(f"{shown}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{shown}: a folder, where a JSONL file is expected") from error
    if num_records:
        yield shard()


def encode_shard(shard: Shard, tokenizer: Tokenizer, config: EncodeConfig) -> EncodedShard:
    """Encode the chosen records of a shard.

    Raises:
        DataError: names `file:line` of a record that is malformed or cannot be encoded.
    """
    rows: list[Row] = []
    counts: list[tuple[int, ...]] = []
    conditions: dict[str, int] = {}
    for where, value in _values(shard):
        record = read_record(value, where=where, strict=shard.strict)
        try:
            outcome = encode_record(record, tokenizer, config)
        except DataError as error:
            raise DataError(f"{where}: {error.message}", hint=error.hint) from error
        rows += outcome.rows
        name = outcome.condition
        index = -1 if name is None else conditions.setdefault(name, len(conditions))
        counts.append(
            (
                len(outcome.rows),
                index,
                outcome.num_tokens,
                outcome.num_unsupervised,
                outcome.num_cut_prompts,
                outcome.num_lost_tokens,
            )
        )
    none = np.empty(0)
    return EncodedShard(
        conditions=list(conditions),
        input_ids=np.concatenate([none, *(row.input_ids for row in rows)], dtype=np.int32, casting="unsafe"),
        loss_weights=np.concatenate([none, *(row.loss_weights for row in rows)], dtype=np.float32, casting="unsafe"),
        row_offsets=np.cumsum([0, *(len(row.input_ids) for row in rows)], dtype=np.int64),
        counts=np.array(counts, dtype=np.int64).reshape(-1, 6),
    )


def read_record(value: Any, *, where: str, strict: bool) -> Conversation | Document:
    """Check one JSON value: as `data clean` writes it, or (not `strict`) as it reads any file.

    Raises:
        DataError: starts with `where`.
    """
    if strict:
        return parse_record(value, where=where)
    draft = to_draft(value)
    if isinstance(draft, Rejected):
        raise DataError(f"{where}: {draft.reason}{f' ({draft.detail})' if draft.detail else ''}", hint=_CLEAN_HINT)
    return draft if isinstance(draft, Document) else draft.conversation


def encode_shards(
    shards: Sequence[Shard],
    tokenizer: Tokenizer,
    config: EncodeConfig,
    *,
    num_workers: int = 1,
    parts_dir: Path | None = None,
    keys: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Generator[EncodedShard, None, None]:
    """Give the rows of each shard, in order; with `parts_dir`, through files there named by `keys` (see `part_keys`).

    Guarantees: the result does not depend on the number of workers, nor on which parts were there already.

    Raises:
        DataError: of the first shard in order that has one.
        RunError: a worker process died.
    """
    if parts_dir is None:
        for shard in shards:
            yield encode_shard(shard, tokenizer, config)
        return
    paths = [parts_dir / f"{key}.part" for key in keys]
    missing = {path: shard for path, shard in zip(paths, shards, strict=True) if not path.exists()}
    if len(missing) < len(set(paths)):
        say(f"resuming: {len(paths) - len(missing)} of {len(paths)} shards are there")
    if num_workers <= 1:
        for path in paths:
            if path in missing:
                _write(encode_shard(missing[path], tokenizer, config), path)
            yield _read(path)
        return
    pool = Workers(min(num_workers, max(1, len(missing))), _start_worker, (config,))
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)
        waiting = {path: pool.submit(_work, shard, path) for path, shard in missing.items()}
        for path in paths:
            if path in waiting:
                try:
                    waiting[path].result()
                except BrokenProcessPool as error:
                    raise RunError(
                        "a worker process was killed, perhaps for want of memory",
                        hint="run it again with fewer `--workers`; finished shards are kept",
                    ) from error
            yield _read(path)


def part_keys(shards: Sequence[Shard], config: EncodeConfig, tokenizer: str) -> list[str]:
    """Give a name a shard: a digest of its lines, of what is chosen of them, of the config and the tokenizer's digest.

    A shard's place in its file is not in it: it decides nothing but how an error reads.
    """
    shared = repr((
        _VERSION, ochatctl.__version__, tokenizer, config.family, config.context_tokens, config.overlength,
        config.carry_turns, sorted(config.class_weights.items()), config.per_sequence_loss, config.compat,
    ))  # fmt: skip
    keys = []
    for shard in shards:
        state = hashlib.blake2b(shared.encode("utf-8", "surrogatepass"), digest_size=16)
        state.update(repr((shard.digest, shard.strict, shard.chosen)).encode())
        keys.append(state.hexdigest())
    return keys


def _values(shard: Shard) -> Iterator[tuple[str, Any]]:
    """Give `(file:line, value)` of the chosen records."""
    position, index = shard.start_byte, 0
    with shard.path.open("rb") as lines:
        lines.seek(shard.start_byte)
        for number, line in enumerate(lines, start=shard.first_line):
            if position >= shard.end_byte:
                break
            position += len(line)
            if not line.strip():
                continue
            index += 1
            if shard.chosen is not None and not shard.chosen[index - 1]:
                continue
            where = f"{shard.shown}:{number}"
            try:
                value = json.loads(line)
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"{where}: not valid JSON: {error}") from error
            yield where, value


def _write(shard: EncodedShard, path: Path) -> None:
    header = {"format": _FORMAT, "version": _VERSION, "conditions": shard.conditions}
    arrays: dict[str, npt.NDArray[Any]] = {
        "input_ids": shard.input_ids,
        "loss_weights": shard.loss_weights,
        "row_offsets": shard.row_offsets,
        "counts": shard.counts.reshape(-1),
    }
    write_arrays(path, header, arrays)


def _read(path: Path) -> EncodedShard:
    header, arrays = read_arrays(path, _FORMAT, _VERSION)
    return EncodedShard(
        conditions=header["conditions"],
        input_ids=arrays["input_ids"],
        loss_weights=arrays["loss_weights"],
        row_offsets=arrays["row_offsets"],
        counts=arrays["counts"].reshape(-1, 6),
    )


# A worker's own tokenizer and config: loaded once a process, since both are the same for every shard.
_worker: tuple[Tokenizer, EncodeConfig] | None = None


def _start_worker(config: EncodeConfig) -> None:
    global _worker
    tokenizer = family_tokenizer(config.model_dir, config.family, trust_remote_code=config.trust_remote_code)
    _worker = (tokenizer, config)


def _work(shard: Shard, path: Path) -> None:
    assert _worker is not None
    _write(encode_shard(shard, *_worker), path)
