"""The processes of a run: who this one is, and the little that they tell each other."""

import datetime
import os
import random
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ochatctl.errors import EnvironmentProblem
from ochatctl.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among the others."""

    rank: int
    num_ranks: int
    device: torch.device
    # The one rank of this node that talks to its parent.
    is_first_here: bool = True

    @property
    def is_first(self) -> bool:
        """Whether this is global rank 0, which alone writes."""
        return self.rank == 0

    @property
    def sum_dtype(self) -> torch.dtype:
        """What sums over a step are taken in."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def sum(self, value: torch.Tensor) -> float:
        """Give the sum of a scalar over all ranks."""
        total = value.detach().clone()
        self.add_up(total)
        return float(total)

    def sums(self, values: torch.Tensor) -> list[float]:
        """Give the sums of several scalars over all ranks, for the price of one."""
        totals = values.detach().clone()
        self.add_up(totals)
        return [float(total) for total in totals.tolist()]

    def add_up(self, totals: torch.Tensor) -> None:
        """Sum over all ranks, in place; alone nothing is sent, which Apple's GPU has no backend for."""
        if self.num_ranks > 1:
            dist.all_reduce(totals)

    def seed(self, seed: int) -> None:
        """Make dropout random, and another one on each rank."""
        own = (seed * 100_003 + self.rank) % (1 << 63)
        torch.manual_seed(own)
        random.seed(own)

    def random_state(self) -> dict[str, Any]:
        """Give what the next random number depends on."""
        state: dict[str, Any] = {"cpu": torch.get_rng_state(), "python": random.getstate()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            state["mps"] = torch.mps.get_rng_state()
        return state

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Go on where `random_state` was."""
        torch.set_rng_state(state["cpu"])
        random.setstate(state["python"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        if self.device.type == "mps" and "mps" in state:
            torch.mps.set_rng_state(state["mps"])


def join_ranks(config: TrainConfig) -> Ranks:
    """Join the process group that the launcher has set up; alone, make one of one.

    Raises:
        EnvironmentProblem: the launcher started another number of ranks than the run was planned for.
    """
    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks != config.num_ranks:
        raise EnvironmentProblem(f"{num_ranks} ranks were started, and the run is planned for {config.num_ranks}")
    torch.set_num_threads(config.num_threads)
    if config.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device(config.device)
    backend = "cpu:gloo,cuda:nccl" if config.device == "cuda" else "gloo"
    if num_ranks == 1:
        dist.init_process_group(backend, init_method="tcp://localhost:0", rank=0, world_size=1)
    else:
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=config.timeout_seconds))
    is_first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    return Ranks(rank=rank, num_ranks=num_ranks, device=device, is_first_here=is_first_here)
