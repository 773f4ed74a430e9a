"""What of a forward pass is thrown away and computed again in the backward one, to save memory.

`full` keeps a layer's input and computes all else twice. `selective` keeps what is dear to compute and small beside
the rest, the results of matrix products and of attention, and computes again what is cheap: norms, activations,
rotations. Chosen over every other layer: that saves half at half the price, and this a good part at next to none.
"""

import functools
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from ochatctl.train.config import Recompute

_KEPT_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})
_KEPT_ATTENTION = ("aten::_scaled_dot_product", "torch_attn::")


def recompute(model: Any, how: Recompute) -> None:
    """Have the layers of a transformers model keep less. Gradients stay what they are."""
    if how == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        settings["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    if hasattr(model, "activation_checkpointing_enable"):  # the newer name in transformers
        model.activation_checkpointing_enable(settings)
    else:
        model.gradient_checkpointing_enable(settings)


def _policy(context: object, operation: Any, *args: object, **kwargs: object) -> CheckpointPolicy:
    name = operation.name()
    kept = name in _KEPT_PRODUCTS or name.startswith(_KEPT_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
