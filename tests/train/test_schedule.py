"""The learning rate: OpenChat's figure, and the shape over a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ochatctl.train.schedule import auto_lr, lr_at


def test_openchats_run_gets_openchats_learning_rate() -> None:
    assert auto_lr(supervised_tokens=64 * 4096 * 0.78, divisor=1.0) == pytest.approx(6.78e-5, rel=1e-3)


def test_a_divisor_divides() -> None:
    assert auto_lr(supervised_tokens=4e6, divisor=6.0) == pytest.approx(5e-5)


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
def test_a_run_rises_to_its_peak_and_ends_at_its_minimum(num_steps: int, warmup: float, floor: float) -> None:
    lrs = [
        lr_at(step, num_steps=num_steps, peak=2.0, warmup_ratio=warmup, min_lr_ratio=floor)
        for step in range(1, num_steps + 1)
    ]
    warmup_steps = round(warmup * num_steps)
    assert all(0 < lr <= 2.0 for lr in lrs) or floor == 0
    assert lrs[:warmup_steps] == sorted(lrs[:warmup_steps])
    assert lrs[warmup_steps:] == sorted(lrs[warmup_steps:], reverse=True)
    if warmup_steps:
        assert lrs[warmup_steps - 1] == 2.0
    if warmup_steps < num_steps:
        assert lrs[-1] == pytest.approx(2.0 * floor)
