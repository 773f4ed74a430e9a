"""`ochatctl data pack`: conversation JSONL -> packed datasets.

in: PackConfig, out: PREFIX.train.parquet, PREFIX.eval.parquet where a share is held out, and a PackReport.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ochatctl.chat.conversation import Conversation, parse_conversation
from ochatctl.chat.families import load_family
from ochatctl.data.dataset import DatasetInfo, split_path, write_dataset
from ochatctl.data.encode import IGNORED_LABEL, EncodeConfig, Outcome, Overlength, encode_all, tokenizer_digest
from ochatctl.data.split import SHORTEST_CONTEXT_TOKENS
from ochatctl.errors import ConfigError, DataError
from ochatctl.files import read_jsonl, read_optional_table, require_disk

# OpenChat's: answers of the weaker class count a tenth.
CLASS_WEIGHTS = {"GPT3": 0.1}

_MOST_WORKERS = 8
_BYTES_WORTH_WORKERS = 8_000_000
# Parquet holds at most about as many bytes as the text did, since zstd shrinks five columns of four bytes a token.
_DISK_BYTES_PER_INPUT_BYTE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig:
    """What to pack and how.

    `family` None: what the model folder says; `num_workers` 0: as many as are worth it; `limit`: only the first ones.
    """

    data_path: Path
    model_dir: Path
    prefix: str
    family: str | None = None
    eval_ratio: float = 0.0
    seed: int = 42
    class_weights: dict[str, float] = field(default_factory=lambda: dict(CLASS_WEIGHTS))
    overlength: Overlength = "split"
    num_workers: int = 0
    limit: int | None = None
    trust_remote_code: bool = False


@dataclass(kw_only=True, slots=True)
class ConditionTally:
    """What one condition has."""

    num_conversations: int = 0
    num_rows: int = 0
    num_supervised_tokens: int = 0


@dataclass(kw_only=True, slots=True)
class SplitTally:
    """What went into one file."""

    path: str
    num_rows: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    step_weight: float = 0.0
    longest_tokens: int = 0
    conditions: dict[str, ConditionTally] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class PackReport:
    """What became of the conversations.

    `num_overlength` were longer than the context: `num_dropped` of them were left out, the others became `num_pieces`
    rows. `num_without_loss` gave no row, since nothing in them has a loss weight; `num_pieces_without_loss` counts such
    pieces of conversations that gave other rows. `num_cut_prompts` were longer than half the context, and their rows
    keep only the header and the end of them.
    """

    family: str
    context_tokens: int
    overlength: Overlength
    class_weights: dict[str, float]
    num_conversations: int = 0
    num_overlength: int = 0
    num_pieces: int = 0
    num_dropped: int = 0
    num_without_loss: int = 0
    num_pieces_without_loss: int = 0
    num_cut_prompts: int = 0
    train: SplitTally
    eval: SplitTally | None = None


def pack_files(config: PackConfig, *, advance: Callable[[int], None] = lambda count: None) -> PackReport:
    """Encode a file of conversations and write the packed datasets.

    Guarantees: every conversation is written, or counted where it is not; the eval conversations are chosen by the
    seed, whole ones; the files do not depend on the number of workers, and appear whole or not at all.

    Raises:
        ConfigError: the model folder and the family do not go together, or a value is out of range.
        DataError: a conversation is malformed, names `file:line`; or nothing is left to train on.
    """
    family, tokenizer = load_family(config.model_dir, config.family, trust_remote_code=config.trust_remote_code)
    _check(config)
    context_tokens = _context_tokens(config.model_dir, family.context_tokens)
    num_conversations = sum(1 for _ in itertools.islice(_lines(config.data_path), config.limit))
    held_out = _held_out(num_conversations, config)
    report = PackReport(
        family=family.name,
        context_tokens=context_tokens,
        overlength=config.overlength,
        class_weights=dict(config.class_weights),
        train=SplitTally(path=str(split_path(config.prefix, "train"))),
        eval=SplitTally(path=str(split_path(config.prefix, "eval"))) if held_out else None,
    )
    outcomes = encode_all(
        itertools.islice(_conversations(config.data_path), config.limit),
        tokenizer,
        EncodeConfig(
            family=family,
            model_dir=config.model_dir,
            context_tokens=context_tokens,
            overlength=config.overlength,
            class_weights=config.class_weights,
            trust_remote_code=config.trust_remote_code,
        ),
        num_workers=_num_workers(config),
    )
    input_bytes = config.data_path.stat().st_size
    require_disk(Path(report.train.path), need_bytes=_DISK_BYTES_PER_INPUT_BYTE * input_bytes)
    with contextlib.ExitStack() as stack:
        tallies = [tally for tally in (report.eval, report.train) if tally is not None]
        writers = {tally.path: stack.enter_context(write_dataset(Path(tally.path))) for tally in tallies}
        for number, outcome in enumerate(outcomes):
            tally = report.eval if report.eval is not None and number in held_out else report.train
            _count(outcome, report, tally)
            for row in outcome.rows:
                writers[tally.path].add(row)
            advance(1)
        for tally in tallies:
            if not tally.num_rows:
                raise DataError(
                    f"{config.data_path}: no conversation with anything to learn is left for `{tally.path}`",
                    hint="an assistant message has a loss weight unless its `weight`, or its class's, is 0",
                )
            supervised = {name: c.num_supervised_tokens for name, c in sorted(tally.conditions.items())}
            writers[tally.path].finish(
                DatasetInfo(
                    model_type=family.name,
                    conditions=supervised if family.template.takes_condition else {},
                    context_tokens=context_tokens,
                    num_tokens=tokenizer.num_tokens,
                    tokenizer_digest=tokenizer_digest(tokenizer),
                    model_dir=str(config.model_dir),
                )
            )
    if report.eval is None:
        # An older run's would be taken for this one's.
        split_path(config.prefix, "eval").unlink(missing_ok=True)
    return report


def _check(config: PackConfig) -> None:
    if not 0 <= config.eval_ratio < 1:
        raise ConfigError(f"the eval ratio is {config.eval_ratio:g}, not between 0 and 1")
    for name, weight in config.class_weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"the weight of class `{name}` is {weight:g}, not a number of at least 0")


def _context_tokens(model_dir: Path, family_tokens: int) -> int:
    """Give the context that rows must fit: the family's, or the model's own where that is shorter."""
    table = read_optional_table(model_dir / "config.json")
    own = (table.get("text_config") or table).get("max_position_embeddings")
    context_tokens = min(family_tokens, own) if isinstance(own, int) else family_tokens
    if context_tokens < SHORTEST_CONTEXT_TOKENS:
        raise ConfigError(f"a context of {context_tokens} tokens is too short to hold a conversation")
    return context_tokens


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as lines:
            yield from (line for line in lines if line.strip())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a folder, where a JSONL file is expected") from error


def _conversations(path: Path) -> Iterator[tuple[str, Conversation]]:
    for where, value in read_jsonl(path):
        yield where, parse_conversation(value, where=where)


def _held_out(num_conversations: int, config: PackConfig) -> frozenset[int]:
    """Choose the eval conversations by number: at least one where a share is asked for, and never all."""
    if not config.eval_ratio:
        return frozenset()
    if num_conversations < 2:
        raise DataError(f"{config.data_path}: {num_conversations} conversations are too few to hold some out")
    count = min(max(1, round(config.eval_ratio * num_conversations)), num_conversations - 1)
    random = np.random.default_rng(config.seed)
    return frozenset(random.choice(num_conversations, size=count, replace=False).tolist())


def _num_workers(config: PackConfig) -> int:
    if config.num_workers:
        return config.num_workers
    # Starting one costs about a second, in which a single process encodes some megabytes.
    if config.data_path.stat().st_size < _BYTES_WORTH_WORKERS:
        return 1
    return min(_MOST_WORKERS, os.cpu_count() or 1)


def _count(outcome: Outcome, report: PackReport, tally: SplitTally) -> None:
    report.num_conversations += 1
    if outcome.num_tokens > report.context_tokens:
        report.num_overlength += 1
        report.num_pieces += len(outcome.rows)
    if not outcome.rows:
        report.num_without_loss += outcome.num_unsupervised > 0
        report.num_dropped += outcome.num_unsupervised == 0
        return
    report.num_pieces_without_loss += outcome.num_unsupervised
    report.num_cut_prompts += outcome.num_cut_prompts
    condition = tally.conditions.setdefault(outcome.condition, ConditionTally())
    condition.num_conversations += 1
    for row in outcome.rows:
        num_supervised = int((row.labels != IGNORED_LABEL).sum())
        condition.num_rows += 1
        condition.num_supervised_tokens += num_supervised
        tally.num_rows += 1
        tally.num_tokens += len(row.input_ids)
        tally.num_supervised_tokens += num_supervised
        tally.step_weight += float(row.loss_weights.sum(dtype=np.float64))
        tally.longest_tokens = max(tally.longest_tokens, len(row.input_ids))
