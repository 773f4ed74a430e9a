"""What `ochatctl train --dry-run` prints: steps, memory, disk, time and the lines that start it."""

import itertools
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ochatctl.train.estimate import Estimate
    from ochatctl.train.prepare import RunPlan


def describe_plan(plan: "RunPlan") -> str:
    """Give a run in one line."""
    c = plan.config
    return (
        f"{plan.num_steps} step{'s' if plan.num_steps > 1 else ''} in {c.num_epochs} "
        f"epoch{'s' if c.num_epochs > 1 else ''} of {plan.num_rows} conversations, "
        f"{plan.num_tokens_per_epoch} tokens; {c.num_ranks} x {c.batch_tokens} tokens a batch "
        f"({plan.efficiency_ratio:.1%} full), accumulation {c.accumulation_steps}; "
        f"{c.strategy}, {c.device}, {c.dtype}, lr {c.optim.lr:.3g}{_schedule(plan)}"
    )


def describe_start(plan: "RunPlan") -> str:
    """Give a run that starts now: its line, and what of a DeepSpeed JSON is done otherwise."""
    return "\n".join([describe_plan(plan), *_differences(plan)])


def _schedule(plan: "RunPlan") -> str:
    """Say how the learning rate runs over the steps."""
    from ochatctl.train.schedule import warmup_steps

    optim = plan.config.optim
    warmup = warmup_steps(plan.num_steps, optim.warmup_ratio)
    rises = f" after {warmup} step{'s' if warmup > 1 else ''} of warm-up" if warmup else ""
    return f"{rises}, by a cosine to {optim.lr * optim.min_lr_ratio:.3g} at step {plan.num_steps}"


def describe_dry_run(plan: "RunPlan") -> str:
    """Give all that is known of a run before it starts."""
    return "\n".join([describe_plan(plan), *_epochs(plan), *_estimate(plan), *_asked(plan), *_lines(plan)])


def _epochs(plan: "RunPlan") -> Iterator[str]:
    """Give a line an epoch, or one for several alike."""
    left = [epoch for epoch in plan.epochs if epoch.num_steps]
    for _, alike in itertools.groupby(left, key=lambda epoch: (epoch.num_steps, epoch.num_tokens)):
        group = list(alike)
        first, last = group[0], group[-1]
        name = f"epoch {first.epoch}" if first is last else f"epochs {first.epoch} to {last.epoch}, each"
        steps = f"{first.num_steps} step{'s' if first.num_steps > 1 else ''}"
        yield f"  {name}: {steps}, {first.num_tokens} tokens, {first.efficiency_ratio:.1%} full"


def _estimate(plan: "RunPlan") -> Iterator[str]:
    known = plan.estimate
    if known is None:
        yield "Memory: not estimated; the sizes in the model's `config.json` cannot be read"
        return
    counted = "counted from its config" if known.model.is_counted else "counted in its files"
    yield f"Model: {known.model.weights.num_params:,} parameters, {counted}"
    yield _memory_line(known)
    for part in known.memory.parts:
        yield f"  {_gb(part.num_bytes)}  {part.name}: {part.formula}"
    if known.host is not None:
        total = "" if known.host_total_bytes is None else f" of {_gb(known.host_total_bytes).strip()}"
        ranks = plan.config.num_ranks // plan.config.num_nodes
        yield (
            f"Main memory, estimated: {_gb(known.host.num_bytes).strip()}{total} on the first node, "
            f"{_gb(known.host.num_bytes // ranks).strip()} a rank on average"
        )
        for part in known.host.parts:
            yield f"  {_gb(part.num_bytes)}  {part.name}: {part.formula}"
    there = "" if known.device.is_here else " here"
    yield f"Disk: {_gb(known.disk_bytes).strip()}, of {_gb(known.disk_free_bytes).strip()} that are free{there}"
    for _, alike in itertools.groupby(known.disk, key=lambda part: (part.num_bytes, part.formula)):
        parts = list(alike)
        name = parts[0].name + (f" to {parts[-1].name}, each" if len(parts) > 1 else "")
        yield f"  {_gb(parts[0].num_bytes)}  {name}: {parts[0].formula}"
    each = "6 x parameters" if plan.config.lora is None else "4 x parameters and 2 x trained ones, each"
    whole = ", of the whole run" if plan.first_step > 1 else ""
    yield f"Work{whole}: {known.flops:.3g} FLOPs ({each} x tokens, and attention)"
    for hours in known.hours:
        yield (
            f"  about {_hours(hours.hours)} on {plan.config.num_ranks} x {hours.gpu}, an estimate: "
            f"{hours.assumed_mfu:.0%} of {hours.peak_tflops:g} TFLOP/s is assumed"
        )


def _memory_line(known: "Estimate") -> str:
    line = f"Memory of a rank, estimated: {_gb(known.memory.num_bytes).strip()}"
    total = known.device.total_bytes
    if total is None:
        return f"{line}; how much there is nobody can tell here (`--gpu-memory GB`)"
    return f"{line} of {_gb(total).strip()}, {known.device.name}{'' if known.fits else ': TOO MUCH'}"


def _asked(plan: "RunPlan") -> Iterator[str]:
    if plan.sources:
        yield "Asked for, and where; all else is a default or chosen above:"
    for item in plan.sources:
        yield f"  {item.key} = {item.value}  ({item.source})"
    yield from _differences(plan)


def _differences(plan: "RunPlan") -> Iterator[str]:
    if plan.differences:
        yield "The DeepSpeed JSON, where it is not taken as it stands:"
    for difference in plan.differences:
        yield f"  {difference}"


def _lines(plan: "RunPlan") -> Iterator[str]:
    yield "Launch:"
    yield f"  {shlex.join(plan.launcher)}"
    if plan.node_lines:
        yield "On each node:"
        yield from (f"  {line}" for line in plan.node_lines)
    if plan.slurm_script:
        yield "For SLURM, `sbatch FILE`:"
        yield from (f"  {line}" for line in plan.slurm_script.splitlines())


def _gb(num_bytes: int) -> str:
    if num_bytes == 0:
        return f"{'none':>10}"
    return f"{num_bytes / 1e9:7.1f} GB" if num_bytes >= 5e7 else f"{num_bytes / 1e6:7.2f} MB"


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes" if hours >= 1 / 60 else "a minute"
