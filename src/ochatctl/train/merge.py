"""`ochatctl merge`: adapters and their base -> one model folder, as training without adapters would have saved it.

in: a folder of adapters, out: a Hugging Face folder in the base's own precision
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.chat.families import CARD_NAME, load_family, read_card
from ochatctl.errors import ConfigError
from ochatctl.extras import require
from ochatctl.files import refuse_existing, require_disk
from ochatctl.hub import adapter_base, adapter_base_dir, chat_model
from ochatctl.train.checks import weight_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What was merged into what; `num_layers` are those that had an adapter."""

    out: Path
    adapter: Path
    base: Path
    family: str
    dtype: str
    num_layers: int
    num_bytes: int


def merge(
    name: str, out: Path, *, base: str | None = None, yes: bool = False, trust_remote_code: bool = False
) -> Merged:
    """Merge adapters into their base; of a training run's folder, those of its last epoch. The base is read whole.

    Guarantees: the folder appears whole or not at all; base and adapters are only read.

    Raises:
        ConfigError: no adapters there, or their base is not to be found or has other layers.
        UsageProblem: `out` exists.
        EnvironmentProblem: too little disk.
        MissingExtra: peft is not installed.
    """
    folder = chat_model(name)
    if adapter_base(folder) is None:
        raise ConfigError(
            f"`{folder}` holds no adapters to merge", hint=f"ochatctl serve --model {shlex.quote(str(name))}"
        )
    base_dir = adapter_base_dir(folder, base=base)
    refuse_existing(out, yes=yes)
    num_bytes = weight_bytes(base_dir)
    require_disk(out, need_bytes=num_bytes)
    own = folder if (folder / CARD_NAME).is_file() else base_dir
    card = read_card(own)
    family, tokenizer = load_family(own, trust_remote_code=trust_remote_code)

    # Where DeepSpeed is installed peft imports it, and it says on standard output that it has to choose.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from ochatctl.train.checkpoint import save_checkpoint, saved_dtype

    peft = require("peft", extra="train")
    logging.disable_progress_bar()
    dtype = saved_dtype(base_dir)
    config_dir = folder if (folder / "config.json").is_file() else base_dir
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            base_dir,
            config=AutoConfig.from_pretrained(config_dir, trust_remote_code=trust_remote_code),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
        with_adapters = peft.PeftModel.from_pretrained(model, folder)
        num_layers = sum(hasattr(module, "lora_A") for module in with_adapters.modules())
        model = with_adapters.merge_and_unload(safe_merge=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"`{folder}` cannot be merged into `{base_dir}`: {error}") from error
    model.tie_weights()
    save_checkpoint(
        out,
        model=model,
        state=model.state_dict(),
        base_dir=base_dir,
        family=family,
        tokenizer=tokenizer,
        conditions=dict(card.conditions) if card else {},
    )
    return Merged(
        out=out,
        adapter=folder,
        base=base_dir,
        family=family.name,
        dtype=str(dtype).removeprefix("torch."),
        num_layers=num_layers,
        num_bytes=weight_bytes(out),
    )
