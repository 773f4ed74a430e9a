"""The plan of an epoch: every row once, no bin too full, every rank as many steps; and a bin's arrays."""

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ochatctl.chat.template import Encoded
from ochatctl.data.encode import IGNORED_LABEL, to_row
from ochatctl.data.packing import Plan, pack, plan_epoch
from ochatctl.errors import DataError


def step_tokens(plan: Plan, lengths: np.ndarray) -> np.ndarray:
    """Shapes: [steps, bins]."""
    return np.array([[int(lengths[list(rows)].sum()) for rows in step] for step in plan.steps])


def check(plan: Plan, lengths: np.ndarray, *, bin_tokens: int, bins_per_step: int) -> np.ndarray:
    rows = [row for step in plan.steps for bin_rows in step for row in bin_rows]
    assert sorted(rows) == list(range(len(lengths)))
    assert all(len(step) == bins_per_step for step in plan.steps)
    tokens = step_tokens(plan, lengths)
    assert tokens.max() <= bin_tokens
    num_bins = len(plan.steps) * bins_per_step
    empty = sum(not bin_rows for step in plan.steps for bin_rows in step)
    assert empty == max(0, num_bins - len(lengths))
    assert all(any(step) for step in plan.steps)
    assert plan.num_tokens == lengths.sum()
    assert plan.num_rows == len(lengths)
    assert plan.efficiency_ratio == pytest.approx(lengths.sum() / (num_bins * bin_tokens))
    assert 0 <= plan.imbalance_ratio < 1
    assert plan.num_dropped == 0
    assert (plan.step_tokens(lengths) == tokens.sum(axis=1)).all()
    assert plan.evenness_ratio == tokens.sum(axis=1).min() / tokens.sum(axis=1).max()
    return tokens


awkward_lengths = st.one_of(
    st.lists(st.integers(1, 64), min_size=1, max_size=200),
    st.lists(st.sampled_from([64, 33, 32]), min_size=1, max_size=80),  # the cap, just over half of it, half
    st.lists(st.sampled_from([40, 25, 1]), min_size=1, max_size=80),  # two that never fit together
    st.lists(st.integers(1, 4), max_size=80).map(lambda small: [64, *small]),  # one giant
    st.lists(st.floats(0, 1), min_size=1, max_size=120).map(lambda u: [int(min(64, 2 / (1.001 - x))) for x in u]),
)


@given(awkward_lengths, st.sampled_from([64, 65, 100, 200, 512, 640]), st.integers(1, 9), st.integers(0, 3))
@example([64] * 9, 64, 8, 0)
@example([64] * 16, 64, 8, 0)
@example([33] * 17, 64, 8, 0)
@example([1] * 8, 64, 8, 0)
@settings(deadline=None, max_examples=100)
def test_every_row_is_used_once_and_no_bin_is_too_full(
    lengths: list[int], bin_tokens: int, bins_per_step: int, epoch: int
) -> None:
    array = np.array(lengths)
    if len(lengths) < bins_per_step:
        with pytest.raises(DataError, match=f"{len(lengths)} rows are too few for a step of {bins_per_step} bins"):
            plan_epoch(array, bin_tokens=bin_tokens, bins_per_step=bins_per_step, seed=0, epoch=epoch)
        return
    plan = plan_epoch(array, bin_tokens=bin_tokens, bins_per_step=bins_per_step, seed=0, epoch=epoch)
    check(plan, array, bin_tokens=bin_tokens, bins_per_step=bins_per_step)
    again = plan_epoch(lengths, bin_tokens=bin_tokens, bins_per_step=bins_per_step, seed=0, epoch=epoch)
    assert again == plan


def test_an_empty_bin_only_where_there_are_fewer_rows_than_bins() -> None:
    lengths = np.full(9, 64)
    plan = plan_epoch(lengths, bin_tokens=64, bins_per_step=8, seed=0, epoch=0)
    check(plan, lengths, bin_tokens=64, bins_per_step=8)
    assert len(plan.steps) == 2
    spread = np.array([60] * 7 + [1] * 9)
    for step in plan_epoch(spread, bin_tokens=64, bins_per_step=8, seed=0, epoch=0).steps:
        assert all(step)


def test_epochs_and_seeds_differ_and_the_digest_tells() -> None:
    lengths = np.arange(1, 200)
    plans = [
        plan_epoch(lengths, bin_tokens=400, bins_per_step=2, seed=seed, epoch=epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({plan.digest for plan in plans}) == len({plan.steps for plan in plans}) == 4


def test_a_row_longer_than_a_bin_is_named() -> None:
    with pytest.raises(DataError, match="row 1 has 65 tokens, and a bin holds 64"):
        plan_epoch([3, 65, 4], bin_tokens=64, bins_per_step=1, seed=0, epoch=0)


def chat_lengths(count: int) -> np.ndarray:
    """Lengths spread as those of real conversations, cut at 4096."""
    drawn = np.random.default_rng(7).lognormal(6.9, 1.1, count).astype(np.int64) + 20
    return np.minimum(drawn, 4096)


@pytest.mark.parametrize("contexts", [1, 2, 8])
def test_many_rows_fill_the_bins_and_balance_the_ranks(contexts: int) -> None:
    lengths, bin_tokens = chat_lengths(20_000), contexts * 4096
    plan = plan_epoch(lengths, bin_tokens=bin_tokens, bins_per_step=8, seed=1, epoch=0)
    check(plan, lengths, bin_tokens=bin_tokens, bins_per_step=8)
    least = math.ceil(lengths.sum() / (8 * bin_tokens))
    assert len(plan.steps) <= max(least + 1, math.floor(least * 1.002))
    assert plan.imbalance_ratio <= 0.002
    assert plan.evenness_ratio >= (0.98 if contexts > 1 else 0.97)


def test_several_windows_lose_nothing() -> None:
    lengths = np.random.default_rng(3).integers(1, 40, 30_000)
    plan = plan_epoch(lengths, bin_tokens=1000, bins_per_step=2, seed=0, epoch=0)
    assert len(plan.steps) > 3 * 64
    check(plan, lengths, bin_tokens=1000, bins_per_step=2)


@pytest.mark.parametrize("contexts", [1, 4, 8])
def test_rows_meet_other_rows_in_another_epoch(contexts: int) -> None:
    lengths = chat_lengths(4_000)

    def mates(epoch: int) -> set[tuple[int, int]]:
        plan = plan_epoch(lengths, bin_tokens=contexts * 4096, bins_per_step=2, seed=0, epoch=epoch)
        bins = [sorted(rows) for step in plan.steps for rows in step]
        return {(a, b) for rows in bins for index, a in enumerate(rows) for b in rows[index + 1 :]}

    first, second = mates(0), mates(1)
    chance = len(first) * len(second) / (4_000 * 3_999 / 2)
    if contexts == 8:
        assert len(first & second) <= 2 * chance
    else:
        # A bin of one context is full with few sums of lengths; still almost no pair comes again.
        assert len(first & second) <= 0.02 * len(first)


def test_a_cost_of_attention_groups_bins_otherwise() -> None:
    lengths = chat_lengths(400)
    plans = [
        plan_epoch(lengths, bin_tokens=4096, bins_per_step=4, seed=0, epoch=0, cost_per_squared_token=cost)
        for cost in (0, 1e-2)
    ]
    bins = [{rows for step in plan.steps for rows in step} for plan in plans]
    assert bins[0] == bins[1]
    assert plans[0].steps != plans[1].steps


@pytest.mark.skipif("OCHATCTL_TEST_DATA" not in os.environ, reason="OCHATCTL_TEST_DATA names no folder")
@pytest.mark.parametrize("contexts", [1, 2, 4, 8, 16])
def test_real_lengths_lose_nothing(contexts: int) -> None:
    file = Path(os.environ["OCHATCTL_TEST_DATA"]) / "packing_lengths_openchat_v1.json"
    lengths = np.array(json.loads(file.read_text()))
    plan = plan_epoch(lengths, bin_tokens=contexts * 2048, bins_per_step=8, seed=1, epoch=0)
    check(plan, lengths, bin_tokens=contexts * 2048, bins_per_step=8)
    assert len(plan.steps) <= math.ceil(lengths.sum() / (8 * contexts * 2048)) * 1.006


@pytest.mark.slow
@pytest.mark.parametrize("contexts", [1, 8])
def test_a_million_rows_are_planned_in_seconds(contexts: int) -> None:
    lengths = chat_lengths(1_000_000)
    start = time.process_time()
    plan_epoch(lengths, bin_tokens=contexts * 4096, bins_per_step=8, seed=1, epoch=0)
    assert time.process_time() - start < 15


encoded_rows = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.0, 0.1, 1.0])), min_size=1, max_size=12),
    min_size=1,
    max_size=6,
)


@given(encoded_rows)
@settings(deadline=None, max_examples=40)
def test_a_batch_is_its_rows_end_to_end(pairs: list[list[tuple[int, float]]]) -> None:
    rows = [to_row(Encoded(token_ids=[i for i, _ in row], loss_weights=[w for _, w in row])) for row in pairs]
    batch = pack(rows, step_loss_weight=2.5)
    assert batch.step_loss_weight == 2.5
    assert batch.cu_seqlens.dtype == np.int32
    assert batch.input_ids_T.dtype == batch.position_ids_T.dtype == batch.labels_T.dtype == np.int64
    assert batch.loss_weights_T.dtype == np.float32
    assert batch.max_seqlen == max(map(len, pairs))
    for row, start, end in zip(rows, batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        np.testing.assert_array_equal(batch.input_ids_T[start:end], row.input_ids)
        np.testing.assert_array_equal(batch.labels_T[start:end], row.labels)
        np.testing.assert_array_equal(batch.loss_weights_T[start:end], row.loss_weights)
        np.testing.assert_array_equal(batch.position_ids_T[start:end], np.arange(end - start))
    assert batch.cu_seqlens[-1] == len(batch.input_ids_T)


def test_an_empty_bin_is_one_token_that_teaches_nothing() -> None:
    batch = pack([], step_loss_weight=3.0)
    assert batch.labels_T.tolist() == [IGNORED_LABEL]
    assert batch.loss_weights_T.tolist() == [0.0]
    assert batch.cu_seqlens.tolist() == [0, 1]
