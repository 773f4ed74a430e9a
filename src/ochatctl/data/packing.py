"""Which row goes into which step and bin, and the arrays that a bin becomes.

in: row lengths, out: one Plan an epoch, the same on every rank; in: the rows of a bin, out: PackedBatch.

A bin is what one rank takes in one forward pass. A pure function of (lengths, bin size, bins a step, seed, epoch):
1. A random order of the rows. Where a bin holds many long rows, the order is cut into windows of 64 steps, each with
   its share of the steps; where it holds few, the whole epoch is one window, since small bins need the choice.
2. In a window: about the longest row first into the emptiest bin (LPT), which mixes long with short and evens out the
   bins; where that overflows, into the fullest bin that has room (best-fit decreasing). What does not fit a window goes
   into the next one; the last window tries the strict order of lengths, and then takes a further step.
3. Bins in random order; in groups of 64 steps, bins of like cost share a step, so that no rank waits for another.

Source: OpenChat's multipack sampler for the idea; LPT is Graham 1969, best-fit decreasing Johnson 1974.
"""

import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ochatctl.data.encode import IGNORED_LABEL, Row
from ochatctl.errors import DataError

# Cost of a row = tokens + this x tokens^2: attention's share for a model of 13B parameters.
COST_PER_SQUARED_TOKEN = 1.6e-5

_WINDOW_STEPS = 64
# A window with no room to spare passes rows on to the next; a thousandth is enough, and costs one step in a thousand.
_WINDOW_FILL = 0.999
_MANY_ROWS = 8
_LPT_ROWS = 3
# In the strict order of their lengths, rows would meet the same rows in every epoch: 43 times as often as by chance, on
# 20,000 rows and bins of 8 x 4096 tokens. Lengths times a random factor from here to 1 give chance, and bins as even.
_JITTER = 0.8
_LEFT_OVER = -1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An epoch: `steps[step][bin]` are row indices; bins of a step = ranks x accumulation steps.

    Guarantees: each row exactly once; no bin above its size; each step has the same number of bins; a bin is empty only
    where there are fewer rows than bins.

    Units: `efficiency_ratio` is tokens of the rows to tokens that the bins can hold; `imbalance_ratio` is the mean over
    steps of 1 - mean / max of its bins' cost.
    """

    steps: tuple[tuple[tuple[int, ...], ...], ...]
    num_tokens: int
    efficiency_ratio: float
    imbalance_ratio: float
    digest: str

    @property
    def num_rows(self) -> int:
        """How many rows it places."""
        return sum(len(rows) for step in self.steps for rows in step)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedBatch:
    """The rows of one bin end to end, without padding.

    Shapes: T = tokens, S = rows; `*_T` are int64 but `loss_weights_T`, float32; `cu_seqlens` is int32 [S + 1].
    Units: `step_loss_weight` is the loss weight summed over all bins of the step, which the loss is divided by.
    """

    input_ids_T: npt.NDArray[np.int64]
    position_ids_T: npt.NDArray[np.int64]
    labels_T: npt.NDArray[np.int64]
    loss_weights_T: npt.NDArray[np.float32]
    cu_seqlens: npt.NDArray[np.int32]
    max_seqlen: int
    step_loss_weight: float


def pack(rows: Sequence[Row], *, step_loss_weight: float) -> PackedBatch:
    """Lay rows end to end. No rows give one token of weight 0, so that a rank with an empty bin can take part."""
    if not rows:
        blank = np.zeros(1, dtype=np.int32)
        rows = [Row(input_ids=blank, labels=blank + IGNORED_LABEL, loss_weights=blank.astype(np.float32))]
    lengths = [len(row.input_ids) for row in rows]
    return PackedBatch(
        input_ids_T=np.concatenate([row.input_ids for row in rows]).astype(np.int64),
        position_ids_T=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        labels_T=np.concatenate([row.labels for row in rows]).astype(np.int64),
        loss_weights_T=np.concatenate([row.loss_weights for row in rows]).astype(np.float32),
        cu_seqlens=np.cumsum([0, *lengths], dtype=np.int32),
        max_seqlen=max(lengths),
        step_loss_weight=step_loss_weight,
    )


def plan_epoch(
    lengths: Sequence[int] | npt.NDArray[np.integer], *, bin_tokens: int, bins_per_step: int, seed: int, epoch: int
) -> Plan:
    """Plan an epoch.

    Raises:
        DataError: fewer rows than bins in a step, or a row longer than a bin.
    """
    lengths_N: Ints = np.asarray(lengths, dtype=np.int64)
    _check(lengths_N, bin_tokens, bins_per_step)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths_N))
    bins = _fill_windows(order, lengths_N, bin_tokens, bins_per_step, random)
    num_bins = math.ceil((int(bins.max()) + 1) / bins_per_step) * bins_per_step
    bins = _fill_empty_bins(bins, num_bins)
    cost_N = lengths_N + COST_PER_SQUARED_TOKEN * lengths_N.astype(np.float64) ** 2
    cost: Floats = np.bincount(bins, cost_N, minlength=num_bins).astype(np.float64)
    place = _place_bins(cost, bins_per_step, random)
    steps = _nest(order, place[bins[order]], num_bins, bins_per_step)
    cost_SB = cost[np.argsort(place)].reshape(-1, bins_per_step)
    num_tokens = int(lengths_N.sum())
    return Plan(
        steps=steps,
        num_tokens=num_tokens,
        efficiency_ratio=num_tokens / (num_bins * bin_tokens),
        imbalance_ratio=float(np.mean(1 - cost_SB.mean(axis=1) / cost_SB.max(axis=1))),
        digest=hashlib.blake2b(place[bins].astype("<i8").tobytes() + order.astype("<i8").tobytes()).hexdigest()[:32],
    )


def _check(lengths: Ints, bin_tokens: int, bins_per_step: int) -> None:
    if len(lengths) < bins_per_step:
        raise DataError(
            f"{len(lengths)} rows are too few for a step of {bins_per_step} bins (ranks x accumulation steps)",
            hint="train on fewer ranks, with fewer accumulation steps, or on more data",
        )
    if int(lengths.min(initial=1)) < 1:
        raise DataError(f"row {int(lengths.argmin())} has no tokens")
    longest = int(lengths.argmax())
    if lengths[longest] > bin_tokens:
        raise DataError(
            f"row {longest} has {int(lengths[longest])} tokens, and a bin holds {bin_tokens}",
            hint="raise the tokens of a batch to at least that, or pack again with a shorter context",
        )


def _fill_windows(order: Ints, lengths: Ints, bin_tokens: int, bins_per_step: int, random: np.random.Generator) -> Ints:
    """Give the bin of each row."""
    ends = np.cumsum(lengths[order])
    step_tokens = bins_per_step * bin_tokens
    many = bin_tokens >= _MANY_ROWS * int(lengths.max())
    num_steps = max(1, math.ceil(int(ends[-1]) / (step_tokens * (_WINDOW_FILL if many else 1))))
    num_windows = max(1, num_steps // _WINDOW_STEPS) if many else 1
    quotas = np.diff(np.linspace(0, num_steps, num_windows + 1).round().astype(np.int64))
    # Windows get rows in proportion to their steps, so that all are filled alike.
    cuts = np.searchsorted(ends, ends[-1] * np.cumsum(quotas)[:-1] / num_steps)
    bins = np.full(len(lengths), _LEFT_OVER, dtype=np.int64)
    first_bin = 0
    left: Ints = np.empty(0, dtype=np.int64)
    for number, (rows, quota) in enumerate(zip(np.split(order, cuts), quotas, strict=True), start=1):
        window = np.concatenate([left, rows])
        about_longest = window[np.argsort(-lengths[window] * random.uniform(_JITTER, 1, len(window)))]
        num_bins = int(quota) * bins_per_step
        window = about_longest
        local = _fill(lengths[window], num_bins, bin_tokens, may_leave=number < num_windows)
        if number == num_windows and (local == _LEFT_OVER).any():
            window, local, num_bins = _fill_last(about_longest, lengths, num_bins, bin_tokens, bins_per_step)
        left = window[local == _LEFT_OVER]
        placed = local != _LEFT_OVER
        bins[window[placed]] = first_bin + local[placed]
        first_bin += num_bins
    return bins


def _fill(lengths: Ints, num_bins: int, bin_tokens: int, *, may_leave: bool) -> Ints:
    """Give the bin of each length, in their order; `_LEFT_OVER` where none has room."""
    longest = int(lengths.max())
    fill = float(lengths.sum()) / (num_bins * bin_tokens)
    if fill <= 0.98 or bin_tokens >= _LPT_ROWS * longest:
        bins = _take_out(_emptiest(lengths, num_bins), lengths, bin_tokens)
        left = np.flatnonzero(bins == _LEFT_OVER)
        if not len(left):
            return bins
        room = bin_tokens - np.bincount(bins[bins != _LEFT_OVER], lengths[bins != _LEFT_OVER], minlength=num_bins)
        bins[left] = _best_fit(lengths[left], room.astype(np.int64))
        if (bins != _LEFT_OVER).all() or may_leave:
            return bins
    # A lower cap than need be gives bins that are more alike.
    even = lengths.sum() / num_bins
    for cap in (math.ceil(even * 1.002), math.ceil(even * 1.01)):
        if longest <= cap < bin_tokens:
            bins = _best_fit(lengths, np.full(num_bins, cap))
            if (bins != _LEFT_OVER).all():
                return bins
    return _best_fit(lengths, np.full(num_bins, bin_tokens))


def _emptiest(lengths: Ints, num_bins: int) -> Ints:
    """Put each length into the emptiest bin."""
    # One integer a bin, tokens x bins + number, keeps the heap to plain comparisons.
    heap = list(range(num_bins))
    bins = [0] * len(lengths)
    replace = heapq.heapreplace
    for index, length in enumerate(lengths.tolist()):
        emptiest = heap[0]
        bins[index] = emptiest % num_bins
        replace(heap, emptiest + length * num_bins)
    return np.array(bins, dtype=np.int64)


def _fill_last(
    window: Ints, lengths: Ints, num_bins: int, bin_tokens: int, bins_per_step: int
) -> tuple[Ints, Ints, int]:
    """Give the rows in the order tried, the bin of each, and how many bins it takes to place them all."""
    strict = window[np.argsort(-lengths[window], kind="stable")]
    # Best fit opens a bin only where nothing else has room, so bins that it may open and does not are not counted.
    found = _best_fit(lengths[strict], np.full(num_bins + len(window), bin_tokens))
    _, local = np.unique(found, return_inverse=True)
    needed = max(num_bins, math.ceil((int(local.max()) + 1) / bins_per_step) * bins_per_step)
    if needed > num_bins:
        random = _fill(lengths[window], needed, bin_tokens, may_leave=False)
        if (random != _LEFT_OVER).all():
            return window, random, needed
    return strict, local, needed


def _take_out(bins: Ints, lengths: Ints, bin_tokens: int) -> Ints:
    """Take rows out of each bin that is too full: the smallest that is enough, else the largest and so on."""
    over = np.bincount(bins, lengths).astype(np.int64) - bin_tokens
    for number in np.flatnonzero(over > 0):
        rows = np.flatnonzero(bins == number)
        rows = rows[np.argsort(lengths[rows])]
        excess = int(over[number])
        while excess > 0:
            at = min(int(np.searchsorted(lengths[rows], excess)), len(rows) - 1)
            excess -= int(lengths[rows[at]])
            bins[rows[at]] = _LEFT_OVER
            rows = np.delete(rows, at)
    return bins


def _best_fit(lengths: Ints, rooms: Ints) -> Ints:
    """Put each length into the bin with the least room that it fits, given the room of each bin."""
    # `with_room` has bit r set where a bin with room for exactly r tokens exists: the tightest is the lowest set bit.
    at_room: list[list[int]] = [[] for _ in range(int(rooms.max()) + 1)]
    for number, room in enumerate(rooms.tolist()):
        at_room[room].append(number)
    with_room = sum(1 << room for room, numbers in enumerate(at_room) if numbers)
    bins = [_LEFT_OVER] * len(lengths)
    for index, length in enumerate(lengths.tolist()):
        fitting = with_room >> length
        if not fitting:
            continue
        room = length + (fitting & -fitting).bit_length() - 1
        chosen = at_room[room].pop()
        if not at_room[room]:
            with_room ^= 1 << room
        if not at_room[room - length]:
            with_room |= 1 << (room - length)
        at_room[room - length].append(chosen)
        bins[index] = chosen
    return np.array(bins, dtype=np.int64)


def _fill_empty_bins(bins: Ints, num_bins: int) -> Ints:
    """Give every empty bin half of the rows of the bin that has most of them, as long as there are enough rows."""
    counts = np.bincount(bins, minlength=num_bins)
    for empty in np.flatnonzero(counts == 0):
        richest = int(counts.argmax())
        if counts[richest] < 2:
            break
        moved = np.flatnonzero(bins == richest)[::2]
        bins[moved] = empty
        counts[richest] -= len(moved)
        counts[empty] = len(moved)
    return bins


def _place_bins(cost: Floats, bins_per_step: int, random: np.random.Generator) -> Ints:
    """Give each bin its place, step by step, so that the bins of a step cost alike and their order is random."""
    num_bins = len(cost)
    shuffled = random.permutation(num_bins)
    # The emptiest bins, which hold the end of the data, go into one step and not each into a step of full ones.
    tail = shuffled[np.argsort(cost[shuffled], kind="stable")[:bins_per_step]]
    rest = shuffled[~np.isin(shuffled, tail)]
    group_bins = _WINDOW_STEPS * bins_per_step
    groups = [rest[start : start + group_bins] for start in range(0, len(rest), group_bins)]
    alike = np.concatenate([tail, *(group[np.argsort(cost[group], kind="stable")] for group in groups)])
    steps = random.permuted(alike.reshape(-1, bins_per_step), axis=1)
    place = np.empty(num_bins, dtype=np.int64)
    place[random.permutation(steps).ravel()] = np.arange(num_bins)
    return place


def _nest(order: Ints, place: Ints, num_bins: int, bins_per_step: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    rows = order[np.argsort(place, kind="stable")].tolist()
    ends = np.cumsum(np.bincount(place, minlength=num_bins)).tolist()
    flat = [tuple(rows[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return tuple(tuple(flat[start : start + bins_per_step]) for start in range(0, num_bins, bins_per_step))
