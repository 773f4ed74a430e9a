"""Which records of which files are packed, how often, and which of them are held out.

in: the main file and `FILE:RATIO` of each mixed one, out: a Source each, with its shards.

RATIO is the share of the file's own records: 0.5 takes half of them, drawn by the seed; 2.5 takes each of them twice
and half of them a third time. The main file is taken once.

Held out for evaluation is the same share of every file, drawn file by file, so that mixing more in does not change what
is held out of the main one. A mixed document is never held out: the loss on it is not comparable with a chat's. What is
held out stands in the eval file once, and in the train file not at all.

The main file is conversation JSONL, each line checked. Mixed files, and a main one that is compressed, parquet or plain
text, are read as `data clean` reads files, without its rules: a record that cannot be read is an error.
"""

import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ochatctl.chat.conversation import to_json
from ochatctl.data.formats import read_items
from ochatctl.data.shards import SHARD_BYTES, Shard, cut_file, read_record
from ochatctl.errors import DataError
from ochatctl.files import atomic_file

# Anything else is JSONL and read in place, by every worker its own part.
_STAGED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".br", ".parquet", ".txt", ".md", ".html", ".htm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """A file to mix in, and how much of it."""

    path: Path
    ratio: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """A file's records: `copies` [N] says how often each is taken, `held_out` [N] which are drawn for evaluation.

    `shards` hold those that are taken at least once; `order` is that in which they are written, None as they come.
    """

    path: Path
    ratio: float
    is_mixed: bool
    shards: list[Shard]
    copies: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]
    order: npt.NDArray[np.int64] | None = None

    @property
    def num_bytes(self) -> int:
        """The bytes of its shards."""
        return sum(shard.end_byte - shard.start_byte for shard in self.shards)


def open_sources(
    data_path: Path,
    mix: Sequence[Mix],
    *,
    eval_ratio: float,
    seed: int,
    stage_dir: Path,
    like_ochat: bool = False,
    limit: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> list[Source]:
    """Read through the files and draw what is taken and held out.

    `limit` takes the first ones of each file. `stage_dir` gets JSONL copies of files in other formats. `like_ochat`
    shuffles as ochat 3.2.2 does, and holds out the first ones.

    Raises:
        DataError: a file is missing, holds nothing, or too little to hold some out; or cannot be read as records.
    """
    sources = []
    for number, item in enumerate([Mix(path=data_path), *mix]):
        path, strict = item.path, number == 0
        if path.name.lower().endswith((*_STAGED_SUFFIXES, *([] if strict else [".json"]))):
            path, strict = _stage(item.path, stage_dir / f"source-{number}.jsonl", limit), True
        shards = list(cut_file(path, shown=str(item.path), strict=strict, limit=limit, shard_bytes=shard_bytes))
        num_records = sum(shard.num_records for shard in shards)
        if number and not num_records:
            raise DataError(f"{item.path}: nothing to mix in")
        source = Source(
            path=item.path,
            ratio=item.ratio,
            is_mixed=number > 0,
            shards=shards,
            copies=np.ones(num_records, dtype=np.int64),
            held_out=np.zeros(num_records, dtype=np.bool_),
        )
        if like_ochat:
            sources.append(_drawn_like_ochat(source, eval_ratio, seed))
        else:
            # The main file's draw has the plain seed, and does not know of the others.
            generator = np.random.default_rng([seed, number] if number else seed)
            sources.append(_drawn(source, eval_ratio, generator))
    return sources


def _drawn(source: Source, eval_ratio: float, generator: np.random.Generator) -> Source:
    num_records = len(source.copies)
    copies, held_out = source.copies.copy(), source.held_out.copy()
    if source.is_mixed:
        copies *= int(source.ratio)
        num_more = round((source.ratio - int(source.ratio)) * num_records)
        copies[generator.choice(num_records, size=num_more, replace=False)] += 1
        if not copies.any():
            raise DataError(
                f"{source.path}: a ratio of {source.ratio:g} takes none of its {num_records} records",
                hint="a plain text file of less than a million characters is one record: mix in several, or all of it",
            )
    if eval_ratio:
        taken = np.flatnonzero(copies)
        num_held_out = round(eval_ratio * len(taken))
        if not source.is_mixed:
            if num_records < 2:
                raise DataError(f"{source.path}: {num_records} conversations are too few to hold some out")
            num_held_out = min(max(1, num_held_out), num_records - 1)
        held_out[taken[generator.choice(len(taken), size=num_held_out, replace=False)]] = True
    return dataclasses.replace(source, copies=copies, held_out=held_out, shards=_chosen(source.shards, copies))


def _drawn_like_ochat(source: Source, eval_ratio: float, seed: int) -> Source:
    """Shuffle the records and hold out the first `int(ratio * n)`.

    Source: ochat 3.2.2, `generate_dataset`.
    """
    order = list(range(len(source.copies)))
    random.Random(seed).shuffle(order)
    held_out = source.held_out.copy()
    held_out[order[: int(eval_ratio * len(order))]] = True
    return dataclasses.replace(source, held_out=held_out, order=np.array(order, dtype=np.int64))


def _chosen(shards: list[Shard], copies: npt.NDArray[np.int64]) -> list[Shard]:
    if copies.all():
        return shards
    chosen, first = [], 0
    for shard in shards:
        taken = copies[first : first + shard.num_records] > 0
        first += shard.num_records
        if taken.any():
            chosen.append(dataclasses.replace(shard, chosen=None if taken.all() else taken.tobytes()))
    return chosen


def _stage(path: Path, staged: Path, limit: int | None) -> Path:
    """Write a file of another format as JSONL, a record a line, so that a record's number is its line."""
    with atomic_file(staged) as part, part.open("w", encoding="utf-8") as lines:
        for number, (where, value) in enumerate(_items(path)):
            if number == limit:
                break
            record = read_record(value, where=where, strict=False)
            lines.write(json.dumps(to_json(record), ensure_ascii=False) + "\n")
    return staged


def _items(path: Path) -> Iterator[tuple[str, object]]:
    for item in read_items(path):
        if item.problem:
            raise DataError(f"{item.where}: {item.problem}")
        yield item.where, item.value
