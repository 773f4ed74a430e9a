"""The command lines that start the ranks of a run."""

import sys
from pathlib import Path

from ochatctl.train.config import RUN_FILE, TrainConfig


def run_path(config: TrainConfig) -> Path:
    """Give where this node's ranks read what to do."""
    return config.out_dir / (RUN_FILE if config.node_rank == 0 else f"run.node{config.node_rank}.json")


def launcher_argv(config: TrainConfig) -> tuple[str, ...]:
    """Give the command that starts this node's ranks; one rank needs no launcher."""
    rank = ("-m", "ochatctl.train.loop", str(run_path(config)))
    if config.num_ranks == 1:
        return (sys.executable, *rank)
    where: tuple[str, ...]
    if config.rendezvous is None:
        # A free port, and no look-up of this machine's name, which not every machine can resolve.
        where = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost")
    else:
        # Static, so that the first node has the first rank: it alone logs and saves.
        host, _, port = config.rendezvous.rpartition(":")
        nodes = (f"--nnodes={config.num_nodes}", f"--node-rank={config.node_rank}")
        where = (*nodes, f"--master-addr={host}", f"--master-port={port}")
    own_ranks = f"--nproc-per-node={config.num_ranks // config.num_nodes}"
    return (sys.executable, "-m", "torch.distributed.run", *where, own_ranks, *rank)
