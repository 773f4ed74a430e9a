"""float16 and the scale of the loss: overflow is no fault, and a run goes on with the scale that it had."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_for_tests import write_base, write_data

from ochatctl.train.course import PlannedStep, plan_course
from ochatctl.train.faults import BadSteps
from ochatctl.train.launch import train as launch
from ochatctl.train.prepare import prepare
from ochatctl.train.settings import read_request
from ochatctl.train.strategies.loss_scale import LossScale


def test_a_scale_is_halved_by_an_overflow_doubled_after_many_steps_and_comes_back() -> None:
    scale = LossScale()
    before = scale.value
    scale.see(math.inf)
    assert scale.value == before / 2
    for _ in range(1999):
        scale.see(1.0)
    again = LossScale()
    again.restore(scale.state())
    assert again.value == before / 2
    again.see(1.0)
    assert again.value == before
    for _ in range(40):
        again.see(math.nan)
    assert again.value == 1
    assert not again.can_be_lowered


def test_an_overflow_is_no_fault_and_a_loss_that_is_not_finite_is(tmp_path: Path) -> None:
    planned: PlannedStep = next(
        iter(plan_course(np.array([3, 4]), num_epochs=1, bins_per_step=1, bin_tokens=8, seed=0).steps())
    )

    class Config:
        out_dir, max_bad_steps = tmp_path, 9

    class First:
        is_first = True

    config: Any = Config()
    ranks: Any = First()
    steps = BadSteps(config, ranks)
    skipped = steps.see(planned, loss=1.0, grad_norm=math.inf, is_overflow=True)
    assert skipped is not None
    assert skipped.is_overflow
    assert steps.in_a_row == 0
    assert not list(tmp_path.iterdir())
    counted = steps.see(planned, loss=math.nan, grad_norm=math.nan, is_overflow=True)
    assert counted is not None
    assert not counted.is_overflow
    assert steps.in_a_row == 1


@pytest.mark.slow
def test_float16_on_two_ranks_learns_as_float32_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_data(tmp_path / "chats", write_base(tmp_path / "base"), num_rows=40)

    def train(out: str, precision: str, *, ranks: int = 2) -> list[tuple[int, float, float]]:
        flags = {
            "model": str(tmp_path / "base"), "data": str(tmp_path / "chats"), "out": tmp_path / out, "cpu": True,
            "strategy": "fsdp", "gpus": ranks, "accumulation": 2 // ranks, "batch_tokens": 160, "epochs": 1, "lr": 3e-3,
            "save_every": "1epoch,2steps", "keep": 9, "precision": precision,
        }  # fmt: skip
        launch(prepare(read_request(flags=flags)), on_record=lambda record: None)
        lines = [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()[1:]]
        return [(line["step"], line["loss"], line["grad_norm"]) for line in lines if "grad_norm" in line]

    # One rank takes both batches in turn, and needs no launcher.
    whole, half = train("whole", "float32", ranks=1), train("half", "float16")
    assert len(half) >= 4
    assert half != whole, "nothing was computed in float16"
    assert [loss for _, loss, _ in half] == pytest.approx([loss for _, loss, _ in whole], rel=2e-3)
    assert [norm for _, _, norm in half] == pytest.approx([norm for _, _, norm in whole], rel=2e-2), "as if unscaled"
    shutil.copytree(tmp_path / "half", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "ep_1")
    for path in (tmp_path / "again" / "resume").iterdir():
        if path.name != "step_2":
            shutil.rmtree(path)
    assert train("again", "float16") == half
    weights = "ep_1/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (tmp_path / "half" / weights).read_bytes()
