"""Where a run takes place, and how its model is spread over ranks.

No torch where the run is on CPU.
"""

import os
import platform
import shutil
from collections.abc import Sequence
from typing import Literal

from ochatctl.errors import ConfigError, EnvironmentProblem, MissingExtra
from ochatctl.extras import has
from ochatctl.memory import Gpu
from ochatctl.train.config import Device, DType, StrategyName
from ochatctl.train.request import TrainRequest

_BFLOAT16_CAPABILITY = 8.0
_DEEPSPEED_CPU_NOTES = ("DeepSpeed compiles its collectives at the first run on CPU, which takes about a minute",)


def place(request: TrainRequest, notes: list[str], *, is_dry_run: bool = False) -> tuple[Device, int]:
    """Give the device and this node's ranks: CUDA's before Apple's; a dry run may plan for GPUs that are not here.

    A CPU is taken where it is asked for.
    """
    if request.cpu:
        return "cpu", request.gpus or 1
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found and torch.backends.mps.is_available() and not (is_dry_run and (request.gpus or 1) > 1):
        if (request.gpus or 1) * request.nodes > 1:
            raise EnvironmentProblem("Apple's GPU trains alone", hint=request.command(gpus=1, nodes=1))
        notes.append("training on Apple's GPU (MPS)")
        return "mps", 1
    if is_dry_run and (request.gpus or 0 if found else 1) > found:
        wanted = request.gpus or 1
        notes.append(f"planning for {wanted} GPU{'s' if wanted > 1 else ''}; {found or 'none'} of them are here")
        return "cuda", wanted
    if not found:
        raise EnvironmentProblem("no CUDA GPU is found here", hint=request.command(cpu=True))
    wanted = request.gpus or found
    if wanted > found:
        raise EnvironmentProblem(f"{wanted} GPUs are asked for, and {found} found", hint=request.command(gpus=found))
    if request.gpus is None:
        notes.append(
            f"training on all {found} GPUs that are visible" if found > 1 else "training on the one GPU that is visible"
        )
    return "cuda", wanted


def choose_precision(
    device: str, gpus: Sequence[Gpu], notes: list[str], *, asked: Literal["auto", "bfloat16", "float16", "float32"]
) -> DType:
    """Give the precision that is computed in: bfloat16 on GPUs that have it, so since compute capability 8.0.

    Raises:
        ConfigError: another is asked for than the device has.
    """
    if device == "mps":
        if asked not in ("auto", "float32"):
            raise ConfigError(f"`precision` is `{asked}`, and Apple's GPU is trained on in `float32`")
        notes.append("float32, and attention row by row, on Apple's GPU")
        return "float32"
    if device == "cpu":
        return "float32" if asked == "auto" else asked
    old = [gpu for gpu in gpus if gpu.compute_capability and float(gpu.compute_capability) < _BFLOAT16_CAPABILITY]
    if not old:
        return "bfloat16" if asked == "auto" else asked
    if asked == "bfloat16":
        raise ConfigError(
            f"`precision` is `bfloat16`, and {old[0].name} is older than that", hint="leave it out: `float16` is taken"
        )
    chosen: DType = "float16" if asked == "auto" else asked
    scaled = ", the loss scaled," if chosen == "float16" else ""
    notes.append(
        f"{chosen}{scaled} and attention row by row: {old[0].name} is older than bfloat16 and the packed kernel"
    )
    return chosen


def choose_strategy(
    request: TrainRequest, notes: list[str], *, device: Device = "cuda", is_dry_run: bool = False
) -> StrategyName:
    """Give the strategy that is asked for, or DeepSpeed where it can run; a dry run may plan for another machine."""
    keys = ("zero", "offload", "deepspeed")
    theirs = [key for key in keys if getattr(request, key) not in (None, "none", {})]
    if request.quantize != "none" and (request.strategy == "deepspeed" or theirs):
        raise ConfigError(
            "`quantize` goes with FSDP2: DeepSpeed would cast the 4-bit weights", hint=request.command(strategy="fsdp")
        )
    if device == "mps":
        if request.strategy == "deepspeed" or theirs:
            raise ConfigError("DeepSpeed does not run on Apple's GPU", hint=request.command(strategy="fsdp", zero=None))
        return "fsdp"
    if request.strategy == "auto" and request.quantize != "none":
        notes.append("strategy FSDP2: it leaves weights in 4 bits as they are")
        return "fsdp"
    if request.strategy == "fsdp":
        if theirs:
            raise ConfigError(
                f"`--{theirs[0]}` is DeepSpeed's, and the strategy is `fsdp`", hint="leave one of them out"
            )
        return "fsdp"
    lack = _deepspeed_lacks(cpu=request.cpu)
    if request.strategy == "deepspeed" or theirs:
        if lack and is_dry_run:
            notes.append(f"planning for DeepSpeed; here it cannot run: {lack}")
            return "deepspeed"
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
