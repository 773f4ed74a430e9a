"""A model's weights on their way from the one rank that reads them to all others.

Global rank 0 reads the base into main memory; every other rank builds the same model without weights, on torch's meta
device, and is given them tensor by tensor while a strategy cuts them. So a rank never holds more of the model than its
share and what is on the way, and the base is read from one disk, whatever the number of ranks and nodes.

`_parameters` and `_buffers` of `torch.nn.Module` are torch's own tables, and are written here as its `_apply` does:
`named_parameters` gives a tied weight once, and setting an attribute would register anew what stands in them.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils.weak import WeakIdKeyDictionary

from ochatctl.train.ranks import Ranks


class Handout:
    """Gives weights to the ranks that lack them, module by module. All ranks make the same calls in the same order.

    `dtype` is what the floating-point weights are held in from then on; None: as they were loaded. Where no rank lacks
    any, nothing happens.
    """

    def __init__(self, model: torch.nn.Module, ranks: Ranks, dtype: torch.dtype | None = None) -> None:
        self._model, self._ranks, self._dtype = model, ranks, dtype
        # Weakly: what a strategy has cut must not be held whole.
        self._given = WeakIdKeyDictionary()
        self._done: set[torch.nn.Module] = set()
        lacks = any(tensor.is_meta for _, tensor in tensors_of(model))
        self.is_needed = ranks.sum(torch.tensor(float(lacks), device=ranks.device)) > 0

    def give(self, module: torch.nn.Module, *, recurse: bool = True) -> None:
        """Give what `module` holds and was not given before, to the device that it is trained on."""
        if not self.is_needed:
            return
        for owner in module.modules() if recurse else (module,):
            for parameter in list(owner._parameters.values()):
                # What a strategy has cut was given before.
                if parameter is None or parameter in self._given or isinstance(parameter, DTensor):
                    continue
                self._give_parameter(parameter)
            if owner not in self._done:
                self._done.add(owner)
                self._give_rest(owner)

    def _give_parameter(self, parameter: torch.nn.Parameter) -> None:
        dtype = self._dtype if self._dtype is not None and parameter.is_floating_point() else parameter.dtype
        value = self._handed(parameter.data, dtype)
        if not parameter.is_meta:
            parameter.data = value
            self._given[parameter] = True
            return
        # A parameter cannot leave the meta device; it may stand in several places, where weights are tied.
        whole = torch.nn.Parameter(value, requires_grad=parameter.requires_grad)
        self._given[whole] = True
        for owner in self._model.modules():
            for name, held in owner._parameters.items():
                if held is parameter:
                    owner._parameters[name] = whole

    def _give_rest(self, owner: torch.nn.Module) -> None:
        """Give buffers, saved or not, and tensors that are neither: rotary frequencies are all three in some model."""
        tables: tuple[dict[str, Any], ...] = (owner._buffers, vars(owner))
        for table in tables:
            for name in _tensor_names(table):
                table[name] = self._handed(table[name], table[name].dtype)

    def _handed(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        device = self._ranks.device
        value = (
            torch.empty(tensor.shape, dtype=dtype, device=device)
            if tensor.is_meta
            else tensor.detach().to(device, dtype).contiguous()
        )
        dist.broadcast(value, src=0)
        return value


def tensors_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Give all that a model holds by name: parameters, each once, buffers, and tensors that are neither."""
    yield from model.named_parameters()
    for prefix, owner in model.named_modules():
        tables: tuple[dict[str, Any], ...] = (owner._buffers, vars(owner))
        for table in tables:
            yield from ((f"{prefix}.{name}", table[name]) for name in _tensor_names(table))


def _tensor_names(table: dict[str, Any]) -> list[str]:
    return sorted(name for name, value in table.items() if isinstance(value, torch.Tensor))
