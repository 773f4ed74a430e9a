"""What a run needs and how long it takes, before it starts: memory of a GPU by part, disk by part, hours.

in: TrainConfig and the lengths of its rows, out: Estimate. No torch; nothing is measured, and each figure says so.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ochatctl.errors import DataError, EnvironmentProblem
from ochatctl.memory import (
    Need,
    Part,
    Shape,
    Weights,
    count_weights,
    disk_free_bytes,
    gpus,
    num_cpus,
    ram,
    read_shape,
    read_weights,
    size_text,
)
from ochatctl.memory.training import (
    ASSUMED_MFU,
    Spread,
    adapter_params,
    host_need,
    peak_tflops,
    state_parts,
    step_flops,
    training_need,
)
from ochatctl.train.config import DType, Recompute, TrainConfig
from ochatctl.train.disk import resume_bytes, saves_resume
from ochatctl.train.request import TrainRequest
from ochatctl.train.spec import read_lora

# From the fastest on.
RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
# What is chosen for the user leaves this much free: a driver keeps some 3% for itself, a screen more.
_CHOSEN_RATIO = 0.95
# Where no GPU is here to ask: what people train on.
_USUAL_GPUS = ("A100", "H100")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What a model's files say of its size; `is_counted` where its weights are not here and the config was asked."""

    weights: Weights
    shape: Shape
    is_counted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a rank trains on, and how much memory it has: None where nobody knows. `is_here` where it was asked."""

    name: str
    total_bytes: int | None
    is_here: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """How long the run takes on so many GPUs of one kind, at a utilisation that is assumed."""

    gpu: str
    peak_tflops: float
    assumed_mfu: float
    hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run needs. `flops` are of the model, without what is computed twice; `memory` is of one rank.

    `host` is the first node's main memory beside GPUs, and `host_total_bytes` what there is; None where nobody knows.
    """

    model: Model
    device: Device
    memory: Need
    host: Need | None
    host_total_bytes: int | None
    disk: tuple[Part, ...]
    disk_free_bytes: int
    flops: float
    hours: tuple[Hours, ...]

    @property
    def fits(self) -> bool | None:
        """Whether a rank's memory holds it all; None where nobody knows how much there is."""
        return None if self.device.total_bytes is None else self.memory.num_bytes <= self.device.total_bytes

    @property
    def disk_bytes(self) -> int:
        """All that the run writes and keeps, at its peak."""
        return sum(part.num_bytes for part in self.disk)


def read_model(model_dir: Path) -> Model | None:
    """Give a model's size; None for a config of another kind, of which nothing is known."""
    try:
        shape = read_shape(model_dir)
    except DataError:
        return None
    try:
        return Model(weights=read_weights(model_dir), shape=shape, is_counted=False)
    except DataError:
        return Model(weights=count_weights(shape), shape=shape, is_counted=True)


def find_device(*, on_cpu: bool, num_ranks: int, gpu_memory_gb: float | None) -> Device:
    """Give what a rank has: the smallest GPU here, a GPU of so many GB elsewhere, or its share of main memory."""
    if on_cpu:
        free = ram().available_bytes
        return Device(
            name=f"CPU ({num_cpus()} cores)", total_bytes=None if free is None else free // num_ranks, is_here=True
        )
    found = gpus()
    if gpu_memory_gb is not None:
        return Device(name=f"a GPU of {gpu_memory_gb:g} GB", total_bytes=int(gpu_memory_gb * 1e9), is_here=False)
    if not found:
        return Device(name="a GPU that is not here", total_bytes=None, is_here=False)
    least = min(found, key=lambda gpu: gpu.total_bytes)
    # One that shares the system's memory does not say how much it has.
    return Device(name=least.name, total_bytes=least.total_bytes or None, is_here=True)


def spread_of(
    request: TrainRequest,
    *,
    strategy: str,
    zero_stage: int,
    num_ranks: int,
    dtype: DType,
    model: Model | None = None,
) -> Spread:
    """Give how a request's model would be spread."""
    return Spread(
        strategy="fsdp" if strategy == "fsdp" else "deepspeed",
        zero_stage=zero_stage,
        # On CPU there is nowhere to move it.
        offload="none" if request.cpu else request.offload,
        num_ranks=num_ranks,
        is_half=dtype != "float32",
        # Automatic: as if all were, until the batch is known.
        recompute="full" if request.ac == "auto" else request.ac,
        on_cpu=request.cpu,
        trained_params=None
        if request.lora is None or model is None
        else adapter_params(model.shape, read_lora(request.lora).r, with_tables=request.train_embeddings),
        is_4bit=request.quantize != "none",
        is_8bit=request.optim.optimizer == "adamw8bit",
    )


def choose_recompute(
    request: TrainRequest, model: Model | None, spread: Spread, device: Device, num_tokens: int, notes: list[str]
) -> Spread:
    """Give the spread with what `ac = "auto"` stands for: the least computed twice that fits, by the estimate."""
    if request.ac != "auto":
        return spread
    chosen: Recompute
    if spread.on_cpu:
        chosen, why = "none", "memory is not what a CPU is short of"
    elif model is None or device.total_bytes is None:
        chosen, why = "full", "nobody knows here what fits"
    else:
        fitting = (each for each in RECOMPUTES if fits(model, replace(spread, recompute=each), device, num_tokens))
        chosen = next(fitting, "full")
        why = f"the least that {device.name} holds by the estimate" if chosen != "full" else "less may not fit"
    notes.append(f"activations computed twice: {chosen}, since {why}; `--ac` sets it")
    return replace(spread, recompute=chosen)


def fits(model: Model, spread: Spread, device: Device, num_tokens: int) -> bool:
    """Say whether so many tokens at once fit, with something to spare; also where nobody can know."""
    if device.total_bytes is None or spread.on_cpu:
        return True
    need = training_need(model.weights, model.shape, num_tokens=num_tokens, spread=spread)
    return need.num_bytes <= _CHOSEN_RATIO * device.total_bytes


def estimate(
    config: TrainConfig,
    *,
    model: Model,
    spread: Spread,
    device: Device,
    lengths: npt.NDArray[np.integer],
    saved_bytes: int,
) -> Estimate:
    """Give what a run needs; `lengths` are of all its rows, `saved_bytes` of one saved model."""
    all_lengths = lengths.astype(np.float64)
    flops = config.num_epochs * step_flops(
        model.weights,
        model.shape,
        num_tokens=float(all_lengths.sum()),
        num_squares=float((all_lengths**2).sum()),
        trained_params=spread.trained_params,
    )
    return Estimate(
        model=model,
        device=device,
        memory=training_need(model.weights, model.shape, num_tokens=config.batch_tokens, spread=spread),
        host=None
        if spread.on_cpu
        else host_need(model.weights, spread, ranks_per_node=config.num_ranks // config.num_nodes),
        host_total_bytes=ram().total_bytes if device.is_here and not spread.on_cpu else None,
        disk=_disk(config, trained_params(model, spread), saved_bytes),
        disk_free_bytes=disk_free_bytes(config.out_dir),
        flops=flops,
        hours=() if spread.on_cpu else tuple(_hours(flops, spread, device, config.num_ranks)),
    )


def check_memory(
    request: TrainRequest, known: Estimate, spread: Spread, *, num_tokens: int, longest: int, notes: list[str]
) -> None:
    """Say where a rank's memory may not hold the run, of `num_tokens` at once, which `longest` is the least of.

    Raises:
        EnvironmentProblem: weights, gradients and optimizer alone are more than there is.
    """
    host, host_total = known.host, known.host_total_bytes
    if host is not None and host_total is not None and host.num_bytes > host_total:
        largest = max(host.parts, key=lambda part: part.num_bytes)
        notes.append(
            f"main memory may run out: {host.num_bytes / 1e9:.1f} GB are estimated on the first node, which has "
            f"{host_total / 1e9:.1f}; the most of it is `{largest.name}`"
        )
    total = known.device.total_bytes
    if total is None or known.fits:
        return
    state = sum(part.num_bytes for part in state_parts(known.model.weights, spread))
    advice = _what_fits(request, known, spread, num_tokens, max(longest, num_tokens // 4))
    need = f"{known.memory.num_bytes / 1e9:.1f} GB a rank are estimated, and {known.device.name} has {total / 1e9:.1f}"
    if state > total and known.device.is_here and not spread.on_cpu:
        raise EnvironmentProblem(
            f"the model does not fit: {need}; weights, gradients and optimizer alone take {state / 1e9:.1f} GB",
            hint=advice or f"more GPUs, a smaller model, or `--preset {'lora' if request.lora is None else 'qlora'}`",
        )
    notes.append(f"memory may run out: {need}" + (f"; by the same estimate this fits: {advice}" if advice else ""))


def _what_fits(request: TrainRequest, known: Estimate, spread: Spread, num_tokens: int, fewer: int) -> str:
    """Give the first command, from the least costly change on, that would fit; nothing where none does."""
    total = known.device.total_bytes or 0
    recompute: dict[str, Any] = {} if request.ac == "full" else {"ac": "full"}
    less = {"batch_tokens": fewer, "batch_size_per_gpu": None} if fewer < num_tokens else {}
    theirs = {"strategy": "deepspeed"} if spread.strategy == "fsdp" else {}
    in_4_bits = {**recompute, "quantize": "nf4"}
    asks_deepspeed = request.strategy == "deepspeed" or request.zero is not None or request.offload != "none"
    changes: tuple[dict[str, Any], ...] = (
        recompute,
        {**recompute, **theirs, "zero": 3},
        {**recompute, **theirs, "offload": "optimizer"},
        {**recompute, **theirs, "zero": 3, "offload": "all"},
        {**recompute, **theirs, "zero": 3, "offload": "all", **less},
    )
    if spread.is_4bit:
        # DeepSpeed would cast what is held in 4 bits.
        changes = (recompute, {**recompute, **less})
    elif spread.trained_params is not None and request.lora_save != "merged" and not asks_deepspeed:
        # Frozen weights in 4 bits stay on the GPU, which costs less than moving them in and out at every step.
        changes = (*changes[:2], in_4_bits, {**in_4_bits, **less}, *changes[2:])
    host_total, ranks_per_node = known.host_total_bytes, spread.num_ranks // request.nodes
    for change in changes if not spread.on_cpu else ():
        other = replace(
            spread,
            recompute=change.get("ac", spread.recompute),
            strategy="fsdp" if "quantize" in change else change.get("strategy", spread.strategy),
            zero_stage=change.get("zero", spread.zero_stage),
            offload=change.get("offload", spread.offload),
            is_4bit=spread.is_4bit or "quantize" in change,
        )
        # Not out of one memory into another that is too small as well.
        host = host_need(known.model.weights, other, ranks_per_node=ranks_per_node).num_bytes
        if host_total is not None and other.offload != "none" and host > host_total:
            continue
        tokens = change.get("batch_tokens", num_tokens)
        need = training_need(known.model.weights, known.model.shape, num_tokens=tokens, spread=other)
        if change and need.num_bytes <= total:
            return request.command(**change)
    return ""


def trained_params(model: Model, spread: Spread) -> int:
    """Give how many parameters the optimizer has."""
    return model.weights.num_params if spread.trained_params is None else spread.trained_params


def _disk(config: TrainConfig, num_params: int, saved_bytes: int) -> tuple[Part, ...]:
    """Give a part a saved epoch, and one for resume checkpoints: the new one is whole before an old one goes."""
    saved = tuple(
        Part(
            name=f"ep_{epoch + 1}",
            num_bytes=saved_bytes,
            formula="adapters, in fp32" if config.saves_adapter else "the model, in the base's own precision",
        )
        for epoch in range(config.num_epochs)
        if config.saves_after(epoch)
    )
    if not saves_resume(config):
        return saved
    each, times = resume_bytes(config, num_params), config.keep + 1
    what = f"{size_text(each)} each, weights and optimizer: {config.keep} kept, and one while it is written"
    return (*saved, Part(name="resume checkpoints", num_bytes=times * each, formula=what))


def _hours(flops: float, spread: Spread, device: Device, num_ranks: int) -> list[Hours]:
    known = peak_tflops(device.name)
    names = (device.name,) if known else _USUAL_GPUS
    assumed = ASSUMED_MFU[spread.recompute]
    return [
        Hours(
            gpu=name,
            peak_tflops=peak,
            assumed_mfu=assumed,
            hours=flops / (num_ranks * peak * 1e12 * assumed) / 3600,
        )
        for name in names
        if (peak := peak_tflops(name)) is not None
    ]
