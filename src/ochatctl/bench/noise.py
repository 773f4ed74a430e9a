"""How sure a score is: means over questions with their bootstrap intervals, and paired differences of two runs.

in: each question's scores, out: Estimate or Difference

A question is drawn whole, with all of its turns: they are not independent, so rows drawn one by one would make the
interval too small. Draws are seeded: the same scores give the same interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_DRAWS = 2000
_SEED = 0
# The middle 95 of 100 draws.
_LOW, _HIGH = 2.5, 97.5
# Of so many draws at once, 16,000 questions take 16 MB.
_DRAWS_AT_ONCE = 125


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over questions. Units: the scores'; None where there is no question, or one only for the interval."""

    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    num_questions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The second run minus the first, over the `num_questions` that both have; `num_left_out` only one has.

    `first` and `second` are the means over the same questions. `is_noise`: the 95 % interval holds zero.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    num_questions: int
    num_left_out: int
    is_noise: bool


Scores = Mapping[str, Sequence[float]]  # question id -> its scores


def estimate(scores: Scores) -> Estimate:
    """Give the mean of all scores, as MT-bench's tables do, with an interval over questions."""
    sums, counts = _sums(scores)
    if not len(sums):
        return Estimate(value=None, standard_error=None, low=None, high=None, num_questions=0)
    value = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        return Estimate(value=value, standard_error=None, low=None, high=None, num_questions=1)
    drawn = _drawn_means(sums, counts)
    low, high = _interval(drawn)
    return Estimate(value=value, standard_error=float(drawn.std(ddof=1)), low=low, high=high, num_questions=len(sums))


def difference(first: Scores, second: Scores, weights: Mapping[str, float] | None = None) -> Difference | None:
    """Give `second - first` over the scores of the questions that both have; None where they share fewer than two.

    `weights` say how many questions each of a drawn subset stands for; without, all count alike.
    """
    both = [key for key in first if first[key] and second.get(key) and len(first[key]) == len(second[key])]
    if len(both) < 2:
        return None
    sums_1, counts = _sums({key: first[key] for key in both}, weights)
    sums_2, _ = _sums({key: second[key] for key in both}, weights)
    drawn = _drawn_means(sums_2 - sums_1, counts)
    low, high = _interval(drawn)
    num_all = len({key for scores in (first, second) for key, values in scores.items() if values})
    return Difference(
        first=float(sums_1.sum() / counts.sum()),
        second=float(sums_2.sum() / counts.sum()),
        value=float((sums_2 - sums_1).sum() / counts.sum()),
        low=low,
        high=high,
        num_questions=len(both),
        num_left_out=num_all - len(both),
        is_noise=low <= 0 <= high,
    )


def _sums(
    scores: Scores, weights: Mapping[str, float] | None = None
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Give of each question that has a score the sum of its scores and their number, each times its weight."""
    import numpy as np

    kept = {key: values for key, values in scores.items() if values}
    weight = np.array([(weights or {}).get(key, 1.0) for key in kept], dtype=float)
    sums = np.array([sum(values) for values in kept.values()], dtype=float)
    counts = np.array([len(values) for values in kept.values()], dtype=float)
    return sums * weight, counts * weight


def _drawn_means(sums: "NDArray[np.float64]", counts: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Give the mean over as many questions, drawn with replacement, `NUM_DRAWS` times."""
    import numpy as np

    random = np.random.default_rng(_SEED)
    means = []
    for _ in range(NUM_DRAWS // _DRAWS_AT_ONCE):
        drawn = random.integers(len(sums), size=(_DRAWS_AT_ONCE, len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def _interval(drawn: "NDArray[np.float64]") -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(drawn, [_LOW, _HIGH])
    return float(low), float(high)
