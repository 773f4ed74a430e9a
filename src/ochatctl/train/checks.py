"""What can be checked of a model, a data set and an output folder before a run starts."""

import math
import re
import shlex
from pathlib import Path
from typing import Any

from ochatctl.chat.families import CARD_NAME, Family, load_family, read_card
from ochatctl.data.dataset import PackedDataset
from ochatctl.errors import ConfigError, MissingExtra, UsageProblem
from ochatctl.extras import has
from ochatctl.files import read_json
from ochatctl.hub import adapter_base, chat_model
from ochatctl.train.data_files import pack_line
from ochatctl.train.request import TrainRequest
from ochatctl.train.rope import chosen_scaling, extended_context
from ochatctl.train.spec import RopeScaling, read_rope_scaling

_WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
# Another node may have been here first.
_OF_A_RUN = re.compile(r"run(\.node\d+)?\.json|ep_.*")


def check_out(request: TrainRequest, out: Path) -> None:
    """Refuse an output folder that is no run of ours; what a run of ours holds is `choose_resume`'s matter."""
    if out.exists() and not out.is_dir():
        raise UsageProblem(f"`{out}` is a file", hint=request.command(out=Path("DIR")))
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    if names and not any(map(_OF_A_RUN.fullmatch, names)) and not request.yes:
        raise UsageProblem(f"`{out}` exists and is not a run of ours", hint=request.command(yes=True))


def no_model(folder: Path) -> ConfigError:
    """Give the error for a folder without a model; of a run's folder the models in it are named."""
    inside = chat_model(str(folder))
    hint = (
        f"`{inside}` is the last in it" if inside != folder else "a model folder has `config.json` and `*.safetensors`"
    )
    return ConfigError(f"`{folder}` holds no model", hint=hint)


def check_family(request: TrainRequest, model_dir: Path, dataset: PackedDataset) -> Family:
    """Load the tokenizer, so that a base without its end-of-turn token fails here; give the family."""
    name = request.family
    if name is None and not (model_dir / CARD_NAME).is_file():
        name = dataset.model_type  # a base that says nothing is trained for what the data was packed for
    if not (model_dir / "config.json").is_file():
        raise no_model(model_dir)
    family, tokenizer = load_family(model_dir, name, trust_remote_code=request.trust_remote_code)
    if dataset.model_type not in family.names:
        raise ConfigError(
            f"`{dataset.path}` was packed for `{dataset.model_type}`, and the model is trained for `{family.name}`",
            hint=pack_line(str(request.data), model=str(request.model), family=family.name),
        )
    try:
        dataset.check_tokenizer(tokenizer)
    except ConfigError as error:
        # Here both names are known.
        raise ConfigError(error.message, hint=pack_line(str(request.data), model=str(request.model))) from error
    return family


def family_name(request: TrainRequest, model_dir: Path, family: Family) -> str | None:
    """Give the family as the ranks load it; None where the model folder says it."""
    if request.family is not None and request.family.endswith(".toml"):
        return str(Path(request.family).absolute())
    return None if request.family is None and (model_dir / CARD_NAME).is_file() else family.name


def check_model(
    model_dir: Path,
    dataset: PackedDataset,
    data: str,
    *,
    needs_weights: bool = True,
    scaling: RopeScaling | None = None,
) -> None:
    """Check what would otherwise fail on the ranks, or worse, not fail."""
    if not (model_dir / "config.json").is_file() or (needs_weights and not weight_bytes(model_dir)):
        raise no_model(model_dir)
    if adapter_base(model_dir) is not None:
        raise ConfigError(
            f"`{model_dir}` holds adapters, not a whole model",
            hint=f"ochatctl merge {shlex.quote(str(model_dir))} --out DIR",
        )
    table = _config_table(model_dir)
    repack = pack_line(data, model=str(model_dir))
    vocab_size, positions = table.get("vocab_size"), table.get("max_position_embeddings")
    if isinstance(vocab_size, int) and dataset.largest_id >= vocab_size:
        raise ConfigError(
            f"`{dataset.path}` holds token {dataset.largest_id}, and the model has {vocab_size} embeddings: it was "
            "packed with another tokenizer",
            hint=repack,
        )
    longest = int(dataset.lengths.max(initial=0))
    if not isinstance(positions, int):
        return
    most = extended_context(scaling, positions)
    if longest > most:
        raise ConfigError(
            f"`{dataset.path}` has a row of {longest} tokens, and the model takes {most}",
            hint=f"{repack}, or `--rope-scaling linear:{math.ceil(longest / positions)}`",
        )


def choose_scaling(
    request: TrainRequest, model_dir: Path, dataset: PackedDataset, notes: list[str]
) -> RopeScaling | None:
    """Give how the model's context is extended, if it is, with its factor.

    Raises:
        ConfigError: the model says no context, or nothing needs extending.
    """
    if request.rope_scaling is None:
        return None
    positions = _config_table(model_dir).get("max_position_embeddings")
    if not isinstance(positions, int):
        raise ConfigError(f"`rope_scaling`: `{model_dir}` says no `max_position_embeddings`")
    longest = int(dataset.lengths.max(initial=0))
    scaling = chosen_scaling(read_rope_scaling(request.rope_scaling), longest=longest, positions=positions)
    notes.append(
        f"context {positions} -> {extended_context(scaling, positions)} tokens by `{scaling.text}`; "
        f"the longest row has {longest}"
    )
    return scaling


def check_adapters(request: TrainRequest, model_dir: Path, family: Family, notes: list[str]) -> None:
    """Say what adapters leave as it is, and refuse what goes with them or without them alone.

    Raises:
        ConfigError: two keys that contradict each other.
        MissingExtra: peft is not installed.
    """
    if request.lora is None:
        keys = {"train_embeddings": request.train_embeddings, "lora_save": request.lora_save != "adapter"}
        keys["quantize"] = request.quantize != "none"
        for key in (key for key, is_asked in keys.items() if is_asked):
            raise ConfigError(f"`{key}` is of use with `lora` alone", hint=request.command(lora="r=16,alpha=32"))
        return
    if request.quantize != "none" and request.lora_save == "merged":
        raise ConfigError(
            "`lora_save = merged` is not possible with `quantize`: the weights are held in 4 bits",
            hint="leave it out; `ochatctl merge` merges into the whole weights afterwards",
        )
    if not has("peft"):
        raise MissingExtra("`peft` is not installed", hint="pip install 'ochatctl[train]'")
    card = read_card(model_dir)
    if not request.train_embeddings and not (card and card.conditions):
        notes.append(
            f"only adapters are trained: if `add-eot` gave this base its `{family.template.eot}`, that token keeps the "
            f"mean it began with; `{request.command(train_embeddings=True)}` trains embeddings and output layer too"
        )


def check_quant_extra(request: TrainRequest, *, is_dry_run: bool) -> None:
    """Refuse what bitsandbytes does where it is not installed; a dry run may plan for another machine.

    Raises:
        MissingExtra: with the pip command.
    """
    for key, is_asked in (("quantize", request.quantize != "none"), ("optim.optimizer", _is_8bit(request))):
        if is_asked and not is_dry_run and not has("bitsandbytes"):
            raise MissingExtra(
                f"`{key}` needs `bitsandbytes`, which is not installed", hint="pip install 'ochatctl[quant]'"
            )


def _is_8bit(request: TrainRequest) -> bool:
    return request.optim.optimizer == "adamw8bit"


def _config_table(model_dir: Path) -> dict[str, Any]:
    table = read_json(model_dir / "config.json")
    return dict(table.get("text_config") or table)


def weight_bytes(model_dir: Path) -> int:
    """Give the size of the weights: safetensors where there are any, else what torch saved."""
    for pattern in _WEIGHT_PATTERNS:
        total = sum(path.stat().st_size for path in model_dir.glob(pattern))
        if total:
            return total
    return 0
