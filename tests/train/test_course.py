"""The steps of a run, interrupted anywhere and gone on with on any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.data.packing import plan_epoch
from ochatctl.errors import DataError
from ochatctl.train.course import Course, Progress, plan_course

EPOCHS, BIN_TOKENS, SEED = 2, 64, 3


def course(lengths: np.ndarray, bins_per_step: int, after: Progress | None = None) -> Course:
    return plan_course(
        lengths, num_epochs=EPOCHS, bins_per_step=bins_per_step, bin_tokens=BIN_TOKENS, seed=SEED, after=after
    )


def some_lengths(num_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, BIN_TOKENS + 1, num_rows)


def test_an_uninterrupted_run_takes_the_plans_of_its_epochs() -> None:
    lengths = some_lengths(40)
    plans = [plan_epoch(lengths, bin_tokens=BIN_TOKENS, bins_per_step=4, seed=SEED, epoch=epoch) for epoch in (0, 1)]
    steps = list(course(lengths, 4).steps())
    assert [step.bins for step in steps] == [bins for plan in plans for bins in plan.steps]
    assert [step.step for step in steps] == list(range(1, course(lengths, 4).num_steps + 1))
    assert [step.step for step in steps if step.ends_epoch] == [len(plans[0].steps), len(steps)]


def test_going_on_with_as_many_bins_takes_the_very_steps_that_were_left() -> None:
    lengths = some_lengths(40)
    whole = list(course(lengths, 4).steps())
    for step in whole:
        rest = course(lengths, 4, step.progress)
        assert list(rest.steps()) == whole[step.step :]
        assert rest.num_steps == len(whole)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_each_row_is_taken_once_an_epoch_however_often_the_number_of_ranks_changes(data: st.DataObject) -> None:
    lengths = some_lengths(data.draw(st.integers(12, 40)), seed=data.draw(st.integers(0, 9)))
    taken: dict[int, list[int]] = {0: [], 1: []}
    after, bins_used, total = None, [], 0
    while True:
        bins_per_step = data.draw(st.integers(1, 6))
        plan = course(lengths, bins_per_step, after)
        left = list(plan.steps())
        assert [step.step for step in left] == list(range(total + 1, plan.num_steps + 1))
        num_steps = data.draw(st.integers(1, 4))
        for step in left[:num_steps]:
            assert len(step.bins) == bins_per_step
            assert all(lengths[list(rows)].sum() <= BIN_TOKENS for rows in step.bins)
            assert any(step.bins)
            taken[step.epoch] += [row for rows in step.bins for row in rows]
            after, total = step.progress, step.step
        bins_used.append(bins_per_step)
        if num_steps >= len(left):
            break
    assert all(sorted(rows) == list(range(len(lengths))) for rows in taken.values()), bins_used


def test_other_data_is_noticed() -> None:
    lengths = some_lengths(40)
    progress = next(course(lengths, 4).steps()).progress
    with pytest.raises(DataError, match="the data set has changed"):
        course(some_lengths(40, seed=1), 4, progress)
    with pytest.raises(DataError, match="the data set has changed"):
        course(lengths, 4, replace(progress, plan_digest="0" * 32))


def test_the_costliest_bin_has_the_longest_rows_of_those_that_are_full() -> None:
    lengths = np.array([64] + [8] * 24)
    assert course(lengths, 2).costliest(lengths, cost_per_squared_token=1.0) == (0,)
