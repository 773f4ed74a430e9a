"""What the training loop needs of a way to spread a model over ranks."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast

import torch
from torch.distributed.tensor import DTensor

from ochatctl.errors import ConfigError
from ochatctl.extras import require
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.ranks import Ranks

# bitsandbytes' own limit: smaller weights keep whole moments.
_SMALLEST_IN_8_BITS = 4096


class Strategy(Protocol):
    """Spreads a model and its optimizer over ranks. The order of calls is the same on all ranks.

    Gradients are averaged over the ranks, so the loop multiplies the loss by their number.
    """

    name: str
    # Called as the model itself is.
    model: torch.nn.Module
    # Whether the last step was given up for a gradient beyond float16, and the loss is scaled by less from now on.
    has_overflowed: bool

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Add the gradient of a micro-step; `is_last` says that the optimizer step follows."""
        ...

    def step(self, lr: float) -> float:
        """Clip, take the optimizer step and forget the gradients; give the gradient's norm before clipping.

        Where the norm is not finite, on all ranks alike, the gradients are forgotten and no step is taken.
        """
        ...

    def rehearsal(self) -> AbstractContextManager[None]:
        """Hold the memory that the optimizer will take, and leave the scale of the loss as it is, meanwhile."""
        ...

    def full_state(self, dtype: torch.dtype, *, only_trained: bool = False) -> dict[str, torch.Tensor]:
        """Gather the whole model in `dtype`, one weight at a time, on CPU, on rank 0; nothing on the others.

        `only_trained` leaves out what is frozen. All ranks call it.
        """
        ...

    def save_shards(self, folder: Path) -> Callable[[], object]:
        """Write each rank's share of weights and optimizer; give what waits for the end of it. All ranks call both.

        Training may go on before it is called, and then on another thread than this one's.

        Raises:
            SaveFault: from either, on the ranks that failed at least.
        """
        ...

    def load_shards(self, folder: Path) -> None:
        """Bring back what `save_shards` wrote, as the first thing that is done with this object."""
        ...


def trained_names(model: torch.nn.Module) -> set[str]:
    """Give the names of the weights that are trained."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


class SaveFault(Exception):
    """A rank could not write its share."""


def make_strategy(model: torch.nn.Module, config: TrainConfig, ranks: Ranks) -> Strategy:
    """Spread `model` as the config says."""
    if config.strategy == "deepspeed":
        from ochatctl.train.strategies.deepspeed import DeepSpeedStrategy

        return DeepSpeedStrategy(model, config, ranks)
    if config.strategy == "fsdp":
        from ochatctl.train.strategies.fsdp import FsdpStrategy

        return FsdpStrategy(model, config, ranks)
    raise ConfigError(f"unknown strategy `{config.strategy}`")


def make_optimizer(model: torch.nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Make AdamW; vectors (norms and biases) do not decay, but where `optim` says so.

    Raises:
        MissingExtra: 8-bit AdamW, and bitsandbytes is not installed.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay_of_vectors = optim.weight_decay if optim.decays_vectors else 0.0
    groups = [
        {"params": [p for p in trained if _num_dims(p) >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if _num_dims(p) < 2], "weight_decay": decay_of_vectors},
    ]
    groups = [group for group in groups if group["params"]]
    if optim.optimizer == "adamw8bit":
        adamw8bit = require("bitsandbytes", extra="quant").optim.AdamW8bit
        return cast(torch.optim.Optimizer, adamw8bit(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps))
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def _num_dims(parameter: torch.nn.Parameter) -> int:
    # What ZeRO-3 has cut is a flat tensor.
    return len(getattr(parameter, "ds_shape", parameter.shape))


def moments_to_come(weights: Iterable[torch.Tensor], optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Give tensors as large as the moments that AdamW will make of these weights at its first step."""
    is_8bit = not isinstance(optimizer, torch.optim.AdamW)
    new = [weight for weight in weights if not optimizer.state.get(weight)]
    own = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in new]
    return [
        torch.empty_like(weight, dtype=torch.uint8 if is_8bit and weight.numel() >= _SMALLEST_IN_8_BITS else None)
        for weight in own
        for _ in range(2)
    ]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
