"""A subset that stands for the whole."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.bench.subset import (
    FIVE_MINUTES_ITEMS,
    Stratum,
    allocate,
    draw,
    pooled,
    stratified,
    subset_items,
)
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


def test_the_interval_of_a_draw_holds_the_whole_score_nineteen_times_in_twenty() -> None:
    sizes, right = [300, 60, 140], [210, 12, 70]
    truth = sum(right) / sum(sizes)
    ids = [[f"{task}:{number}" for number in range(size)] for task, size in enumerate(sizes)]
    counts = allocate(sizes, 100)
    estimates = []
    for seed in range(300):
        strata = {
            str(task): Stratum(
                num_items=sizes[task],
                num_answered=counts[task],
                num_right=sum(place < right[task] for place in draw(ids[task], counts[task], seed=seed)),
            )
            for task in range(3)
        }
        estimates.append(stratified(strata))
    scores = [estimate.score or 0.0 for estimate in estimates]
    errors = [estimate.standard_error or 0.0 for estimate in estimates]
    assert statistics.mean(scores) == pytest.approx(truth, abs=0.01)
    assert statistics.mean(errors) == pytest.approx(statistics.stdev(scores), rel=0.1)
    held = sum(low <= truth <= high for one in estimates if one.interval for low, high in [one.interval])
    assert 0.91 <= held / 300 <= 0.99


def test_a_whole_population_leaves_no_noise() -> None:
    estimate = stratified({"a": Stratum(num_items=10, num_answered=10, num_right=3)})
    assert (estimate.score, estimate.standard_error, estimate.interval) == (0.3, 0.0, (0.3, 0.3))


def test_tasks_weigh_as_many_questions_as_they_have() -> None:
    strata = {
        "large": Stratum(num_items=900, num_answered=10, num_right=10),
        "small": Stratum(num_items=100, num_answered=10, num_right=0),
        "failed": Stratum(num_items=500, num_answered=0, num_right=0),
    }
    assert stratified(strata).score == pytest.approx(0.9)


def test_by_cochrans_formula() -> None:
    estimate = stratified({"a": Stratum(num_items=100, num_answered=20, num_right=5)})
    assert estimate.standard_error == pytest.approx(math.sqrt((1 - 0.2) * 0.25 * 0.75 / 19))


def test_none_right_is_not_certain() -> None:
    low, high = pooled(0, 200).interval or (1.0, 0.0)
    assert low == 0.0
    assert 0.01 < high < 0.03
    assert pooled(1, 1).interval is None
    assert pooled(0, 0).score is None
    assert stratified({"a": Stratum(num_items=100, num_answered=20, num_right=0)}).interval != (0.0, 0.0)


def test_a_subset_is_five_minutes_or_a_number() -> None:
    assert (subset_items(None), subset_items("5min"), subset_items("60")) == (None, FIVE_MINUTES_ITEMS, 60)
    for text in ("5 min", "0", "1", "-3", "", "ten"):
        with pytest.raises(UsageProblem, match="neither `5min` nor a number"):
            subset_items(text)


def test_five_minutes_leave_the_noise_that_the_help_says() -> None:
    low, high = pooled(FIVE_MINUTES_ITEMS // 2, FIVE_MINUTES_ITEMS).interval or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(0.0244, abs=0.0005)
