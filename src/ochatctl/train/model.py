"""The model that is trained: any causal language model of transformers, unchanged, fed with packed rows."""

import datetime
import inspect
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from ochatctl.errors import ConfigError, OchatError
from ochatctl.train import attention
from ochatctl.train.adapters import add_adapters
from ochatctl.train.config import TrainConfig
from ochatctl.train.handout import tensors_of
from ochatctl.train.packed_model import OutputLayer, output_layer, take_packed
from ochatctl.train.ranks import Ranks
from ochatctl.train.recompute import recompute
from ochatctl.train.rope import extend_context
from ochatctl.train.spec import read_lora

# A rank that reads 140 GB from a slow disk is not silent as one is that hangs. One that dies is heard of at once.
_READING_SECONDS = 2 * 3600.0


def load_model(config: TrainConfig) -> torch.nn.Module:
    """Load the base, and make it what the config says: its context, its adapters, what it computes twice.

    In float32 where the strategy trains that copy of the weights. In the precision that is computed with where it does
    not: weights that are frozen beside adapters, and DeepSpeed's, which makes its float32 copy of rounded weights.

    Raises:
        ConfigError: the model cannot be loaded, or cannot be trained padding-free.
    """
    return _made(config, None)


def load_among(config: TrainConfig, ranks: Ranks) -> torch.nn.Module:
    """Load the base on global rank 0, and give the other ranks the same model without weights.

    A strategy hands them out (see `handout`). Weights that are quantised while they are loaded, layer by layer, are
    loaded by every rank.

    Raises:
        ConfigError: on all ranks, where rank 0 cannot load it.
    """
    if ranks.num_ranks == 1 or config.quantize != "none":
        return load_model(config)
    seconds = max(_READING_SECONDS, config.timeout_seconds)
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=seconds))
    model = _read_by_one(config, ranks, group)
    # None is waited for in the next collective for as long as it makes its model.
    dist.barrier(group)
    dist.destroy_process_group(group)
    return model


def _read_by_one(config: TrainConfig, ranks: Ranks, group: dist.ProcessGroup | None) -> torch.nn.Module:
    model: torch.nn.Module | None = None
    told: list[Any] = [None]
    if ranks.is_first:
        try:
            model = load_model(config)
            told = [(output_layer(model), _names_and_shapes(model))]
        except OchatError as error:
            told = [error]
    dist.broadcast_object_list(told, src=0, group=group)
    if isinstance(told[0], OchatError):
        raise told[0]
    if model is not None:
        return model
    found, names = told[0]
    model = _made(config, found)
    # Files may make a model another one than its config says: two tables that are said to be tied, and differ.
    return model if _names_and_shapes(model) == names else load_model(config)


def _made(config: TrainConfig, found: OutputLayer | None) -> torch.nn.Module:
    """Make the model: with weights, or on the meta device where another rank has `found` out what they tell."""
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # nobody looks at a rank's terminal
    attention.register()
    try:
        own = AutoConfig.from_pretrained(config.model_dir, trust_remote_code=config.trust_remote_code)
        if config.scaling is not None:
            extend_context(own, config.scaling)
        model = _loaded(config, own) if found is None else _without_weights(config, own)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        # A torn file and weights of other sizes than the config's are among these.
        raise ConfigError(f"`{config.model_dir}`: the model cannot be loaded: {error}") from error
    _check_padding_free(model)
    if config.lora is not None:
        add_adapters(
            model, read_lora(config.lora), base_name=config.base_name, train_embeddings=config.train_embeddings
        )
    recompute(model, config.recompute)
    take_packed(model, found)
    if config.compile:
        compile_layers(model)
    model.train()
    return model  # type: ignore[no-any-return]  # transformers is untyped here


def _loaded(config: TrainConfig, own: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        config.model_dir,
        config=own,
        dtype=_load_dtype(config),
        attn_implementation=attention.NAME,
        trust_remote_code=config.trust_remote_code,
        **_quantised(config),
    )


def _without_weights(config: TrainConfig, own: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            own,
            dtype=_load_dtype(config),
            attn_implementation=attention.NAME,
            trust_remote_code=config.trust_remote_code,
        )


def _load_dtype(config: TrainConfig) -> torch.dtype:
    is_trained_whole = config.lora is None and config.strategy == "fsdp"
    dtype: torch.dtype = getattr(torch, config.dtype)
    return torch.float32 if is_trained_whole else dtype


def _names_and_shapes(model: torch.nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    return [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors_of(model)]


def _quantised(config: TrainConfig) -> dict[str, Any]:
    """Give the arguments that have transformers load the layers' weights in 4 bits, on this rank's own device."""
    if config.quantize == "none":
        return {}
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )
    device = torch.cuda.current_device() if config.device == "cuda" else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


def compile_layers(model: Any) -> None:
    """Compile each decoder layer in place: all are alike, so that the work is done once, and names stay as they are."""
    # Attention stays outside: it goes by the rows' boundaries, which are others in every batch.
    outside = torch.compiler.disable(attention.packed_attention)  # type: ignore[no-untyped-call]  # torch's own gap
    attention.register(outside)
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)


def decoder_layers(model: Any) -> list[torch.nn.Module]:
    """Give the blocks that transformers itself says must not be split."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def _check_padding_free(model: Any) -> None:
    """Refuse, by name, what would be silently wrong: rows that see each other, or attention that lacks a part."""
    name, taken = type(model).__name__, inspect.signature(model.forward).parameters
    reason = ""
    if not model._supports_attention_backend:
        reason = "does not call transformers' attention interface"
    elif getattr(model, "_is_stateful", False):
        reason = "carries a state from token to token, across the rows"
    elif "logits_to_keep" not in taken or "position_ids" not in taken:
        reason = "takes no `logits_to_keep` or no `position_ids`"
    elif any(getattr(model.config.get_text_config(), key, 0.0) for key in ("attention_dropout", "attn_pdrop")):
        reason = "has attention dropout in its config, which packed attention does not know"
    elif any(parameter.endswith(".sinks") for parameter, _ in model.named_parameters()):
        reason = "has attention sinks, which packed attention does not know"
    elif own := _own_attention(model):
        reason = f"computes attention in its own way, in `{own}`"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        reason = f"has layers of kind `{', '.join(sorted(unknown))}`, which would mix packed rows"
    if reason:
        raise ConfigError(f"`{name}` {reason}, so it cannot be trained packed")


def _own_attention(model: torch.nn.Module) -> str:
    """Name a class of the model's that is attention by its name and, by its source, does not ask the interface.

    A model's own code may say that it supports the interface, and not do so in each of its layers.
    """
    for kind in {type(module) for module in model.modules()}:
        if not kind.__name__.endswith("Attention"):
            continue
        try:
            source = inspect.getsource(kind)
        except (OSError, TypeError):
            continue
        if ("softmax" in source or "scaled_dot_product" in source) and "ALL_ATTENTION_FUNCTIONS" not in source:
            return kind.__name__
    return ""
