"""How many answers are right, and how sure that is: one law for the report, for `bench show` and for its pages.

in: right answers by task, out: the accuracy of what was asked, or of the whole that a subset was drawn from

Source: Wilson's interval; stratified sampling without replacement (Cochran, Sampling Techniques, chapter 5).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z_95 = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """A share of right answers and its noise: ratios. None where there is no answer, or too few to tell the noise.

    `num_effective` is the size of the simple sample that would be as noisy.
    """

    score: float | None = None
    standard_error: float | None = None
    num_effective: float = 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, by Wilson's formula: where none of 200 answers is right, it still ends above 0."""
        if self.score is None or self.standard_error is None:
            return None
        if math.isinf(self.num_effective):
            return self.score, self.score
        share = Z_95**2 / self.num_effective
        centre = self.score + share / 2
        half = Z_95 * math.sqrt(self.score * (1 - self.score) / self.num_effective + share / self.num_effective / 4)
        return max(0.0, (centre - half) / (1 + share)), min(1.0, (centre + half) / (1 + share))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """One task: how many questions it has, how many of them were answered, and how many of the answers were right."""

    num_items: int
    num_answered: int
    num_right: int


def accuracy(strata: Sequence[Stratum], *, is_subset: bool) -> Accuracy:
    """Give the score over all tasks: of what was asked, every question alike, or of the whole behind a subset."""
    if is_subset:
        return stratified(strata)
    return pooled(sum(one.num_right for one in strata), sum(one.num_answered for one in strata))


def pooled(num_right: int, num_answered: int) -> Accuracy:
    """Give the mean, with the sample's standard deviation over the root of its size."""
    if not num_answered:
        return Accuracy()
    mean = num_right / num_answered
    noise = math.sqrt(mean * (1 - mean) / (num_answered - 1)) if num_answered > 1 else None
    return Accuracy(score=mean, standard_error=noise, num_effective=num_answered)


def stratified(strata: Iterable[Stratum]) -> Accuracy:
    """Give the score that all questions would have: each task weighs as many as it has.

    The noise is that of not having asked the others, and so 0 where all were (the finite population correction). A task
    without an answer is left out; one with a single answer lends its noise from the others.
    """
    asked = [stratum for stratum in strata if stratum.num_answered]
    whole = sum(stratum.num_items for stratum in asked)
    if not asked:
        return Accuracy()
    weights = [stratum.num_items / whole for stratum in asked]
    means = [stratum.num_right / stratum.num_answered for stratum in asked]
    score = sum(weight * mean for weight, mean in zip(weights, means, strict=True))
    variance = 0.0
    for stratum, weight, mean in zip(asked, weights, means, strict=True):
        count = stratum.num_answered
        spread = mean * (1 - mean) * count / (count - 1) if count > 1 else score * (1 - score)
        variance += weight**2 * (1 - count / stratum.num_items) * spread / count
    alone = len(asked) == 1 and asked[0].num_answered == 1 and asked[0].num_items > 1
    if alone:
        return Accuracy(score=score, num_effective=1)
    num_answered = sum(stratum.num_answered for stratum in asked)
    unseen = 1 - num_answered / whole
    sampled = score * (1 - score) / variance if variance else num_answered / unseen if unseen else math.inf
    return Accuracy(score=score, standard_error=math.sqrt(variance), num_effective=sampled)
