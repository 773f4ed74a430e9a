"""Real LoRA adapters for a model folder, made by peft, and big enough to change every answer."""

import json
from pathlib import Path
from typing import Any


def save_adapters(base_dir: Path, folder: Path, *, seed: int, rank: int = 4, **more: Any) -> Path:
    """Save random adapters on a base's attention; `model_type` is what its card says."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model_type = more.pop("model_type", None)
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["q_proj", "v_proj", "o_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base_dir),
        **more,
    )
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    peft.get_peft_model(base, config).save_pretrained(folder)
    if model_type is not None:
        (folder / "openchat.json").write_text(json.dumps({"model_type": model_type}))
    return folder
