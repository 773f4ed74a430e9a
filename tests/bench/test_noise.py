"""Intervals over questions, and paired differences."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.bench.noise import difference, estimate

SCORES = st.dictionaries(
    st.text(max_size=3), st.lists(st.floats(1, 10), min_size=1, max_size=2), min_size=2, max_size=9
)


def drawn(mean: float, num: int, seed: int) -> dict[str, list[float]]:
    source = random.Random(seed)
    return {str(number): [source.gauss(mean, 2), source.gauss(mean, 2)] for number in range(num)}


def test_the_mean_is_over_all_scores_not_over_questions() -> None:
    found = estimate({"a": [8.0, 6.0], "b": [1.0], "c": []})
    assert found.value == 5.0
    assert found.num_questions == 2


def test_the_standard_error_is_the_textbook_one() -> None:
    found = estimate({str(number): [float(number % 2)] for number in range(400)})
    assert found.standard_error == pytest.approx(math.sqrt(0.25 / 400), rel=0.1)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 400), rel=0.1)


def test_turns_of_a_question_are_drawn_together() -> None:
    together = {str(number): [float(number % 2)] * 2 for number in range(80)}
    apart = {f"{number}-{turn}": [float(number % 2)] for number in range(80) for turn in range(2)}
    wide, narrow = estimate(together).standard_error, estimate(apart).standard_error
    assert wide is not None
    assert narrow is not None
    assert wide / narrow == pytest.approx(math.sqrt(2), rel=0.1)


def test_too_few_questions_have_no_interval() -> None:
    assert estimate({}).value is None
    assert estimate({"a": [3.0]}).standard_error is None
    assert difference({"a": [3.0]}, {"a": [4.0]}) is None
    assert difference({"a": [3.0], "b": [3.0]}, {"c": [4.0], "d": [3.0]}) is None


def test_a_paired_difference_sees_what_two_intervals_hide() -> None:
    first = drawn(7, 80, seed=1)
    second = {key: [value + 0.3 for value in values] for key, values in first.items()}
    one, two = estimate(first), estimate(second)
    assert one.high is not None
    assert two.low is not None
    assert one.high > two.low
    found = difference(first, second)
    assert found is not None
    assert found.value == pytest.approx(0.3)
    assert not found.is_noise


def test_two_runs_of_one_model_differ_by_noise() -> None:
    noisy = [difference(drawn(7, 80, seed), drawn(7, 80, seed + 1000)) for seed in range(60)]
    assert sum(one is not None and one.is_noise for one in noisy) >= 51  # 95 % of them, give or take


def test_what_only_one_run_has_is_left_out_and_counted() -> None:
    found = difference({"a": [1.0], "b": [1.0], "c": [1.0]}, {"a": [2.0], "b": [2.0], "d": [9.0], "c": []})
    assert found is not None
    assert (found.value, found.num_questions, found.num_left_out) == (1.0, 2, 2)


@settings(max_examples=25)
@given(SCORES)
def test_an_interval_holds_the_mean_and_is_the_same_again(scores: dict[str, list[float]]) -> None:
    found = estimate(scores)
    assert found == estimate(scores)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert min(min(values) for values in scores.values()) - 1e-9 <= found.low <= found.high
    same = difference(scores, scores)
    assert same is not None
    assert same.value == same.low == same.high == 0
    assert same.is_noise
