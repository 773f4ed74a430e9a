"""Proof, on the very model that is about to be trained, that a packed row does not see its neighbours.

Three short rows go through the model packed, as in training, and one by one with transformers' own attention. Where
their losses differ the run ends before its first step: such a fault is silent, and training goes on, to a worse model.

The rows begin with the same random tokens. A model that sees the row before finds there what comes next, and a
pretrained one copies it: on SmolLM2-135M the loss of a row is then off by 5 to 8, where in bfloat16 rounding alone puts
it off by 0.1. With tokens of their own, rows would be off by 1 to 3.

Where the output layer begins at zero, as of a model from scratch, the loss is ln V whatever attention does. So the
hidden states before that layer are compared as well; in half precision only there, since rounding may send a token to
another expert. Of such a model they are off by 0.24 and more of their norm, and by 0.005 from rounding.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from ochatctl.data.encode import Row
from ochatctl.data.packing import pack
from ochatctl.errors import RunError
from ochatctl.train.linear_loss import CE, TOKENS
from ochatctl.train.loss import to_device
from ochatctl.train.packed_model import Sealed

_LENGTHS = (24, 17, 11)
# Rows reach beyond a window of up to this many tokens, so that the check sees windows too.
_LARGEST_WINDOW = 64
# Of a row's mean cross-entropy, and of its gradient relative to its norm.
_LOSS_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
# Five times what rounding was seen to do, a half of the least that a neighbour does.
_HALF_LOSS_TOLERANCE = 0.5
_GRADIENT_TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-2}
_HALF_GRADIENT_TOLERANCE = 0.7
# Of a row's hidden states, relative to their norm.
_HIDDEN_TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-2}
_HALF_HIDDEN_TOLERANCE = 0.1
# A model whose loss is this near to ln V knows nothing yet.
_KNOWS_NOTHING = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingCheck:
    """What the check found: the largest difference of a row's mean loss, hidden states and gradient, if looked at."""

    loss_difference: float
    hidden_difference: float | None
    gradient_difference: float | None
    knows_nothing: bool


def check_packing(model: torch.nn.Module, device: torch.device, *, seed: int = 0) -> PackingCheck:
    """Check a model that takes packed rows, with the strategy around it. All ranks call it.

    Where the weights are whole on each rank, the gradient at the embeddings is compared too.

    Raises:
        RunError: packed rows differ from the same rows one by one.
    """
    model = getattr(model, "module", model)  # a DeepSpeed engine keeps count of its own calls
    inner = next(module for module in model.modules() if hasattr(module, "get_input_embeddings"))
    config: Any = inner.config
    rows = _rows(config.get_text_config(), seed)
    with_gradient = not any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())
    was_training = model.training
    model.eval()  # no dropout
    try:
        packed = _look(model, inner, rows, device, with_gradient)
        with _textbook_attention(model):
            alone = [_look(model, inner, [row], device, with_gradient) for row in rows]
    finally:
        model.train(was_training)
    guess = math.log(config.get_text_config().vocab_size)
    found = PackingCheck(
        loss_difference=_largest([abs(a - b.loss_S[0]) for a, b in zip(packed.loss_S, alone, strict=True)], device),
        hidden_difference=_largest(
            [_relative(a, b.hidden[0]) for a, b in zip(packed.hidden, alone, strict=True)],
            device,
        )
        if packed.hidden
        else None,
        gradient_difference=_largest(
            [_relative(a, b.gradients[0]) for a, b in zip(packed.gradients, alone, strict=True)],
            device,
        )
        if with_gradient
        else None,
        knows_nothing=_largest([abs(each.loss_S[0] - guess) for each in alone], device) < _KNOWS_NOTHING,
    )
    _judge(config.model_type, packed.dtype, found)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    loss_S: list[float]
    hidden: list[torch.Tensor]
    gradients: list[torch.Tensor]
    dtype: torch.dtype


def _rows(config: Any, seed: int) -> list[Row]:
    """Give rows of random tokens, each a part of the longest."""
    window = getattr(config, "sliding_window", None) or 0
    more = 2 * window if window <= _LARGEST_WINDOW else 0
    lengths = [length + more for length in _LENGTHS]
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, max(lengths) + 1).astype(np.int32)
    return [
        Row(input_ids=ids[:length], labels=ids[1 : length + 1], loss_weights=np.ones(length, dtype=np.float32))
        for length in lengths
    ]


def _look(model: torch.nn.Module, inner: Any, rows: Sequence[Row], device: torch.device, with_gradient: bool) -> _Seen:
    """Give each row's mean loss and hidden states, and the gradient of the sum of losses at its embeddings."""
    lengths = [len(row.input_ids) for row in rows]
    inputs = to_device(
        pack(rows, step_loss_weight=1.0),
        device,
        classes_T=np.repeat(np.arange(len(rows)), lengths),
        num_classes=len(rows),
    )
    embedded: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, given: object, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_(with_gradient))
        return embedded[-1]

    hidden: list[torch.Tensor] = []

    def keep_hidden(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        hidden.extend(torch.split(given[0].detach().flatten(end_dim=-2).float(), lengths))

    hooks = [
        inner.get_input_embeddings().register_forward_hook(keep),
        inner.get_output_embeddings().register_forward_pre_hook(keep_hidden),
    ]
    try:
        with torch.set_grad_enabled(with_gradient):
            weighted_sum, tally_C5 = model(packed=Sealed(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    gradients = []
    if with_gradient:
        (whole,) = torch.autograd.grad(weighted_sum, embedded)
        gradients = list(torch.split(whole[0].float(), lengths))
    return _Seen(
        loss_S=(tally_C5[:, CE] / tally_C5[:, TOKENS]).tolist(),
        hidden=hidden,
        gradients=gradients,
        dtype=embedded[0].dtype,
    )


@contextlib.contextmanager
def _textbook_attention(model: torch.nn.Module) -> Iterator[None]:
    """Have all layers use transformers' own, written out as the textbook has it."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    before = [(config, config._attn_implementation) for config in configs.values() if _says_attention(config)]
    for config, _ in before:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name


def _says_attention(config: object) -> bool:
    return getattr(config, "_attn_implementation", None) is not None


def _relative(gradient: torch.Tensor, reference: torch.Tensor) -> float:
    """Give the norm of the difference by the reference's; 0 of two zeros, as where an output layer begins at zero."""
    difference = (gradient - reference).norm()
    return float(difference / reference.norm()) if difference else 0.0


def _largest(differences: list[float], device: torch.device) -> float:
    """Give the largest over rows and ranks, so that all ranks come to the same end; what is no number is infinite."""
    worst = torch.tensor(differences, dtype=torch.float32).nan_to_num(nan=float("inf")).max().to(device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return float(worst)


def _judge(family: str, dtype: torch.dtype, found: PackingCheck) -> None:
    allowed = _LOSS_TOLERANCE.get(dtype, _HALF_LOSS_TOLERANCE)
    fault = ""
    if found.loss_difference > allowed:
        fault = f"the loss of a packed row is off by {found.loss_difference:.3g} (allowed: {allowed:g})"
    elif found.gradient_difference is not None:
        allowed = _GRADIENT_TOLERANCE.get(dtype, _HALF_GRADIENT_TOLERANCE)
        if found.gradient_difference > allowed:
            fault = f"the gradient of a packed row is off by {found.gradient_difference:.1%} (allowed: {allowed:.0%})"
    if not fault and found.hidden_difference is not None and (dtype in _HIDDEN_TOLERANCE or found.knows_nothing):
        allowed = _HIDDEN_TOLERANCE.get(dtype, _HALF_HIDDEN_TOLERANCE)
        if found.hidden_difference > allowed:
            fault = (
                f"the hidden states of a packed row are off by {found.hidden_difference:.1%} (allowed: {allowed:.0%})"
            )
    if fault:
        raise RunError(
            f"self-check: this `{family}` model does not keep packed rows apart: {fault}",
            hint="report it with the model's name; `--no-selfcheck` trains all the same, at your risk",
        )
