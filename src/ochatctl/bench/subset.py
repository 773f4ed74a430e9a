"""A part of many questions that stands for all of them, and what it says of them.

in: how many questions each task has, out: which of them to ask; then, from what was right, the score of all

Source: stratified sampling without replacement (Cochran, Sampling Techniques, chapter 5).
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ochatctl.errors import UsageProblem

# Of OpenChat's whole suite (16,577 questions, 12.4 M prompt and about 1.9 M answer tokens) a tenth: 1.2 M prompt and
# 0.18 M answer tokens, which is about what a 13B model does in five minutes on one A100 without a prefix cache. Of the
# score it leaves +-2.4 points.
FIVE_MINUTES_ITEMS = 1600
MIN_ITEMS = 2
Z_95 = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A score and its noise: ratios. None where there is no answer, or too few to tell the noise.

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


def subset_items(text: str | None) -> int | None:
    """Read `--subset`: `5min` or a number of questions.

    Raises:
        UsageProblem: neither.
    """
    if text is None or text == "5min":
        return FIVE_MINUTES_ITEMS if text else None
    if text.isascii() and text.isdigit() and int(text) >= MIN_ITEMS:
        return int(text)
    raise UsageProblem(f"`--subset {text}`: neither `5min` nor a number from {MIN_ITEMS}", hint="--subset 5min")


def allocate(sizes: Sequence[int], total: int) -> tuple[int, ...]:
    """Share `total` questions out in proportion to the sizes.

    Guarantees: two from every task that has two, though their sum be more than `total`; never more than a task has.
    """
    whole = sum(sizes)
    if total >= whole:
        return tuple(sizes)
    shares = [size * total / whole for size in sizes]
    counts = [max(min(2, size), math.floor(share)) for size, share in zip(sizes, shares, strict=True)]
    # The largest remainders get what rounding down has left over.
    order = sorted(range(len(sizes)), key=lambda index: (counts[index] - shares[index], index))
    for index in order:
        if sum(counts) >= total:
            break
        counts[index] += counts[index] < sizes[index]
    return tuple(counts)


def draw(ids: Sequence[str], count: int, *, seed: int) -> tuple[int, ...]:
    """Give the places of `count` questions, in their order.

    Guarantees: the same for the same seed, and a larger draw holds a smaller one.
    """
    ranked = sorted(range(len(ids)), key=lambda index: hashlib.sha256(f"{seed}\n{ids[index]}".encode()).digest())
    return tuple(sorted(ranked[:count]))


def pooled(num_right: int, num_answered: int) -> Estimate:
    """Give the mean, with the sample's standard deviation over the root of its size."""
    if not num_answered:
        return Estimate()
    mean = num_right / num_answered
    noise = math.sqrt(mean * (1 - mean) / (num_answered - 1)) if num_answered > 1 else None
    return Estimate(score=mean, standard_error=noise, num_effective=num_answered)


def stratified(strata: Mapping[str, Stratum]) -> Estimate:
    """Give the score that all questions would have: each task weighs as many as it has.

    The noise is that of not having asked the others, and so 0 where all were (the finite population correction). A task
    without an answer is left out; one with a single answer lends its noise from the others.
    """
    asked = [stratum for stratum in strata.values() if stratum.num_answered]
    whole = sum(stratum.num_items for stratum in asked)
    if not asked:
        return Estimate()
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
        return Estimate(score=score, num_effective=1)
    num_answered = sum(stratum.num_answered for stratum in asked)
    unseen = 1 - num_answered / whole
    sampled = score * (1 - score) / variance if variance else num_answered / unseen if unseen else math.inf
    return Estimate(score=score, standard_error=math.sqrt(variance), num_effective=sampled)
