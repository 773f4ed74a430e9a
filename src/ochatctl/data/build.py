"""`data pack`: conversation JSONL, and what is mixed in, -> packed datasets.

in: PackConfig, out: PREFIX.train.parquet, PREFIX.eval.parquet where a share is held out, the same as `.flat` files
where asked for, and a PackReport.

Everything is written inside `PREFIX.parts/`, and renamed at the end. A large input's shards are kept there too, a file
each, until all is written, so that a killed run is gone on with; what lies there never decides what is written.

What `compat` "ochat-3.2.2" does otherwise, read in its `data/generate_dataset.py`:

    |                              | here                              | ochat 3.2.2                             |
    | ---------------------------- | --------------------------------- | --------------------------------------- |
    | longer than the context      | split between turns               | its ids cut at the context              |
    | order of the rows            | that of the file                  | `random.seed(seed)`, `random.shuffle`   |
    | held out                     | a draw, at least one              | the first `int(ratio * n)`, perhaps none|
    | condition missing or unknown | the inference condition, weight 1 | `GPT3`, and its weight                  |
    | nothing supervised           | no row, counted                   | no row                                  |
    | class weight 0               | no row, counted                   | an `AssertionError`; ours stands        |
    | refusals                     | found by `data clean`             | found here; clean with the same compat  |
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ochatctl.chat.families import load_family
from ochatctl.data.dataset import DatasetInfo, DatasetWriter, Split, split_path, write_dataset
from ochatctl.data.encode import Compat, EncodeConfig, Outcome, Overlength, tokenizer_digest
from ochatctl.data.flat import FlatWriter, flat_path, write_flat
from ochatctl.data.mix import Mix, Source, open_sources
from ochatctl.data.shards import SHARD_BYTES, EncodedShard, encode_shards, part_keys
from ochatctl.data.split import SHORTEST_CONTEXT_TOKENS
from ochatctl.data.tally import PackReport, SourceTally, SplitTally
from ochatctl.errors import ConfigError, DataError
from ochatctl.files import read_optional_table, require_disk
from ochatctl.lock import hold

# OpenChat's: answers of the weaker class count a tenth.
CLASS_WEIGHTS = {"GPT3": 0.1}

_MOST_WORKERS = 8
# Starting a worker costs about a second, in which a single process encodes some megabytes.
_BYTES_WORTH_WORKERS = 8_000_000
# A file, or the parts, hold at most about as many bytes as the text: 8 to 20 for a token of 4 characters, before zstd.
_DISK_BYTES_PER_INPUT_BYTE = 2
_PARTS_PATTERNS = ("*.part", "source-*.jsonl", "*.parquet", "*.flat")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig:
    """What to pack and how.

    `family` None: what the model folder says; `overlength` None: split, or truncate with `compat`; `num_workers` 0: as
    many as are worth it; `limit`: only the first ones of each file; `flat`: write the flat files too; `context_tokens`
    None: the family's, or the model's own where that is shorter.
    """

    data_path: Path
    model_dir: Path
    prefix: str
    family: str | None = None
    mix: tuple[Mix, ...] = ()
    eval_ratio: float = 0.0
    seed: int = 42
    class_weights: dict[str, float] = field(default_factory=lambda: dict(CLASS_WEIGHTS))
    per_sequence_loss: bool = False
    overlength: Overlength | None = None
    carry_turns: int = 0
    compat: Compat | None = None
    flat: bool = False
    num_workers: int = 0
    limit: int | None = None
    context_tokens: int | None = None
    shard_bytes: int = SHARD_BYTES
    trust_remote_code: bool = False


def pack_files(
    config: PackConfig,
    *,
    advance: Callable[[int], None] = lambda count: None,
    say: Callable[[str], None] = lambda text: None,
) -> PackReport:
    """Encode files of conversations and documents and write the packed datasets.

    Guarantees: every record is written, or counted where it is not; the eval conversations are chosen by the seed,
    whole ones; the files do not depend on the number of workers, nor on runs that were killed before; they appear whole
    or not at all, at the end.

    Raises:
        ConfigError: the model folder and the family do not go together, or a value is out of range.
        DataError: a record is malformed, names `file:line`; or nothing is left to train on.
        EnvironmentProblem: the disk is too small, or another process packs to the same prefix.
        RunError: a worker process died.
    """
    family, tokenizer = load_family(config.model_dir, config.family, trust_remote_code=config.trust_remote_code)
    _check(config)
    encode_config = EncodeConfig(
        family=family,
        model_dir=config.model_dir,
        context_tokens=_context_tokens(config, family.context_tokens),
        overlength=config.overlength or ("truncate" if config.compat else "split"),
        carry_turns=config.carry_turns,
        class_weights=config.class_weights,
        per_sequence_loss=config.per_sequence_loss,
        compat=config.compat,
        trust_remote_code=config.trust_remote_code,
    )
    parts_dir = Path(f"{config.prefix}.parts")
    with _Parts(parts_dir, say, prefix=config.prefix) as parts:
        sources = open_sources(
            config.data_path,
            config.mix,
            eval_ratio=config.eval_ratio,
            seed=config.seed,
            stage_dir=parts_dir,
            like_ochat=config.compat is not None,
            limit=config.limit,
            shard_bytes=config.shard_bytes,
        )
        num_bytes = sum(source.num_bytes for source in sources)
        num_workers = config.num_workers or _num_workers(num_bytes)
        is_large = num_workers > 1 or num_bytes >= _BYTES_WORTH_WORKERS
        require_disk(parts_dir, need_bytes=_DISK_BYTES_PER_INPUT_BYTE * num_bytes * (1 + is_large + config.flat))
        shards = [shard for source in sources for shard in source.shards]
        digest = tokenizer_digest(tokenizer)
        keys = part_keys(shards, encode_config, digest) if is_large else []
        parts.keep(keys)
        encoded = encode_shards(
            shards,
            tokenizer,
            encode_config,
            num_workers=num_workers,
            parts_dir=parts_dir if is_large else None,
            keys=keys,
            say=say,
        )
        report = _report(config, encode_config, sources)
        splits: list[Split] = ["train"] if report.eval is None else ["train", "eval"]
        with contextlib.closing(encoded), _Outputs(parts_dir, splits, flat=config.flat) as outputs:
            _write(encoded, sources, report, outputs, advance)
            for split in splits:
                tally = report.train if report.eval is None or split == "train" else report.eval
                supervised = {name: c.num_supervised_tokens for name, c in sorted(tally.conditions.items())}
                outputs.finish(
                    split,
                    DatasetInfo(
                        model_type=family.name,
                        conditions=supervised if family.template.takes_condition else {},
                        context_tokens=encode_config.context_tokens,
                        num_tokens=tokenizer.num_tokens,
                        tokenizer_digest=digest,
                        model_dir=str(config.model_dir),
                    ),
                )
        outputs.publish(config.prefix)
        parts.done()
    return report


class _Parts:
    """The folder of what is not finished, one run's: removed at the end, kept with its shards where the run fails."""

    def __init__(self, folder: Path, say: Callable[[str], None], *, prefix: str) -> None:
        self._folder = folder
        self._say = say
        self._keys: frozenset[str] = frozenset()
        self._lock = contextlib.ExitStack()
        self._prefix = prefix

    def __enter__(self) -> "_Parts":
        self._lock.enter_context(hold(self._folder, shown=self._prefix))
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._remove(keep=self._keys)
        # Whatever else lies there is not ours.
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        if any(self._folder.glob("*.part")):
            self._say(f"the finished shards are kept in `{self._folder}`: the same command goes on with them")

    def keep(self, keys: Iterable[str]) -> None:
        """Keep these shards, and no other run's."""
        self._keys = frozenset(f"{key}.part" for key in keys)
        for path in self._folder.glob("*.part"):
            if path.name not in self._keys:
                path.unlink()

    def done(self) -> None:
        """Keep nothing."""
        self._keys = frozenset()

    def _remove(self, keep: frozenset[str]) -> None:
        for pattern in _PARTS_PATTERNS:
            for path in self._folder.glob(pattern):
                if path.name not in keep:
                    path.unlink(missing_ok=True)


class _Outputs:
    """The files of a run, under other names until all of them are whole."""

    def __init__(self, folder: Path, splits: Iterable[Split], *, flat: bool) -> None:
        self._stack = contextlib.ExitStack()
        self._paths: list[Path] = []
        self._writers: dict[Split, list[DatasetWriter | FlatWriter]] = {}
        with contextlib.ExitStack() as stack:
            for split in splits:
                parquet, flat_file = folder / f"{split}.parquet", folder / f"{split}.flat"
                self._writers[split] = [stack.enter_context(write_dataset(parquet))]
                self._paths.append(parquet)
                if flat:
                    self._writers[split].append(stack.enter_context(write_flat(flat_file)))
                    self._paths.append(flat_file)
            self._stack = stack.pop_all()

    def __enter__(self) -> "_Outputs":
        return self

    def __exit__(self, *fault: object) -> None:
        self._stack.__exit__(*fault)  # type: ignore[arg-type]  # the three that Python gives

    def add(self, split: Split, outcome: Outcome) -> None:
        for row in outcome.rows:
            for writer in self._writers[split]:
                writer.add(row)

    def finish(self, split: Split, info: DatasetInfo) -> None:
        for writer in self._writers[split]:
            writer.finish(info)

    def publish(self, prefix: str) -> None:
        """Give the files their names; files of an older run, which would be taken for this one's, go first."""
        splits: tuple[Split, ...] = ("train", "eval")
        for split in splits:
            split_path(prefix, split).unlink(missing_ok=True)
            flat_path(prefix, split).unlink(missing_ok=True)
        for path in self._paths:
            path.replace(f"{prefix}.{path.name}")


def _write(
    encoded: Iterator[EncodedShard],
    sources: list[Source],
    report: PackReport,
    outputs: _Outputs,
    advance: Callable[[int], None],
) -> None:
    for source, tally in zip(sources, report.sources, strict=True):
        for number, outcome in _outcomes(source, encoded):
            # A mixed document is never held out.
            is_held_out = source.held_out[number] and not (source.is_mixed and outcome.condition is None)
            split: Split = "eval" if is_held_out else "train"
            split_tally = report.eval if is_held_out and report.eval is not None else report.train
            for _ in range(1 if is_held_out else source.copies[number]):
                report.count(outcome, tally, split_tally)
                outputs.add(split, outcome)
            advance(1)
    for split_tally in filter(None, (report.train, report.eval)):
        if not split_tally.num_rows and not report.num_conversations and not report.num_documents:
            raise DataError(f"{sources[0].path}: nothing is in it", hint="`ochatctl data clean` writes such files")
        if not split_tally.num_rows:
            raise DataError(
                f"{sources[0].path}: no conversation with anything to learn is left for `{split_tally.path}`",
                hint="an assistant message has a loss weight unless its `weight`, or its class's, is 0",
            )


def _outcomes(source: Source, encoded: Iterator[EncodedShard]) -> Iterator[tuple[int, Outcome]]:
    """Give the record numbers and outcomes of a source, in the order in which they are written."""
    if source.order is None:
        numbers = iter(np.flatnonzero(source.copies).tolist())
        for _ in source.shards:
            for outcome in next(encoded).outcomes():
                yield next(numbers), outcome
        return
    shards = [next(encoded) for _ in source.shards]
    ends = np.cumsum([len(shard.counts) for shard in shards])
    for number in source.order.tolist():
        index = int(np.searchsorted(ends, number, side="right"))
        yield number, shards[index].outcome(number - int(ends[index]) + len(shards[index].counts))


def _report(config: PackConfig, encode_config: EncodeConfig, sources: list[Source]) -> PackReport:
    has_eval = any(source.held_out.any() for source in sources)
    return PackReport(
        family=encode_config.family.name,
        context_tokens=encode_config.context_tokens,
        overlength=encode_config.overlength,
        class_weights=dict(config.class_weights),
        sources=[SourceTally(path=str(s.path), ratio=s.ratio, num_records=len(s.copies)) for s in sources],
        train=SplitTally(path=str(split_path(config.prefix, "train"))),
        eval=SplitTally(path=str(split_path(config.prefix, "eval"))) if has_eval else None,
    )


def _check(config: PackConfig) -> None:
    if not 0 <= config.eval_ratio < 1:
        raise ConfigError(f"the eval ratio is {config.eval_ratio:g}, not between 0 and 1")
    for name, weight in config.class_weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"the weight of class `{name}` is {weight:g}, not a number of at least 0")
    for item in config.mix:
        if not (math.isfinite(item.ratio) and item.ratio > 0):
            raise ConfigError(f"the ratio of `{item.path}` is {item.ratio:g}, not a number above 0")
    if config.carry_turns and config.overlength in ("truncate", "drop"):
        raise ConfigError(f"turns are carried over where conversations are split, not with `{config.overlength}`")
    if config.compat is None:
        return
    for value, flag in ((config.mix, "--mix"), (config.per_sequence_loss, "--per-sequence-loss"),
                        (config.carry_turns, "--carry-turns")):  # fmt: skip
        if value:
            raise ConfigError(f"{config.compat} had no `{flag}`", hint=f"leave out `--compat` or `{flag}`")


def _context_tokens(config: PackConfig, family_tokens: int) -> int:
    """Give the context that rows must fit: what was asked for, or the family's, or the model's where that is shorter.

    One that is asked for may be longer than the model's: training can extend that.
    """
    table = read_optional_table(config.model_dir / "config.json")
    own = (table.get("text_config") or table).get("max_position_embeddings")
    context_tokens = config.context_tokens or (min(family_tokens, own) if isinstance(own, int) else family_tokens)
    if context_tokens < SHORTEST_CONTEXT_TOKENS:
        raise ConfigError(f"a context of {context_tokens} tokens is too short to hold a conversation")
    return context_tokens


def _num_workers(num_bytes: int) -> int:
    if num_bytes < _BYTES_WORTH_WORKERS:
        return 1
    return min(_MOST_WORKERS, os.cpu_count() or 1)
