"""A subset that stands for the whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.bench.accuracy import pooled
from ochatctl.bench.subset import FIVE_MINUTES_ITEMS, allocate, draw, subset_items
from ochatctl.errors import UsageProblem

SIZES = st.lists(st.integers(min_value=1, max_value=400), min_size=1, max_size=12)


@settings(deadline=None, max_examples=100)
@given(sizes=SIZES, total=st.integers(min_value=2, max_value=3000))
def test_each_task_gets_its_share(sizes: list[int], total: int) -> None:
    counts = allocate(sizes, total)
    least = [min(2, size) for size in sizes]
    assert all(low <= count <= size for low, count, size in zip(least, counts, sizes, strict=True))
    if all(size * total >= 2 * sum(sizes) for size in sizes):
        assert sum(counts) == min(total, sum(sizes))
        shares = [size * min(1.0, total / sum(sizes)) for size in sizes]
        assert all(abs(count - share) < 1 for count, share in zip(counts, shares, strict=True))


@settings(deadline=None, max_examples=50)
@given(size=st.integers(min_value=1, max_value=60), count=st.integers(min_value=0, max_value=60), seed=st.integers())
def test_a_larger_draw_holds_a_smaller_one(size: int, count: int, seed: int) -> None:
    ids = [f"t:{number}" for number in range(size)]
    small, large = draw(ids, min(count, size), seed=seed), draw(ids, size, seed=seed)
    assert set(small) <= set(large)
    assert list(small) == sorted(small)
    assert small == draw(ids, min(count, size), seed=seed)


def test_other_seeds_draw_otherwise() -> None:
    ids = [f"t:{number}" for number in range(50)]
    assert len({draw(ids, 10, seed=seed) for seed in range(5)}) == 5


def test_a_subset_is_five_minutes_or_a_number() -> None:
    assert (subset_items(None), subset_items("5min"), subset_items("60")) == (None, FIVE_MINUTES_ITEMS, 60)
    for text in ("5 min", "0", "1", "-3", "", "ten"):
        with pytest.raises(UsageProblem, match="neither `5min` nor a number"):
            subset_items(text)


def test_five_minutes_leave_the_noise_that_the_help_says() -> None:
    low, high = pooled(FIVE_MINUTES_ITEMS // 2, FIVE_MINUTES_ITEMS).interval or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(0.0244, abs=0.0005)
