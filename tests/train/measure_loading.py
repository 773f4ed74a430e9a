"""Run on each rank: load a model and spread it, and write how far this rank's main memory has grown at its peak."""

import json
import sys
from pathlib import Path

import torch

from ochatctl.config import read_run
from ochatctl.train.config import TrainConfig
from ochatctl.train.model import load_among
from ochatctl.train.ranks import join_ranks
from ochatctl.train.strategies.base import make_strategy


def peak_bytes() -> int:
    """Give the peak of this very process; `ru_maxrss` would begin with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    config = read_run(TrainConfig, Path(sys.argv[1]))
    ranks = join_ranks(config)
    # What these take is not the model's.
    import transformers.models.llama.modeling_llama  # noqa: F401

    import ochatctl.train.strategies.fsdp  # noqa: F401

    if config.strategy == "deepspeed":
        import ochatctl.train.strategies.deepspeed as theirs

    before = peak_bytes()
    torch.manual_seed(config.seed)
    model = load_among(config, ranks)
    if config.strategy == "deepspeed":
        # Before the engine makes its own copies, as large as the rank's share.
        theirs.hand_out(model, config, ranks)
        grown = peak_bytes() - before
        strategy = make_strategy(model, config, ranks)
    else:
        strategy = make_strategy(model, config, ranks)
        grown = peak_bytes() - before
    state = strategy.full_state(torch.float32)
    folder = Path(sys.argv[2])
    (folder / f"rank_{ranks.rank}.json").write_text(json.dumps(grown))
    if ranks.is_first:
        torch.save(state, folder / "state.pt")


if __name__ == "__main__":
    main()
