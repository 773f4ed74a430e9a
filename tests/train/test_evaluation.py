"""An evaluation gives the same figures every time, and leaves training as it was."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from training_for_tests import FAMILY, write_base, write_data

from ochatctl.chat.families import load_family
from ochatctl.data.conditions import RowConditions
from ochatctl.data.dataset import split_path
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.course import plan_course
from ochatctl.train.evaluation import Evaluation
from ochatctl.train.loader import RowClasses
from ochatctl.train.model import load_model
from ochatctl.train.ranks import Ranks
from ochatctl.train.records import Evaluated

LENGTHS = torch.tensor([10] * 6).numpy()


@pytest.fixture
def alone() -> Iterator[Ranks]:
    """A process group of one, in this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(rank=0, num_ranks=1, device=torch.device("cpu"))
    dist.destroy_process_group()


class Whole:
    """A strategy that leaves the model as it is."""

    name = "whole"

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model


def drop(module: torch.nn.Module, given: object, output: torch.Tensor) -> torch.Tensor:
    return F.dropout(output, 0.5, training=module.training)


def test_evaluation_is_the_same_every_time_and_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, alone: Ranks
) -> None:
    base = write_base(tmp_path / "base")
    path = split_path(write_data(tmp_path / "chats", base, num_rows=9, split="eval"), "eval")
    config = TrainConfig(
        model_dir=base, data_path=path, out_dir=tmp_path, family=None, strategy="fsdp", device="cpu", dtype="float32",
        num_ranks=1, num_epochs=2, batch_tokens=64, optim=OptimConfig(lr=1e-3), eval_path=path, eval_every_epochs=1,
    )  # fmt: skip
    model: Any = load_model(config)
    model.get_input_embeddings().register_forward_hook(drop)
    model.train()
    classes = RowClasses(RowConditions(*load_family(base, FAMILY), ()))
    strategy: Any = Whole(model)
    seen: list[Evaluated] = []

    def evaluation(config: TrainConfig) -> Evaluation:
        return Evaluation(config, strategy, alone, classes, num_steps=course.num_steps, tell=seen.append)

    course = plan_course(LENGTHS, num_epochs=2, bins_per_step=1, bin_tokens=20, seed=0)
    steps = list(course.steps())
    alone.seed(0)
    expected = (torch.rand(3).tolist(), random.random())
    alone.seed(0)
    for step in steps:
        evaluation(config).after(step)
    assert (torch.rand(3).tolist(), random.random()) == expected
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    first_end, last_end = (step for step in steps if step.ends_epoch)
    assert [(line.step, line.epoch) for line in seen] == [(first_end.step, 1), (last_end.step, 2)]
    first, second = (replace(line, step=0, epoch=0, seconds=0) for line in seen)
    assert first == second
    assert set(first.class_losses) == {"GPT4", "GPT3"}

    # Dropout would have shown.
    model.eval = lambda: model
    evaluation(config).after(last_end)
    assert seen[-1].eval_loss != second.eval_loss
    del model.eval

    # A run that was told to stop before it could evaluate does so where it goes on; elsewhere there is nothing to do.
    progress = first_end.progress
    rest = plan_course(LENGTHS, num_epochs=2, bins_per_step=1, bin_tokens=20, seed=0, after=progress)
    after_one = plan_course(LENGTHS, num_epochs=2, bins_per_step=1, bin_tokens=20, seed=0, after=steps[0].progress)
    seen.clear()
    evaluation(config).make_up_for(progress, rest, is_done=True)
    evaluation(config).make_up_for(steps[0].progress, after_one, is_done=False)
    evaluation(replace(config, eval_path=None)).after(first_end)
    assert seen == []
    evaluation(config).make_up_for(progress, rest, is_done=False)
    assert [line.step for line in seen] == [first_end.step]
    assert seen[0].eval_loss == first.eval_loss
