"""What a run shows fits the terminal that it is shown on."""

import io

import pytest
from rich.console import Console

from ochatctl.cli.train_progress import _Bar, duration, event_text, fitted, step_figures
from ochatctl.train.records import Evaluated, Stepped

STEP = Stepped(
    step=1234, num_steps=100_000, epoch=1, num_epochs=5, loss=1.23456, lr=6.8e-5, grad_norm=1.5, tokens=262_144,
    tokens_per_second=12_345.6, seconds=99.0, accuracy=0.6123, class_losses={"GPT4": 1.2, "GPT3": 1.9}, mfu=0.451,
    memory_bytes=71_300_000_000, eta_seconds=93_784, step_seconds=2.0, stall_seconds=0.1,
)  # fmt: skip
EVALUATED = Evaluated(
    step=1000, epoch=1, num_epochs=5, eval_loss=1.1, eval_accuracy=0.625, class_losses={"GPT4": 1.0, "GPT3": 2.0},
    class_accuracies={}, tokens=9, seconds=2.04,
)  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 120, 250])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_left_out(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = _Bar(console, STEP.num_steps)
    bar.last, bar.evaluated = STEP, EVALUATED
    console.print(bar)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    shown = " ".join(" ".join(lines).split())
    for figure in (
        *("loss 1.2346", "acc 61.2%", "lr 6.80e-05", "norm 1.50", "12,346 tokens/s", "MFU 45.1%"),
        *("mem 71.3 GB", "stalled 5%", "eval 1.1000 (step 1000)"),
    ):
        assert figure in shown
    if width >= 80:
        for figure in ("(GPT4 1.2000, GPT3 1.9000)", "epoch 1/5", "step 1234/100000", "ETA 1d 02:03"):
            assert figure in shown
    assert len(lines) <= {40: 7, 80: 4, 120: 3, 250: 2}[width]


def test_figures_are_not_torn_apart() -> None:
    assert fitted(["aaaa", "bb", "cc", "d" * 20], 8) == ["aaaa  bb", "cc", "d" * 20]


def test_what_is_not_known_is_not_shown() -> None:
    plain = Stepped(
        step=1, num_steps=2, epoch=1, num_epochs=1, loss=1.0, lr=1e-3, grad_norm=1.0, tokens=7, tokens_per_second=70.0,
        seconds=0.1, class_losses={"GPT4": 1.0},
    )  # fmt: skip
    text = " ".join(step_figures(plain))
    assert not any(word in text for word in ("MFU", "acc", "GPT4", "stalled", "None"))


def test_an_evaluation_is_a_line() -> None:
    assert event_text(EVALUATED) == "step 1000  eval loss 1.1000 (GPT4 1.0000, GPT3 2.0000)  acc 62.5%  2.0 s"


@pytest.mark.parametrize(("seconds", "text"), [(4.6, "0:05"), (184, "3:04"), (7384, "2:03:04"), (93_784, "1d 02:03")])
def test_a_time_is_told_in_its_own_size(seconds: float, text: str) -> None:
    assert duration(seconds) == text
