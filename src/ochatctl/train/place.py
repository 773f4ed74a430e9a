"""Where a run takes place, and how its model is spread over ranks.

No torch where the run is on CPU.
"""

import os
import platform
import shutil
from collections.abc import Sequence

from ochatctl.errors import ConfigError, EnvironmentProblem, MissingExtra
from ochatctl.extras import has
from ochatctl.memory import Gpu
from ochatctl.train.config import DType, StrategyName
from ochatctl.train.request import TrainRequest

_BFLOAT16_CAPABILITY = 8.0
_DEEPSPEED_CPU_NOTES = ("DeepSpeed compiles its collectives at the first run on CPU, which takes about a minute",)


def place(request: TrainRequest, notes: list[str], *, is_dry_run: bool = False) -> tuple[str, int]:
    """Give the device and this node's ranks; a dry run may plan for GPUs that are not here."""
    if request.cpu:
        return "cpu", request.gpus or 1
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
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
        notes.append(f"training on all {found} GPUs that are visible")
    return "cuda", wanted


def choose_precision(device: str, gpus: Sequence[Gpu], notes: list[str]) -> DType:
    """Give the precision that is computed in: bfloat16 on GPUs that have it, so since compute capability 8.0."""
    if device == "cpu":
        return "float32"
    old = [gpu for gpu in gpus if gpu.compute_capability and float(gpu.compute_capability) < _BFLOAT16_CAPABILITY]
    if not old:
        return "bfloat16"
    notes.append(f"float32, and attention row by row: {old[0].name} is older than bfloat16 and the packed kernel")
    return "float32"


def choose_strategy(request: TrainRequest, notes: list[str], *, is_dry_run: bool = False) -> StrategyName:
    """Give the strategy that is asked for, or DeepSpeed where it can run; a dry run may plan for another machine."""
    keys = ("zero", "offload", "deepspeed")
    theirs = [key for key in keys if getattr(request, key) not in (None, "none", {})]
    if request.quantize != "none" and (request.strategy == "deepspeed" or theirs):
        raise ConfigError(
            "`quantize` goes with FSDP2: DeepSpeed would cast the 4-bit weights", hint=request.command(strategy="fsdp")
        )
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
