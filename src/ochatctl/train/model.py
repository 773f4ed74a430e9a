"""The model that is trained: any causal language model of transformers, unchanged, fed with packed rows."""

import inspect
from typing import Any

import torch

from ochatctl.errors import ConfigError
from ochatctl.train import attention
from ochatctl.train.config import TrainConfig
from ochatctl.train.packed_model import take_packed


def load_model(config: TrainConfig) -> torch.nn.Module:
    """Load the base in float32; a strategy keeps the optimizer's copy of the weights in that precision.

    Raises:
        ConfigError: the model cannot be loaded, or cannot be trained padding-free.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # nobody looks at a rank's terminal
    attention.register()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            config.model_dir,
            dtype=torch.float32,
            attn_implementation=attention.NAME,
            trust_remote_code=config.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"`{config.model_dir}`: the model cannot be loaded: {error}") from error
    _check_padding_free(model)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    take_packed(model)
    model.train()
    return model  # type: ignore[no-any-return]  # transformers is untyped here


def _check_padding_free(model: Any) -> None:
    name = type(model).__name__
    if not model._supports_attention_backend:
        raise ConfigError(f"`{name}` does not call transformers' attention interface, so it cannot be trained packed")
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise ConfigError(f"`{name}` takes no `logits_to_keep`, so it cannot be trained packed")
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise ConfigError(f"`{name}` has layers of kind `{', '.join(sorted(unknown))}`, which would mix packed rows")
