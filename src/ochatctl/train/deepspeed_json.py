"""A DeepSpeed JSON -> our keys, what goes through to DeepSpeed as it is, and what is done otherwise, with the reason.

in: the file, out: DeepSpeedFile. No DeepSpeed is imported.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ochatctl.config import did_you_mean
from ochatctl.errors import ConfigError
from ochatctl.presets import merge, read_set

# "auto" is what transformers' Trainer would fill in; here it leaves the value to us.
_AUTO = "auto"
# These change neither the gradient nor what is saved.
_PASSED = {
    "aio", "comms_logger", "communication_data_type", "data_types", "dump_state", "flops_profiler",
    "memory_breakdown", "wall_clock_breakdown",
}  # fmt: skip
_OWN_KEYS = {
    "stage", "offload_optimizer", "offload_param", "cpu_offload", "stage3_gather_16bit_weights_on_model_save",
    "stage3_gather_fp16_weights_on_model_save",
}  # fmt: skip
_PACKED = "rows are packed: `batch.tokens` is what a rank takes at once"
# Key -> ours, why.
_OTHERWISE = {
    "train_micro_batch_size_per_gpu": ("batch.tokens", _PACKED),
    "train_batch_size": ("batch.step_tokens", _PACKED),
    "steps_per_print": ("off", "the progress line is ours"),
    "activation_checkpointing": ("ac", "activations are recomputed layer by layer, by transformers"),
    "tensorboard": ("off", "the log is ours"),
    "wandb": ("off", "the log is ours"),
    "csv_monitor": ("off", "the log is ours"),
    "zero_force_ds_cpu_optimizer": ("false", "torch's fused AdamW runs on CPU, where nothing must be compiled"),
    "zero_allow_untested_optimizer": ("true", "the optimizer is torch's fused AdamW"),
}
_OPTIMIZER_KEYS = {
    "lr": "optim.lr", "betas": "optim.betas", "eps": "optim.eps", "weight_decay": "optim.weight_decay",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A value of the file that is not taken as it stands."""

    key: str
    theirs: str
    ours: str
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {self.theirs} -> {self.ours}, {self.why}"


@dataclass(slots=True)
class DeepSpeedFile:
    """What a DeepSpeed JSON says: `table` in our keys, its `deepspeed` going through as it is."""

    path: str
    table: dict[str, Any] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def put(self, key: str, value: Any) -> None:
        """Set one of our keys."""
        _, table = read_set(f"{key}=0")
        self.table = merge([self.table, _filled(table, value)])

    def differ(self, key: str, theirs: Any, ours: str, why: str) -> None:
        """Note what is done otherwise."""
        self.differences.append(Difference(key=key, theirs=json.dumps(theirs), ours=ours, why=why))

    def refuse(self, key: str, value: Any, why: str, *, hint: str = "") -> ConfigError:
        """Give the error for a value that cannot be done."""
        return ConfigError(f"{self.path}: `{key}` is `{json.dumps(value)}`: {why}", hint=hint)


def read_deepspeed(path: Path) -> DeepSpeedFile:
    """Read a DeepSpeed JSON.

    Raises:
        ConfigError: missing, malformed, contradicting itself, or asking for what would change the gradient.
    """
    out = DeepSpeedFile(path=str(path))
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file",
            hint="leave `--deepspeed-config` out: ZeRO-2, bfloat16 and clipping at 1.0 are the default",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: not a JSON object")
    out.put("strategy", "deepspeed")
    for key, value in table.items():
        if value == _AUTO:
            continue
        _READERS.get(key, _read_other)(out, key, value)
    _check_precision(out, table)
    return out


def check_passed(passed: Mapping[str, Any]) -> None:
    """Refuse a `[deepspeed]` table with a key that is ours.

    Raises:
        ConfigError: names the key.
    """
    known = {*_PASSED, "zero_optimization"}
    for key, value in passed.items():
        if key not in known:
            raise ConfigError(f"`deepspeed.{key}` does not go through to DeepSpeed{did_you_mean(key, known)}")
        for inner in _OWN_KEYS & set(value) if key == "zero_optimization" else ():
            raise ConfigError(
                f"`deepspeed.{key}.{inner}` is ours to set", hint="`zero` is the stage, `offload` what is moved out"
            )


def _filled(table: dict[str, Any], value: Any) -> dict[str, Any]:
    return {key: _filled(inner, value) if isinstance(inner, dict) else value for key, inner in table.items()}


def _read_zero(out: DeepSpeedFile, key: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise out.refuse(key, value, "not an object")
    value = {name: item for name, item in value.items() if item != _AUTO}
    stage = value.get("stage", 0)
    out.put("zero", stage)
    optimizer = _is_moved(out, "offload_optimizer", value) or value.get("cpu_offload") is True
    weights = _is_moved(out, "offload_param", value)
    if weights and not (optimizer and stage == 3):
        raise out.refuse(
            "offload_param", value["offload_param"], "weights move out only at stage 3 and with the optimizer"
        )
    out.put("offload", "all" if weights else "optimizer" if optimizer else "none")
    for name in ("stage3_gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save"):
        if value.get(name) is False:
            out.differ(f"{key}.{name}", False, "true", "a saved model needs all weights")
    for name in set(value) - _OWN_KEYS:
        out.put(f"deepspeed.{key}.{name}", value[name])


def _is_moved(out: DeepSpeedFile, name: str, table: Mapping[str, Any]) -> bool:
    value = table.get(name) or {}
    device = value.get("device", "none") if isinstance(value, dict) else value
    if device in ("none", None):
        return False
    if device != "cpu":
        raise out.refuse(f"zero_optimization.{name}.device", device, "only main memory, `cpu`, is supported")
    rest = {key: item for key, item in value.items() if key not in ("device", "pin_memory") and item != _AUTO}
    for key, item in rest.items():
        out.differ(f"zero_optimization.{name}.{key}", item, "DeepSpeed's default", "`offload` sets the device alone")
    return True


def _read_clipping(out: DeepSpeedFile, key: str, value: Any) -> None:
    if not value:
        raise out.refuse(key, value, "every run clips", hint="--set optim.max_grad_norm=1e9, and the key left out")
    out.put("optim.max_grad_norm", value)


def _read_accumulation(out: DeepSpeedFile, key: str, value: Any) -> None:
    out.put("batch.accumulation", value)


def _read_optimizer(out: DeepSpeedFile, key: str, value: Any) -> None:
    table = value if isinstance(value, dict) else {"type": value}
    if table.get("type") not in ("Adam", "AdamW"):
        raise out.refuse(f"{key}.type", table.get("type"), "only `AdamW` is supported")
    given = table.get("params") or {}
    if not isinstance(given, dict):
        raise out.refuse(f"{key}.params", given, "not an object")
    params = {name: item for name, item in given.items() if item != _AUTO}
    if params.pop("adam_w_mode", True) is False:
        raise out.refuse(f"{key}.params.adam_w_mode", False, "weight decay is AdamW's")
    params.pop("torch_adam", None)
    for name, item in params.items():
        if name in _OPTIMIZER_KEYS:
            out.put(_OPTIMIZER_KEYS[name], item)
        elif name == "bias_correction" and item is not True:
            raise out.refuse(f"{key}.params.{name}", item, "AdamW corrects its moments")
        elif name != "bias_correction":
            out.differ(f"{key}.params.{name}", item, "torch's fused AdamW", "the optimizer is torch's")


def _read_scheduler(out: DeepSpeedFile, key: str, value: Any) -> None:
    out.differ(
        key,
        value.get("type") if isinstance(value, dict) else value,
        "cosine after a warm-up",
        "the schedule is ours: `optim.lr`, `optim.warmup_ratio`, `optim.min_lr_ratio`",
    )


def _read_precision(out: DeepSpeedFile, key: str, value: Any) -> None:
    """Leave it to `_check_precision`, which sees both."""


def _check_precision(out: DeepSpeedFile, table: Mapping[str, Any]) -> None:
    def enabled(name: str) -> Any:
        value = table.get(name, {})
        return value.get("enabled", False) if isinstance(value, dict) else value

    bf16, fp16 = (enabled("bf16") or enabled("bfloat16")), enabled("fp16")
    if bf16 is True and fp16 is True:
        raise ConfigError(f"{out.path}: `bf16` and `fp16` are both enabled")
    if bf16 is True or _AUTO in (bf16, fp16):
        return
    key, theirs = ("fp16.enabled", True) if fp16 is True else ("bf16.enabled", False)
    out.differ(key, theirs, "the device's choice", "bfloat16 where a GPU has it; `precision` sets another")


def _read_other(out: DeepSpeedFile, key: str, value: Any) -> None:
    if key in _OTHERWISE:
        ours, why = _OTHERWISE[key]
        if json.dumps(value) != ours:
            out.differ(key, value, ours, why)
    elif key in _PASSED:
        if value is not False:
            out.put(f"deepspeed.{key}", value)
    else:
        known = {*_PASSED, *_OTHERWISE, *_READERS}
        raise ConfigError(
            f"{out.path}: unknown key `{key}`, or one that changes the gradient{did_you_mean(key, known)}"
        )


_READERS = {
    "zero_optimization": _read_zero,
    "gradient_clipping": _read_clipping,
    "gradient_accumulation_steps": _read_accumulation,
    "optimizer": _read_optimizer,
    "scheduler": _read_scheduler,
    "bf16": _read_precision,
    "bfloat16": _read_precision,
    "fp16": _read_precision,
}
