"""A part of many questions that stands for all of them: `accuracy` says what it tells of them.

in: how many questions each task has, out: which of them to ask
"""

import hashlib
import math
from collections.abc import Sequence

from ochatctl.errors import UsageProblem

# Of OpenChat's whole suite (16,577 questions, 12.4 M prompt and about 1.9 M answer tokens) a tenth: 1.2 M prompt and
# 0.18 M answer tokens, which is about what a 13B model does in five minutes on one A100 without a prefix cache. Of the
# score it leaves +-2.4 points.
FIVE_MINUTES_ITEMS = 1600
MIN_ITEMS = 2


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
