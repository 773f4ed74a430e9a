"""The processes of a run: who this one is, and the little that they tell each other."""

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ochatctl.errors import EnvironmentProblem
from ochatctl.train.config import TrainConfig

_TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among the others."""

    rank: int
    num_ranks: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is global rank 0, which alone writes."""
        return self.rank == 0

    def sum(self, value: torch.Tensor) -> float:
        """Give the sum of a scalar over all ranks."""
        total = value.detach().clone()
        dist.all_reduce(total)
        return float(total)


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
        device = torch.device("cpu")
    backend = "cpu:gloo,cuda:nccl" if config.device == "cuda" else "gloo"
    if num_ranks == 1:
        dist.init_process_group(backend, init_method="tcp://localhost:0", rank=0, world_size=1)
    else:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    return Ranks(rank=rank, num_ranks=num_ranks, device=device)
