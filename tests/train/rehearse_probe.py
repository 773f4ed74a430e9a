"""Run alone: probe the memory as before a first step on a GPU, then take a step; print what each strategy has done."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ochatctl.config import read_run
from ochatctl.data.dataset import open_dataset
from ochatctl.data.packing import pack
from ochatctl.train.config import TrainConfig
from ochatctl.train.loop import probe_memory
from ochatctl.train.loss import batch_loss
from ochatctl.train.model import load_model
from ochatctl.train.ranks import Ranks, join_ranks
from ochatctl.train.strategies.base import make_strategy, moments_to_come

ROWS = (0, 1, 2, 3)


def leaves(value: Any) -> Iterator[torch.Tensor]:
    """Give all moments in the state of an optimizer, whole or sharded."""
    for state in value.values():
        yield from (moment for name, moment in state.items() if name.startswith("exp_avg"))


def num_bytes(tensors: Any) -> int:
    own = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in own)


def weights_of(strategy: Any) -> dict[str, torch.Tensor]:
    """Give a copy: alone on CPU a strategy gives the weights themselves."""
    return {name: value.clone() for name, value in strategy.full_state(torch.float32).items()}


def measure(config: TrainConfig, ranks: Ranks, *, probes: bool) -> dict[str, Any]:
    """Give what a probe and a step have changed, and the moments that were held for the probe and then made."""
    dataset = open_dataset(config.data_path)
    strategy: Any = make_strategy(load_model(config), config, ranks)
    before = weights_of(strategy)
    held: list[torch.Tensor] = []
    if probes:
        optimizer = strategy._optimizer
        shards = getattr(getattr(getattr(strategy, "_engine", None), "optimizer", None),
                         "fp32_partitioned_groups_flat", None)  # fmt: skip
        held = moments_to_come(shards or [w for group in optimizer.param_groups for w in group["params"]], optimizer)
        state = torch.get_rng_state()
        probe_memory(strategy, dataset, ROWS, config, ranks)
        assert torch.equal(torch.get_rng_state(), state)
        assert not list(leaves(optimizer.state)), "the probe took a step"
    after_probe = weights_of(strategy)
    batch = pack([dataset.row(row) for row in ROWS], step_loss_weight=1.0)
    strategy.backward(batch_loss(strategy.model, batch, ranks.device), is_last=True)
    norm = strategy.step(config.optim.lr)
    stepped = weights_of(strategy)
    made = num_bytes(leaves(strategy._optimizer.state))
    return {
        "changed_by_probe": max(float((after_probe[name] - before[name]).abs().max()) for name in before),
        "step": sum(float((stepped[name] - before[name]).abs().double().sum()) for name in before),
        "norm": norm,
        "held_bytes": num_bytes(held),
        "made_bytes": made,
    }


def main() -> None:
    config = read_run(TrainConfig, Path(sys.argv[1]))
    assert "LOCAL_RANK" not in os.environ, "one rank needs no launcher"
    stages = (0, 2, 3) if config.strategy == "deepspeed" else (2,)
    ranks = join_ranks(config)
    for stage in stages:
        for probes in (False, True):
            found = measure(replace(config, zero_stage=stage), ranks, probes=probes)
            print("MEASURED " + json.dumps({"stage": stage, "probes": probes, **found}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
