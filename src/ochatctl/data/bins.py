"""Put lengths into bins: the fillers that the plan of an epoch is made of.

in: lengths, a number of bins and their size; out: the bin of each length, `LEFT_OVER` where it found no room.

`emptiest` (LPT) makes bins alike and wants many rows a bin; `tightest` (best-fit decreasing) wastes nothing, but gives
a row the same neighbours in every epoch, and some bins nothing but short rows. `mixed` has the good of both: the
emptiest bin for the long rows, the stones, and the tightest for the short ones, the sand, which fills the gaps.

Source: LPT is Graham 1969, best-fit decreasing Johnson 1974.
"""

import heapq
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

LEFT_OVER = -1

Ints = npt.NDArray[np.int64]

# In the strict order of their lengths, rows would meet the same rows in every epoch.
_JITTER = 0.8
_SAND_JITTERS = (0.2, 0.5, 0.8, 1.0)
# Bins within this of the mean count as alike; where they have no row so short to give, within more, in this order.
_ALIKE = (0.015, 0.02, 0.025, 0.03, 0.04)
_MOST_UNLIKE_IN_STEP = 0.005


def least_bins(lengths: Ints, *, bin_tokens: int) -> int:
    """Give a number of bins that no packing can do with less of.

    More than tokens / size where many rows take most of a bin, and what is left beside them fits none of the others.

    Source: the bound L2 of Martello and Toth 1990.
    """
    half = bin_tokens // 2
    counts = np.bincount(lengths, minlength=bin_tokens + 1)
    num_up_to = np.cumsum(counts)
    tokens_up_to = np.cumsum(counts * np.arange(len(counts)))
    shortest = np.arange(half + 1)  # rows shorter than this might fit anywhere, and do not count
    most = bin_tokens - shortest
    room = (num_up_to[most] - num_up_to[half]) * bin_tokens - (tokens_up_to[most] - tokens_up_to[half])
    tokens = tokens_up_to[half] - np.concatenate([[0], tokens_up_to[:half]])
    beside = np.maximum(0, -((room - tokens) // bin_tokens))
    return int(len(lengths) - num_up_to[half] + beside.max())


def emptiest(lengths: Ints, *, num_bins: int, bin_tokens: int) -> Ints:
    """Put each length, in the order given, into the emptiest bin; take out of bins that are then too full."""
    # One integer a bin, tokens x bins + number, keeps the heap to plain comparisons.
    heap = list(range(num_bins))
    found = [0] * len(lengths)
    replace = heapq.heapreplace
    for index, length in enumerate((lengths * num_bins).tolist()):
        tokens_and_number = heap[0]
        found[index] = tokens_and_number % num_bins
        replace(heap, tokens_and_number + length)
    bins = np.array(found, dtype=np.int64)
    _take_out(bins, lengths, num_bins=num_bins, bin_tokens=bin_tokens)
    return bins


def _take_out(bins: Ints, lengths: Ints, *, num_bins: int, bin_tokens: int) -> None:
    """Take lengths out of each bin that is too full: the smallest that is enough, else the largest and so on."""
    over = np.bincount(bins, lengths, minlength=num_bins).astype(np.int64) - bin_tokens
    full = np.flatnonzero(over > 0)
    order = np.lexsort((lengths, bins))
    starts, ends = (np.searchsorted(bins[order], full, side).tolist() for side in ("left", "right"))
    for excess, start, end in zip(over[full].tolist(), starts, ends, strict=True):
        rows = order[start:end]
        while excess > 0:
            at = min(int(np.searchsorted(lengths[rows], excess)), len(rows) - 1)
            excess -= int(lengths[rows[at]])
            bins[rows[at]] = LEFT_OVER
            rows = np.delete(rows, at)


def tightest(lengths: Ints, rooms: Ints) -> Ints:
    """Put each length, in the order given, into the bin with the least room that it fits, given the room of each."""
    starts = np.flatnonzero(np.diff(lengths, prepend=0))
    # `with_room` has bit r set where a bin with room for exactly r tokens exists: the tightest is the lowest set bit.
    by_room = np.argsort(rooms, kind="stable")
    present, at = np.unique(rooms[by_room], return_index=True)
    numbers = [part.tolist() for part in np.split(by_room, at[1:])]
    at_room: dict[int, list[int]] = dict(zip(present.tolist(), numbers, strict=True))
    with_room = 0
    for room in at_room:
        with_room |= 1 << room
    found: list[int] = []
    # Equal lengths that follow each other go at once.
    counts = np.diff(starts, append=len(lengths)).tolist()
    for length, count in zip(lengths[starts].tolist(), counts, strict=True):
        while count:
            fitting = with_room >> length
            if not fitting:
                found += [LEFT_OVER] * count
                break
            room = length + (fitting & -fitting).bit_length() - 1
            # A bin that took one is the tightest for the next, until it is full.
            each = min(room // length, count)
            chosen = at_room[room][-(count // each) :]
            del at_room[room][-len(chosen) :]
            found += chosen if each == 1 else [number for number in chosen for _ in range(each)]
            count -= each * len(chosen)
            if not at_room[room]:
                with_room ^= 1 << room
            left = room - each * length
            at_room.setdefault(left, []).extend(chosen)
            with_room |= 1 << left
    return np.array(found, dtype=np.int64)


def mixed(
    lengths: Ints, *, num_bins: int, bin_tokens: int, sand_ratio: float, random: np.random.Generator
) -> Iterator[Ints]:
    """Give tries at placing all: the longer rows into the emptiest bin, the sand into the tightest.

    `sand_ratio` of the tokens, in the shortest rows, are sand. The tries differ in the order of the sand, from one with
    much chance in it, so that rows meet other rows in every epoch, to the strict one of lengths, which fits best.
    """
    by_length = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[by_length])
    num_sand = int(np.searchsorted(ends, sand_ratio * ends[-1]))
    stones, sand = by_length[num_sand:], by_length[:num_sand]
    stones = stones[about_longest_first(lengths[stones], _JITTER, random)]
    bins = np.full(len(lengths), LEFT_OVER, dtype=np.int64)
    bins[stones] = emptiest(lengths[stones], num_bins=num_bins, bin_tokens=bin_tokens)
    sand = np.concatenate([stones[bins[stones] == LEFT_OVER], sand])
    for jitter in _SAND_JITTERS:
        order = about_longest_first(lengths[sand], jitter, random)
        yield add_tightest(bins, sand[order], lengths, num_bins=num_bins, bin_tokens=bin_tokens)


def about_longest_first(lengths: Ints, jitter: float, random: np.random.Generator) -> Ints:
    """Give the order of lengths, the longest first, each times a random factor from `jitter` to 1."""
    return np.argsort(-lengths * random.uniform(jitter, 1, len(lengths)))


def add_tightest(bins: Ints, rows: Ints, lengths: Ints, *, num_bins: int, bin_tokens: int) -> Ints:
    """Put rows, in the order given, into the tightest of bins that hold others already."""
    placed = bins != LEFT_OVER
    rooms = bin_tokens - np.bincount(bins[placed], lengths[placed], minlength=num_bins).astype(np.int64)
    out = bins.copy()
    out[rows] = tightest(lengths[rows], rooms)
    return out


def strict(lengths: Ints, *, bin_tokens: int) -> Ints:
    """Put all, the longest first, into the tightest bin, and open a bin only where no other has room."""
    order = np.argsort(-lengths, kind="stable")
    found = tightest(lengths[order], np.full(len(lengths), bin_tokens))
    bins = np.empty(len(lengths), dtype=np.int64)
    _, bins[order] = np.unique(found, return_inverse=True)
    return bins


def fill_empty(bins: Ints, *, num_bins: int) -> None:
    """Give every empty bin half of what the bin with the most rows holds, as long as there are enough rows."""
    counts = np.bincount(bins, minlength=num_bins)
    for empty in np.flatnonzero(counts == 0):
        richest = int(counts.argmax())
        if counts[richest] < 2:
            break
        moved = np.flatnonzero(bins == richest)[::2]
        bins[moved] = empty
        counts[richest] -= len(moved)
        counts[empty] = len(moved)


def even_out(
    bins: Ints, lengths: Ints, *, num_bins: int, bin_tokens: int, bins_per_step: int, random: np.random.Generator
) -> None:
    """Fill bins that are far from full with the smallest row of bins that are not, at most one of each.

    The end of an epoch is then no step of half empty bins, and no bin that gives is noticeably emptier than the mean.
    """
    load = np.bincount(bins, lengths, minlength=num_bins)
    mean = float(load.mean())
    enough = mean * (1 - _ALIKE[0])
    heap = [(int(load[number]), int(number)) for number in np.flatnonzero(load < enough)]
    if not heap:
        return
    heapq.heapify(heap)
    order = np.lexsort((lengths, bins))
    smallest = order[np.flatnonzero(np.diff(bins[order], prepend=-1))]
    left = load[bins[smallest]] - lengths[smallest]
    givers = random.permutation(len(smallest))
    given = np.zeros(num_bins, dtype=np.bool_)
    # A bin can give more where it is one of many in a step.
    for share in (_ALIKE[0], *(share for share in _ALIKE[1:] if share <= _MOST_UNLIKE_IN_STEP * bins_per_step)):
        least = mean * (1 - share)
        for row in smallest[givers[left[givers] >= max(least, 1)]].tolist():
            tokens, number = heap[0]
            if tokens >= enough:
                return
            if given[bins[row]] or load[bins[row]] < enough or tokens + int(lengths[row]) > bin_tokens:
                continue
            given[bins[row]] = True
            bins[row] = number
            heapq.heapreplace(heap, (tokens + int(lengths[row]), number))
