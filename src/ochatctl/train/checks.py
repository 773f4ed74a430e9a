"""What can be checked of a model, a data set and an output folder before a run starts."""

from pathlib import Path

from ochatctl.chat.families import CARD_NAME, Family, load_family
from ochatctl.data.dataset import PackedDataset
from ochatctl.errors import ConfigError, UsageProblem
from ochatctl.files import read_json
from ochatctl.train.config import RUN_FILE
from ochatctl.train.request import TrainRequest

_WEIGHT_PATTERNS = ("*.safetensors", "*.bin")


def check_out(request: TrainRequest, out: Path) -> None:
    """Refuse an output folder that is no run of ours; what a run of ours holds is `choose_resume`'s matter."""
    if out.exists() and not out.is_dir():
        raise UsageProblem(f"`{out}` is a file", hint=request.command(out=Path("DIR")))
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    is_run = RUN_FILE in names or any(name.startswith("ep_") for name in names)
    if names and not is_run and not request.yes:
        raise UsageProblem(f"`{out}` exists and is not a run of ours", hint=request.command(yes=True))


def check_family(request: TrainRequest, model_dir: Path, dataset: PackedDataset) -> Family:
    """Load the tokenizer, so that a base without its end-of-turn token fails here; give the family."""
    name = request.family
    if name is None and not (model_dir / CARD_NAME).is_file():
        name = dataset.model_type  # a base that says nothing is trained for what the data was packed for
    family, tokenizer = load_family(model_dir, name, trust_remote_code=request.trust_remote_code)
    if dataset.model_type not in family.names:
        raise ConfigError(
            f"`{dataset.path}` was packed for `{dataset.model_type}`, and the model is trained for `{family.name}`",
            hint=f"ochatctl data pack CHATS.jsonl --model {request.model} --family {family.name} --out {request.data}",
        )
    dataset.check_tokenizer(tokenizer)
    return family


def family_name(request: TrainRequest, model_dir: Path, family: Family) -> str | None:
    """Give the family as the ranks load it; None where the model folder says it."""
    if request.family is not None and request.family.endswith(".toml"):
        return str(Path(request.family).absolute())
    return None if request.family is None and (model_dir / CARD_NAME).is_file() else family.name


def check_model(model_dir: Path, dataset: PackedDataset, data: str, *, needs_weights: bool = True) -> None:
    """Check what would otherwise fail on the ranks, or worse, not fail."""
    if not (model_dir / "config.json").is_file() or (needs_weights and not weight_bytes(model_dir)):
        raise ConfigError(f"`{model_dir}` holds no model", hint="a model folder has `config.json` and `*.safetensors`")
    table = read_json(model_dir / "config.json")
    table = table.get("text_config") or table
    repack = f"ochatctl data pack CHATS.jsonl --model {model_dir} --out {data}"
    vocab_size, positions = table.get("vocab_size"), table.get("max_position_embeddings")
    if isinstance(vocab_size, int) and dataset.largest_id >= vocab_size:
        raise ConfigError(
            f"`{dataset.path}` holds token {dataset.largest_id}, and the model has {vocab_size} embeddings: it was "
            "packed with another tokenizer",
            hint=repack,
        )
    longest = int(dataset.lengths.max(initial=0))
    if isinstance(positions, int) and longest > positions:
        raise ConfigError(
            f"`{dataset.path}` has a row of {longest} tokens, and the model takes {positions}", hint=repack
        )


def weight_bytes(model_dir: Path) -> int:
    """Give the size of the weights: safetensors where there are any, else what torch saved."""
    for pattern in _WEIGHT_PATTERNS:
        total = sum(path.stat().st_size for path in model_dir.glob(pattern))
        if total:
            return total
    return 0
