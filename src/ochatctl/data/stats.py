"""What a packed dataset, or a file of conversations, consists of: counts, classes, lengths.

in: a PackedDataset, with its tokenizer where one is at hand, or conversation JSONL; out: DatasetStats or
ConversationStats.
"""

import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ochatctl.chat.conversation import Document, parse_record
from ochatctl.chat.families import Family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.data.conditions import RowConditions
from ochatctl.data.dataset import PackedDataset, joined
from ochatctl.errors import DataError
from ochatctl.files import read_jsonl

# The percentiles that are told; 100 is the longest.
PERCENTILES = (50, 90, 95, 99, 100)
_MOST_WEIGHTS = 1000


@dataclass(kw_only=True, slots=True)
class ClassStats:
    """What the rows of one condition have."""

    num_rows: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    step_weight: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar of a histogram: `count` lie from `start` to just below `end`."""

    start: int
    end: int
    count: int


@dataclass(kw_only=True, slots=True)
class DatasetStats:
    """What a packed dataset consists of.

    `conditions` is by row, seen in the ids; without a tokenizer it is empty, and `supervised_by_condition` is what the
    file says of itself. `num_answers` counts the runs of supervised tokens, `num_turns` the end-of-turn tokens (0
    without a tokenizer). `weights` gives the tokens at each loss weight; None where a file has too many to list.
    """

    path: str
    model_type: str
    context_tokens: int
    num_rows: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    supervised_ratio: float = 0.0
    step_weight: float = 0.0
    num_answers: int = 0
    num_turns: int = 0
    conditions: dict[str, ClassStats] = field(default_factory=dict)
    supervised_by_condition: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] | None = None
    length_percentiles: dict[str, int] = field(default_factory=dict)
    lengths: list[Bar] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class ConversationStats:
    """What a file of conversations consists of; lengths are in characters, of a whole conversation or document."""

    path: str
    num_conversations: int = 0
    num_documents: int = 0
    num_turns: int = 0
    num_answers: int = 0
    num_characters: int = 0
    num_with_system: int = 0
    conditions: dict[str, int] = field(default_factory=dict)
    length_percentiles: dict[str, int] = field(default_factory=dict)
    lengths: list[Bar] = field(default_factory=list)


def dataset_stats(
    dataset: PackedDataset,
    *,
    model: tuple[Family, Tokenizer] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> DatasetStats:
    """Count what a packed dataset holds; memory does not grow with it, but for a few bytes a row.

    Raises:
        DataError: the file is damaged.
    """
    stats = DatasetStats(
        path=str(dataset.path),
        model_type=dataset.model_type,
        context_tokens=dataset.info.context_tokens,
        num_rows=len(dataset),
        num_tokens=int(dataset.lengths.sum()),
        supervised_by_condition=dict(dataset.conditions),
    )
    classes = RowConditions(*model, dataset.conditions) if model else None
    weights: Counter[float] = Counter()
    for batch in dataset.blocks(["nz_shifted_loss_weights", *(["nz_input_ids"] if classes else [])]):
        values, ends = joined(batch.column("nz_shifted_loss_weights"))
        starts = np.append(0, ends[:-1])
        if not len(values) or (ends == starts).any():
            raise DataError(f"{dataset.path}: a row is empty", hint="`ochatctl data verify` says which")
        for weight, count in zip(*np.unique(values, return_counts=True), strict=True):
            if len(weights) <= _MOST_WEIGHTS:
                weights[float(weight)] += int(count)
        learnt = values != 0
        begins = learnt & ~np.append(False, learnt[:-1])
        # A row's last position is not learnt, so that no run goes on into the next row.
        stats.num_answers += int(begins.sum())
        num_learnt = np.add.reduceat(learnt, starts, dtype=np.int64)
        stats.num_supervised_tokens += int(num_learnt.sum())
        sums = np.add.reduceat(values, starts, dtype=np.float64)
        stats.step_weight += float(sums.sum())
        if classes:
            ids, id_ends = joined(batch.column("nz_input_ids"))
            if not np.array_equal(id_ends, ends):
                raise DataError(f"{dataset.path}: columns differ in length", hint="`ochatctl data verify` says where")
            stats.num_turns += int((ids == classes.eot_id).sum())
            for start, end, supervised, weight in zip(starts, ends, num_learnt, sums, strict=True):
                tally = stats.conditions.setdefault(classes.of(ids[start:end]), ClassStats())
                tally.num_rows += 1
                tally.num_tokens += int(end - start)
                tally.num_supervised_tokens += int(supervised)
                tally.step_weight += float(weight)
        advance(batch.num_rows)
    stats.supervised_ratio = stats.num_supervised_tokens / max(stats.num_tokens, 1)
    if len(weights) <= _MOST_WEIGHTS:
        stats.weights = {f"{weight:g}": count for weight, count in sorted(weights.items(), reverse=True)}
    stats.length_percentiles, stats.lengths = _distribution(dataset.lengths)
    return stats


def conversation_stats(path: Path, *, advance: Callable[[int], None] = lambda count: None) -> ConversationStats:
    """Count what a file of conversations holds.

    Raises:
        DataError: a line is no conversation, names `file:line`.
    """
    stats = ConversationStats(path=str(path))
    conditions: Counter[str] = Counter()
    lengths = array.array("q")
    for where, value in read_jsonl(path):
        record = parse_record(value, where=where)
        if isinstance(record, Document):
            stats.num_documents += 1
            lengths.append(len(record.text))
        else:
            stats.num_conversations += 1
            stats.num_turns += len(record.messages)
            stats.num_answers += sum(message.role == "assistant" for message in record.messages)
            stats.num_with_system += bool(record.system)
            conditions[record.condition] += 1
            lengths.append(sum(len(message.content) for message in record.messages) + len(record.system))
        advance(1)
    stats.conditions = dict(sorted(conditions.items()))
    stats.num_characters = sum(lengths)
    stats.length_percentiles, stats.lengths = _distribution(np.array(lengths, dtype=np.int64))
    return stats


def _distribution(lengths: npt.NDArray[np.int64]) -> tuple[dict[str, int], list[Bar]]:
    if not len(lengths):
        return {}, []
    # A length that occurs, not a mean of two.
    values = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
    edges = _edges(int(lengths.max()))
    counts = np.histogram(lengths, bins=edges)[0]
    bars = [
        Bar(start=start, end=end, count=int(count))
        for start, end, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    return {str(p): int(value) for p, value in zip(PERCENTILES, values, strict=True)}, bars


def _edges(longest: int) -> Sequence[int]:
    """Give the bounds of 8 to 16 bars of equal, round width that hold every length from 0 to the longest."""
    width = 1
    while (longest + 1) / width > 16:
        width *= 2
    return range(0, longest + width + 1, width)
