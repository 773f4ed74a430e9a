"""The model that is trained: any causal language model of transformers, unchanged, fed with packed rows.

T = packed tokens, S = supervised tokens among them, V = vocabulary
"""

import inspect
from typing import Any

import numpy as np
import torch

from ochatctl.data.packing import PackedBatch
from ochatctl.errors import ConfigError
from ochatctl.train import attention
from ochatctl.train.config import TrainConfig


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
    model.train()
    return model  # type: ignore[no-any-return]  # transformers is untyped here


def supervised_logits(
    model: torch.nn.Module, batch: PackedBatch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give the logits [S, V] of the positions that have a label, with their labels and loss weights [S].

    The output layer works on those alone, through transformers' own `logits_to_keep`, so that a model's scaling and
    soft-capping of logits apply.
    """
    at_S = np.flatnonzero(batch.loss_weights_T)
    cu_seqlens = torch.from_numpy(batch.cu_seqlens).to(device)
    logits_1SV = model(
        input_ids=torch.from_numpy(batch.input_ids_T).to(device)[None],
        position_ids=torch.from_numpy(batch.position_ids_T).to(device)[None],
        use_cache=False,
        cu_seq_lens_q=cu_seqlens,
        cu_seq_lens_k=cu_seqlens,
        max_length_q=batch.max_seqlen,
        max_length_k=batch.max_seqlen,
        logits_to_keep=torch.from_numpy(at_S).to(device),
    ).logits
    labels_S = torch.from_numpy(batch.labels_T[at_S]).to(device)
    weights_S = torch.from_numpy(batch.loss_weights_T[at_S]).to(device)
    return logits_1SV[0], labels_S, weights_S


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
