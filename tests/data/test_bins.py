"""The fillers: what fits, how tight, how even, and how few bins there can be."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.data.bins import LEFT_OVER, emptiest, even_out, least_bins, mixed, strict, tightest


def loads(bins: np.ndarray, lengths: np.ndarray, num_bins: int) -> np.ndarray:
    placed = bins != LEFT_OVER
    return np.bincount(bins[placed], lengths[placed], minlength=num_bins).astype(int)


def one_by_one(lengths: list[int], rooms: list[int]) -> list[int]:
    """Give the room that each length finds, by best fit as a textbook has it."""
    rooms, found = list(rooms), []
    for length in lengths:
        fitting = [room for room in rooms if room >= length]
        found.append(min(fitting) if fitting else LEFT_OVER)
        if fitting:
            rooms[rooms.index(min(fitting))] -= length
    return [*found, *sorted(rooms)]


@given(st.lists(st.integers(1, 20), max_size=40), st.lists(st.integers(0, 40), min_size=1, max_size=8))
@settings(deadline=None, max_examples=100)
def test_runs_of_equal_lengths_go_where_they_would_one_by_one(lengths: list[int], rooms: list[int]) -> None:
    bins = tightest(np.array(lengths, dtype=np.int64), np.array(rooms))
    left, found = list(rooms), []
    for length, number in zip(lengths, bins.tolist(), strict=True):
        found.append(left[number] if number != LEFT_OVER else LEFT_OVER)
        if number != LEFT_OVER:
            left[number] -= length
    assert [*found, *sorted(left)] == one_by_one(lengths, rooms)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
@settings(deadline=None, max_examples=60)
def test_no_packing_does_with_fewer_bins_than_the_bound(lengths: list[int]) -> None:
    def fits(num_bins: int) -> bool:
        return any(
            max(loads(np.array(bins), np.array(lengths), num_bins)) <= 12
            for bins in itertools.product(range(num_bins), repeat=len(lengths))
        )

    bound = least_bins(np.array(lengths), bin_tokens=12)
    best = int(strict(np.array(lengths), bin_tokens=12).max()) + 1
    assert bound >= max(1, sum(length > 6 for length in lengths))
    assert bound <= best
    if 1 < bound <= 4:
        assert not fits(bound - 1)


def test_the_bound_sees_rows_that_go_with_no_other() -> None:
    assert least_bins(np.array([7] * 10 + [6] * 4), bin_tokens=12) == 12
    assert least_bins(np.array([12, 6, 6, 6]), bin_tokens=12) == 3


def test_the_emptiest_bin_first_and_no_bin_too_full() -> None:
    lengths = np.array([9, 8, 5, 4, 4, 3])
    assert emptiest(lengths, num_bins=2, bin_tokens=99).tolist() == [0, 1, 1, 0, 0, 1]
    bins = emptiest(lengths, num_bins=2, bin_tokens=14)
    assert loads(bins, lengths, 2).max() <= 14
    assert (bins == LEFT_OVER).sum() == 2


def test_tries_get_stricter_until_all_have_room() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 100, 1000)
    num_bins = -(-int(lengths.sum()) // 200) + 1  # 1 in 250 to spare
    tries = list(mixed(lengths, num_bins=num_bins, bin_tokens=200, sand_ratio=0.2, random=random))
    assert len(tries) == 4
    assert all(loads(bins, lengths, num_bins).max() <= 200 for bins in tries)
    left = [int((bins == LEFT_OVER).sum()) for bins in tries]
    assert left[0] > left[-1] == 0


def test_a_half_empty_bin_is_filled_by_others_that_stay_full() -> None:
    lengths = np.array([90, 8, 2] * 40 + [30])
    bins = np.repeat(np.arange(41), [3] * 40 + [1])
    even_out(bins, lengths, num_bins=41, bin_tokens=100, bins_per_step=8, random=np.random.default_rng(0))
    # 34 of the bins give their row of 2, none another.
    after = loads(bins, lengths, 41)
    assert after.sum() == lengths.sum()
    assert after[-1] == 98
    assert after[:-1].tolist().count(98) == 34
