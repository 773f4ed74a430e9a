"""What the sums of a step mean."""

import math

import pytest

from ochatctl.train import linear_loss, tallies
from ochatctl.train.tallies import figures_of

NAMES = ("GPT4", "GPT3", "other")


def line(*, ce: float, correct: float, tokens: float, weight: float) -> list[float]:
    return [weight / max(tokens, 1) * ce, ce, correct, tokens, weight]


def test_losses_are_weighted_and_accuracies_are_not() -> None:
    tally = [
        line(ce=20.0, correct=6, tokens=10, weight=10.0),
        line(ce=60.0, correct=0, tokens=20, weight=2.0),
        line(ce=0.0, correct=0, tokens=0, weight=0.0),
    ]
    figures = figures_of(tally, NAMES)
    assert figures.class_losses == pytest.approx({"GPT4": 2.0, "GPT3": 3.0})
    assert figures.class_accuracies == {"GPT4": 0.6, "GPT3": 0.0}
    assert figures.loss == pytest.approx((20.0 + 6.0) / 12.0)
    assert (figures.accuracy, figures.tokens) == (0.2, 30)


def test_one_class_says_nothing_by_class_and_nothing_at_all_has_no_loss() -> None:
    assert figures_of([line(ce=2.0, correct=1, tokens=2, weight=2.0)], ("other",)).class_losses == {}
    nothing = figures_of([line(ce=0.0, correct=0, tokens=0, weight=0.0)] * 3, NAMES)
    assert (nothing.loss, nothing.accuracy, nothing.class_losses) == (None, 0.0, {})
    spoilt = figures_of([[math.inf, math.inf, 0, 3, 3.0], *[[0.0] * 5] * 2], NAMES)
    assert (spoilt.loss, spoilt.class_losses) == (None, {}), "JSON has no infinity"


def test_the_columns_are_those_of_the_loss() -> None:
    ours = (tallies._WEIGHTED_CE, tallies._CORRECT, tallies._TOKENS, tallies._WEIGHT)
    assert ours == (linear_loss.WEIGHTED_CE, linear_loss.CORRECT, linear_loss.TOKENS, linear_loss.WEIGHT)
