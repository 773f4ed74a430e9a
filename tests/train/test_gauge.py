"""Speed and utilisation, with numbers that can be worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ochatctl.train.course import plan_course
from ochatctl.train.gauge import Gauge
from ochatctl.train.ranks import Ranks

LENGTHS = np.array([300, 100, 200])
# 2 layers, 4 heads of 16, and in all: two tables of 1000 x 64; each layer 4 x 64 x 64 + 3 x 64 x 128 + 2 x 64; a norm.
CONFIG = {
    "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 1000, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
NUM_PARAMS = 2 * 1000 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
ATTENTION = 6 * 2 * 64 * (300**2 + 100**2 + 200**2)


@pytest.mark.parametrize(
    ("trained", "flops"),
    [
        (None, 6 * NUM_PARAMS * 600 + ATTENTION),
        # Adapters: forward and the gradient of inputs through all weights, weight gradients of the adapters alone.
        (1234, (4 * NUM_PARAMS + 2 * 1234) * 600 + ATTENTION),
    ],
)
def test_utilisation_counts_what_the_model_must_compute_and_nothing_twice(
    trained: int | None, flops: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    ranks = Ranks(rank=0, num_ranks=2, device=torch.device("cpu"))
    (planned,) = plan_course(LENGTHS, num_epochs=1, bins_per_step=2, bin_tokens=400, seed=0).steps()
    gauge = Gauge(tmp_path, LENGTHS, ranks, num_steps=1, trained_params=trained, peak_flops=1e9)
    speed = gauge.see(planned, step_seconds=2.0)
    assert speed.tokens == 600
    assert speed.tokens_per_second == 300
    assert speed.mfu == pytest.approx(flops / 2.0 / 1e9)
    assert Gauge(tmp_path, LENGTHS, ranks, num_steps=1).see(planned, step_seconds=2.0).mfu is None


def test_the_last_steps_say_how_fast_it_goes_and_the_first_says_nothing_of_the_rest(tmp_path: Path) -> None:
    ranks = Ranks(rank=0, num_ranks=1, device=torch.device("cpu"))
    lengths = np.full(60, 100)
    course = plan_course(lengths, num_epochs=1, bins_per_step=1, bin_tokens=250, seed=0)
    gauge = Gauge(tmp_path, lengths, ranks, num_steps=course.num_steps)
    speeds = [gauge.see(planned, step_seconds=100.0 if planned.step == 1 else 0.5) for planned in course.steps()]
    left = len(speeds) - 1
    assert left > 25, "more than what the last steps are"
    assert speeds[0].eta_seconds == pytest.approx(left * 100.0)
    assert speeds[1].eta_seconds < left, "the first step, which compiles, does not count"
    assert (speeds[0].tokens_per_second, speeds[-1].tokens_per_second) == (2.0, 400.0)
    assert speeds[-1].eta_seconds == 0
    assert speeds[-1].mfu is None, "nothing is known of the model"
