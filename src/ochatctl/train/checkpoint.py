"""A trained model as a Hugging Face folder: weights, configs, the base's tokenizer, chat template, openchat.json."""

from pathlib import Path
from typing import Any

import torch

from ochatctl.chat.families import Family, write_chat_files
from ochatctl.chat.tokenizer import Tokenizer, copy_tokenizer
from ochatctl.files import atomic_dir, read_json, write_json

_GENERATION_CONFIG = "generation_config.json"


def save_checkpoint(
    path: Path,
    *,
    model: Any,
    state: dict[str, torch.Tensor],
    base_dir: Path,
    family: Family,
    tokenizer: Tokenizer,
    conditions: dict[str, int],
) -> None:
    """Write the folder whole or not at all. `model` gives the configs, `state` the weights, in the base's dtype.

    Guarantees: the tokenizer's files are the base's, byte for byte.
    """
    dtype = saved_dtype(base_dir)
    from transformers import GenerationConfig

    state = {name: _cast(value, dtype) for name, value in _without_ties(model, state).items()}
    # transformers refuses to write some published ones, such as Llama 2's own; the base's file is copied instead.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    with atomic_dir(path) as part:
        model.save_pretrained(part, state_dict=state, is_main_process=True)
        _write_dtype(part, dtype)
        copy_tokenizer(base_dir, part)
        write_chat_files(part, family, tokenizer, conditions=conditions)
        _write_generation_config(base_dir, part, family.template.eot_id(tokenizer))
        # safetensors writes files that only their owner can read.
        for file in part.iterdir():
            file.chmod(part.stat().st_mode & 0o666)


def saved_dtype(base_dir: Path) -> torch.dtype:
    """Give the dtype that the base's config names; without one, bfloat16."""
    config = read_json(base_dir / "config.json")
    name = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    dtype = getattr(torch, str(name), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.bfloat16


def _cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype).contiguous() if value.is_floating_point() else value


def _without_ties(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out the second name of a tied weight."""
    first_names = {name for name, _ in model.named_parameters()}
    second_names = {name for name, _ in model.named_parameters(remove_duplicate=False)} - first_names
    return {name: value for name, value in state.items() if name not in second_names}


def _write_dtype(target_dir: Path, dtype: torch.dtype) -> None:
    """Name the dtype that was written: `save_pretrained` names the one that was trained in."""
    path = target_dir / "config.json"
    write_json(path, {**read_json(path), "dtype": str(dtype).removeprefix("torch.")})


def _write_generation_config(base_dir: Path, target_dir: Path, eot_id: int) -> None:
    """Copy the base's, if it has one, with the end-of-turn token among those that end an answer."""
    source = base_dir / _GENERATION_CONFIG
    table = read_json(source) if source.is_file() else read_json(target_dir / _GENERATION_CONFIG)
    eos = table.get("eos_token_id")
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if eot_id not in ends:
        table["eos_token_id"] = [eot_id, *ends] if ends else eot_id
    write_json(target_dir / _GENERATION_CONFIG, table)
