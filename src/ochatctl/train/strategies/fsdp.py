"""torch's own FSDP2: each rank holds a slice of the weights, the gradients and the optimizer's state."""

import math

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ochatctl.train.config import TrainConfig
from ochatctl.train.ranks import Ranks
from ochatctl.train.strategies.base import make_optimizer, set_lr

# Below this the model is gathered in one go: two gloo ranks take 30 ms a step for it, with a group a layer more.
_ONE_GROUP_BYTES = 64 << 20


class FsdpStrategy:
    """FSDP2 over all ranks, one group a decoder layer."""

    name = "fsdp"

    def __init__(self, model: torch.nn.Module, config: TrainConfig, ranks: Ranks) -> None:
        mesh = init_device_mesh(ranks.device.type, (ranks.num_ranks,))
        half = torch.bfloat16 if config.dtype == "bfloat16" else None
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
        # The float32 copy is what is sharded and trained; the GPU computes on a cast of it.
        size_bytes = sum(parameter.nbytes for parameter in model.parameters())
        # Memory is what a GPU is short of; between CPU processes the second gather costs more than it saves.
        reshard = ranks.device.type == "cuda"
        for layer in _layers(model) if size_bytes > _ONE_GROUP_BYTES else ():
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        self.model = model.to(ranks.device)
        self._max_grad_norm = config.optim.max_grad_norm
        self._optimizer = make_optimizer(model, config.optim)

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        torch.autograd.backward(loss)

    def step(self, lr: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(grad_norm):
            set_lr(self._optimizer, lr)
            self._optimizer.step()
        self._optimizer.zero_grad()
        return grad_norm

    def full_state(self) -> dict[str, torch.Tensor]:
        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Give the blocks that transformers itself says must not be split."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]
