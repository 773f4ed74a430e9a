"""Low-rank adapters beside frozen weights: put into a model, saved as peft saves them, or folded into the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ochatctl.errors import ConfigError
from ochatctl.extras import require
from ochatctl.train.spec import LoraSpec

# peft's name for the one set of adapters that a model has.
_NAME = "default"
_PREFIX = "base_model.model."
WEIGHTS_FILE = "adapter_model.safetensors"


def add_adapters(model: Any, spec: LoraSpec, *, base_name: str, train_embeddings: bool) -> None:
    """Freeze a model and put adapters into it, in place; with `train_embeddings` embeddings and output layer learn too.

    The model stays of its class, and its modules keep their names, but for those that an adapter wraps.

    Guarantees: what the model computes is unchanged until the first step.

    Raises:
        ConfigError: no layer has such a name.
        MissingExtra: peft is not installed.
    """
    peft = require("peft", extra="train")
    tables = _tables(model) if train_embeddings else {}
    config = peft.LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.targets if spec.targets == "all-linear" else spec.targets.split("+"),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )
    try:
        peft.inject_adapter_in_model(config, model, _NAME)
    except ValueError as error:
        raise ConfigError(
            f"`lora`: `{spec.targets}` cannot be given adapters: {error}",
            hint="name linear layers as `targets=q_proj+v_proj`, or leave it out for all of them",
        ) from error
    # Set after the adapters: peft's own wrapper for whole modules would hide the output layer from the loss.
    if tables:
        config.modules_to_save = [name.rpartition(".")[2] for name in tables]
    if model.config.get_text_config().tie_word_embeddings and tables:
        # One table under two names; peft ties them again.
        config.modules_to_save, config.ensure_weight_tying = config.modules_to_save[:1], True
    for parameter in (parameter for table in tables.values() for parameter in table.parameters()):
        parameter.requires_grad_(True)
    # In the precision that the optimizer wants; a frozen base may be in half.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def write_adapter(folder: Path, model: Any, state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Write what peft reads: the trained weights of `state`, and the config that names the base.

    Adapters are kept in the precision that they have in `state`, whole tables in `dtype`.
    """
    from safetensors.torch import save_file

    out = {
        _PREFIX + name.replace(f".{_NAME}.", "."): value if _is_adapter(name) else value.to(dtype)
        for name, value in state.items()
    }
    config = model.peft_config[_NAME]
    if config.modules_to_save and model.config.get_text_config().tie_word_embeddings:
        # peft wants the one table under both names.
        table = next(value for name, value in state.items() if not _is_adapter(name)).to(dtype)
        out |= {f"{_PREFIX}{name}.weight": table.clone() for name in _tables(model)}
    save_file({name: value.contiguous() for name, value in out.items()}, folder / WEIGHTS_FILE, {"format": "pt"})
    was_training, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = was_training


def merged_state(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the weights of a model without adapters, theirs added in float32."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "base_layer")}
    out = {}
    for name, value in state.items():
        if _is_adapter(name):
            continue
        stem, inside, kind = name.rpartition(".base_layer.")
        if inside and kind == "weight":
            layer = layers[stem]
            delta = state[f"{stem}.lora_B.{_NAME}.weight"].float() @ state[f"{stem}.lora_A.{_NAME}.weight"].float()
            delta *= layer.scaling[_NAME]
            value = value.float() + (delta.t() if layer.fan_in_fan_out else delta)
        out[f"{stem}.{kind}" if inside else name] = value
    return out


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _tables(model: Any) -> dict[str, torch.nn.Module]:
    """Give embeddings and output layer by their names."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name: module for name, module in model.named_modules() if any(module is table for table in both)}
