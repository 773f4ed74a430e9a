"""The learning rate: how high, and how it runs over the steps of a run."""

import math

BASE_LR = 3e-4
_BASE_TOKENS = 4e6


def auto_lr(*, supervised_tokens: float, divisor: float) -> float:
    """Give the peak learning rate for a step of so many supervised tokens.

    Source: OpenChat 3.2.2, 3e-4 x sqrt(tokens a step / 4e6); 3.6.1 divides by the family's `divisor`.
    """
    return BASE_LR * math.sqrt(supervised_tokens / _BASE_TOKENS) / divisor


def warmup_steps(num_steps: int, warmup_ratio: float) -> int:
    """Give how many of the steps the learning rate rises over."""
    return round(warmup_ratio * num_steps)


def lr_at(step: int, *, num_steps: int, peak: float, warmup_ratio: float, min_lr_ratio: float) -> float:
    """Give the learning rate of a step, counted from 1: linear warm-up, then a cosine down to `min_lr_ratio`.

    Guarantees: the peak is reached at the end of the warm-up, the minimum at the last step.
    """
    warmup = warmup_steps(num_steps, warmup_ratio)
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return peak * (min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
