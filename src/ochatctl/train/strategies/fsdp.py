"""torch's own FSDP2: each rank holds a slice of the weights, the gradients and the optimizer's state."""

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ochatctl.train.config import TrainConfig
from ochatctl.train.handout import Handout
from ochatctl.train.model import decoder_layers
from ochatctl.train.ranks import Ranks
from ochatctl.train.strategies.base import SaveFault, make_optimizer, moments_to_come, set_lr, trained_names
from ochatctl.train.strategies.loss_scale import LossScale

# Below this the model is gathered in one go: two gloo ranks take 30 ms a step for it, with a group a layer more.
_ONE_GROUP_BYTES = 64 << 20
# What is frozen is the base's, which is loaded anew.
_ONLY_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
_NORM_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class FsdpStrategy:
    """FSDP2 over all ranks, one group a decoder layer."""

    name = "fsdp"

    def __init__(self, model: torch.nn.Module, config: TrainConfig, ranks: Ranks) -> None:
        mesh = init_device_mesh("cuda" if ranks.device.type == "cuda" else "cpu", (ranks.num_ranks,))
        half = None if config.dtype == "float32" else getattr(torch, config.dtype)
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
        # The float32 copy is what is sharded and trained; the GPU computes on a cast of it.
        size_bytes = sum(parameter.nbytes for parameter in model.parameters())
        # What is quantised cannot be cut, and is small: every rank has it whole.
        whole = {parameter for parameter in model.parameters() if not parameter.is_floating_point()}
        # Memory is what a GPU is short of; between CPU processes the second gather costs more than it saves.
        reshard = ranks.device.type == "cuda"
        handout = Handout(model, ranks, None if config.lora else torch.float32)
        # Alone on Apple's GPU there is nobody to share with, and no backend to do it by: the model stays whole.
        cuts = ranks.device.type != "mps"
        for layer in decoder_layers(model) if cuts and size_bytes > _ONE_GROUP_BYTES else ():
            handout.give(layer)
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard, ignored_params=whole)
        handout.give(model)
        if cuts:
            fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=whole)
        self.model = model.to(ranks.device)
        self._device = ranks.device
        self._is_first = ranks.is_first
        self._ranks = ranks
        self._saving_group: dist.ProcessGroup | None = None
        self._max_grad_norm = config.optim.max_grad_norm
        # bitsandbytes knows nothing of sharded tensors: it is given each rank's own slices.
        self._slices = _own_slices(model) if config.optim.optimizer == "adamw8bit" else None
        trained = model if self._slices is None else torch.nn.ParameterList(own for _, own in self._slices)
        self._optimizer = make_optimizer(trained, config.optim)
        self._scale = LossScale() if config.dtype == "float16" else None
        self.has_overflowed = False
        self._own_file = f"optimizer_{ranks.rank}.pt"

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        torch.autograd.backward(loss if self._scale is None else loss * self._scale.value)

    def step(self, lr: float) -> float:
        grad_norm = self._clip()
        self.has_overflowed = False
        if self._scale is not None:
            self.has_overflowed = not math.isfinite(grad_norm) and self._scale.can_be_lowered
            self._scale.see(grad_norm)
        if math.isfinite(grad_norm):
            set_lr(self._optimizer, lr)
            for parameter, own in self._slices or ():
                own.grad = None if parameter.grad is None else _own_slice(parameter.grad)
            self._optimizer.step()
        self._optimizer.zero_grad()
        self.model.zero_grad()
        return grad_norm

    @contextlib.contextmanager
    def rehearsal(self) -> Iterator[None]:
        state = None if self._scale is None else self._scale.state()
        weights = [weight for group in self._optimizer.param_groups for weight in group["params"]]
        held = moments_to_come(weights, self._optimizer)
        yield
        del held
        if self._scale is not None and state is not None:
            self._scale.restore(state)

    def _clip(self) -> float:
        """Scale the gradient down to the largest norm that is allowed; give its norm before.

        On the slices themselves, which costs a small model less than torch's own function; and in float64 on CPU, where
        a norm of two million float32 values was seen to be off by 3e-5 and to depend on the number of ranks.
        """
        slices = [_own_slice(p.grad) for p in self.model.parameters() if p.grad is not None]
        precision = torch.float64 if self._device.type == "cpu" else torch.float32
        square = torch.stack([torch.linalg.vector_norm(part, dtype=precision) for part in slices]).square().sum()
        self._ranks.add_up(square)
        loss_scale = 1.0 if self._scale is None else self._scale.value
        grad_norm = math.sqrt(float(square)) / loss_scale
        scale = min(1.0, self._max_grad_norm / (grad_norm + _NORM_EPS)) / loss_scale
        if scale < 1:
            torch._foreach_mul_(slices, scale)
        return grad_norm

    def full_state(self, dtype: torch.dtype, *, only_trained: bool = False) -> dict[str, torch.Tensor]:
        state = {}
        kept = trained_names(self.model) if only_trained else None
        for name, value in self.model.state_dict().items():
            if kept is not None and name not in kept:
                continue
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if self._is_first:
                state[name] = whole.to("cpu", dtype if whole.is_floating_point() else whole.dtype)
        return state

    def save_shards(self, folder: Path) -> Callable[[], object]:
        # A group of its own: the writing thread's collectives must not run into those of training.
        if self._saving_group is None:
            self._saving_group = dist.new_group(backend="gloo")
        # Given as the writer, it is the stager as well: a copy on CPU is taken before this returns.
        writer = FileSystemWriter(folder, sync_files=False)
        try:
            if self._slices is not None:
                torch.save(self._optimizer.state_dict(), folder / self._own_file)
            future = async_save(self._state(), storage_writer=writer, process_group=self._saving_group)
        except (OSError, RuntimeError, CheckpointException) as error:
            raise SaveFault(_reason(error)) from error
        assert isinstance(future, Future)

        def wait() -> None:
            try:
                future.result()
            except (OSError, CheckpointException) as error:
                raise SaveFault(_reason(error)) from error

        return wait

    def load_shards(self, folder: Path) -> None:
        state = self._state()
        load(state, storage_reader=FileSystemReader(folder))
        if self._scale is not None:
            self._scale.restore(state["loss_scale"])
        if self._slices is not None:
            set_model_state_dict(self.model, state["model"], options=_ONLY_TRAINED)
            self._optimizer.load_state_dict(torch.load(folder / self._own_file, weights_only=True))
            return
        set_state_dict(
            self.model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_ONLY_TRAINED,
        )

    def _state(self) -> dict[str, Any]:
        scale = {} if self._scale is None else {"loss_scale": self._scale.state()}
        if self._slices is not None:
            return {"model": self._only_trained(get_model_state_dict(self.model, options=_ONLY_TRAINED)), **scale}
        model, optimizer = get_state_dict(self.model, self._optimizer, options=_ONLY_TRAINED)
        return {"model": self._only_trained(model), "optimizer": optimizer, **scale}

    def _only_trained(self, state: dict[str, Any]) -> dict[str, Any]:
        """Leave out the second name of a tied weight that is frozen, which torch keeps."""
        if all(parameter.requires_grad for parameter in self.model.parameters()):
            return state
        names = trained_names(self.model)
        return {name: value for name, value in state.items() if name in names}


def _own_slices(model: torch.nn.Module) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """Give each trained weight with this rank's slice of it, in the same memory; nothing where that is empty."""
    both = [(p, torch.nn.Parameter(_own_slice(p.detach()))) for p in model.parameters() if p.requires_grad]
    return [(parameter, own) for parameter, own in both if own.numel()]


def _own_slice(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _reason(error: BaseException) -> str:
    """Give the first rank's own error; torch wraps it with the traceback of each rank."""
    failures = getattr(error, "failures", None)
    return str(next(iter(failures.values()))[0]) if failures else str(error)
