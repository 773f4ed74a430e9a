"""Run on each rank: take a step, count the bytes of weights, gradients and optimizer that it holds, print rank 0's."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from ochatctl.config import read_run
from ochatctl.train.config import TrainConfig
from ochatctl.train.model import load_model
from ochatctl.train.ranks import join_ranks
from ochatctl.train.strategies.base import make_strategy


def own_bytes(tensors: Any) -> int:
    own = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in own)


def main() -> None:
    config = read_run(TrainConfig, Path(sys.argv[1]))
    ranks = join_ranks(config)
    model = load_model(config)
    strategy: Any = make_strategy(model, config, ranks)
    ids = torch.arange(8)[None]
    logits = strategy.model(input_ids=ids, position_ids=ids, use_cache=False, cu_seq_lens_q=torch.tensor([0, 8]),
                            cu_seq_lens_k=torch.tensor([0, 8]), max_length_q=8, max_length_k=8).logits  # fmt: skip
    strategy.backward(logits.float().square().mean(), is_last=True)
    parameters = list(strategy.model.parameters())
    counted = {"gradients": own_bytes(p.grad for p in parameters if p.grad is not None)}
    strategy.step(1e-3)
    shards = [getattr(p, "ds_tensor", p) for p in parameters]
    counted["weights"] = own_bytes(shards)
    optimizer = strategy._optimizer
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    # DeepSpeed's own copy of the weights, in float32.
    zero = strategy._engine.optimizer if config.strategy == "deepspeed" else None
    copies = getattr(zero, "fp32_partitioned_groups_flat", None) or getattr(zero, "single_partition_of_fp32_groups", ())
    counted["optimizer"] = own_bytes(moments) + own_bytes(copies)
    if ranks.is_first:
        print("COUNTED " + json.dumps(counted))


if __name__ == "__main__":
    main()
