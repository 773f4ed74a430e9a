"""The command lines that start the ranks of a run."""

import sys

from ochatctl.train.config import RUN_FILE, TrainConfig


def launcher_argv(config: TrainConfig) -> tuple[str, ...]:
    """Give the command that starts the ranks; one rank needs no launcher."""
    rank = ("-m", "ochatctl.train.loop", str(config.out_dir / RUN_FILE))
    if config.num_ranks == 1:
        return (sys.executable, *rank)
    # A free port, and no look-up of this machine's name, which not every machine can resolve.
    where = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost")
    return (sys.executable, "-m", "torch.distributed.run", *where, f"--nproc-per-node={config.num_ranks}", *rank)
