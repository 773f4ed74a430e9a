"""The training loop, as each rank runs it: `python -m ochatctl.train.loop run.json`.

in: run.json (a TrainConfig), out: `ep_N/` and `resume/step_N/` folders, `metrics.jsonl`, and records on standard output
for the parent.
"""

import math
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ochatctl.chat.families import load_family
from ochatctl.config import read_run
from ochatctl.data.conditions import RowConditions
from ochatctl.data.dataset import PackedDataset, open_dataset
from ochatctl.data.packing import pack
from ochatctl.errors import OchatError
from ochatctl.train import attention
from ochatctl.train.checkpoint import Exporter
from ochatctl.train.config import TrainConfig
from ochatctl.train.course import attention_cost, plan_run
from ochatctl.train.disk import saves_resume
from ochatctl.train.evaluation import Evaluation
from ochatctl.train.faults import BadSteps, memory_hints
from ochatctl.train.gauge import Gauge
from ochatctl.train.loader import RowClasses, made_ahead, micro_batches
from ochatctl.train.loss import batch_loss
from ochatctl.train.model import load_among
from ochatctl.train.nodes import agree
from ochatctl.train.packed_model import output_layer
from ochatctl.train.parent import StopSwitch, tell_parent
from ochatctl.train.ranks import Ranks, join_ranks
from ochatctl.train.records import Failed, Joined, Resumed, Started, Stepped, Stopped, Stopping
from ochatctl.train.reporter import Reporter
from ochatctl.train.resume import open_checkpoint, step_dir
from ochatctl.train.saver import Saver
from ochatctl.train.schedule import lr_at
from ochatctl.train.selfcheck import check_packing
from ochatctl.train.step import train_step
from ochatctl.train.strategies.base import Strategy, make_strategy
from ochatctl.train.tallies import figures_of


def run(config: TrainConfig, stop: StopSwitch) -> None:
    """Train as the config says, on this rank.

    Raises:
        RunError: the loss or the gradient is not finite several times in a row, memory has run out, or the trained
            model could not be saved.
    """
    ranks = join_ranks(config)
    config = agree(config, ranks)
    family, tokenizer = load_family(config.model_dir, config.family, trust_remote_code=config.trust_remote_code)
    dataset = open_dataset(config.data_path)
    point = open_checkpoint(config.resume_from, check_parts=False) if config.resume_from else None
    squared_cost = attention_cost(config.model_dir)
    course = plan_run(config, dataset.lengths, after=point.manifest.progress if point else None)

    torch.manual_seed(config.seed)
    model = load_among(config, ranks)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    strategy = make_strategy(model, config, ranks)
    ranks.seed(config.seed)
    report = Reporter(config, ranks, after_step=course.first_step - 1)
    saver = Saver(config, strategy, ranks, num_steps=course.num_steps, tell=report.send, last=point)
    export = Exporter(config, strategy, ranks, model, family, tokenizer, dataset.conditions, tell=report.send)
    bad_steps = BadSteps(config, ranks)
    classes = RowClasses(RowConditions(family, tokenizer, dataset.conditions))
    evaluation = Evaluation(config, strategy, ranks, classes, num_steps=course.num_steps, tell=report.write)
    gauge = Gauge(
        config.model_dir,
        dataset.lengths,
        ranks,
        num_steps=course.num_steps,
        trained_params=None if config.lora is None else num_trained,
    )
    report.send(
        Started(
            strategy=strategy.name,
            num_parameters=num_parameters,
            num_steps=course.num_steps,
            ways=ways_of(model, config, ranks),
        )
    )
    seconds_before = 0.0
    if point:
        reading_began = time.perf_counter()
        saver.load(point)
        seconds_before = point.manifest.seconds
        seconds = time.perf_counter() - reading_began
        report.send(Resumed(step=course.first_step - 1, path=str(point.path), seconds=seconds))
        evaluation.make_up_for(point.manifest.progress, course, is_done=report.has_evaluated(course.first_step - 1))
        export.make_up_for(point.manifest.progress, course)
    if config.selfcheck:
        check_packing(strategy.model, ranks.device)
    if ranks.device.type == "cuda":
        probe_memory(strategy, dataset, course.costliest(dataset.lengths, squared_cost), config, ranks)

    began = time.perf_counter() - seconds_before
    is_compat = config.compat is not None
    all_bins = (planned.bins for planned in course.steps())
    with made_ahead(micro_batches(dataset, all_bins, ranks, classes, compat=is_compat), ranks) as batches:
        for planned in course.steps():
            step_began = time.perf_counter()
            lr = lr_at(
                planned.step,
                num_steps=course.num_steps,
                peak=config.optim.lr,
                warmup_ratio=config.optim.warmup_ratio,
                min_lr_ratio=config.optim.min_lr_ratio,
            )
            with memory_hints(config, f"at step {planned.step}"):
                step = train_step(strategy, batches, ranks, lr, (stop.is_on, saver.is_due), compat=is_compat)
            wants_stop, wants_save = step.wished
            now = time.perf_counter()
            skipped = bad_steps.see(
                planned, loss=step.loss, grad_norm=step.grad_norm, is_overflow=strategy.has_overflowed
            )
            if skipped:
                report.send(skipped)
            else:
                speed = gauge.see(planned, step_seconds=now - step_began)
                figures = figures_of(step.tally_C5, classes.names)
                report.write(
                    Stepped(
                        step=planned.step,
                        num_steps=course.num_steps,
                        epoch=planned.epoch + 1,
                        num_epochs=config.num_epochs,
                        loss=step.loss,
                        lr=lr,
                        grad_norm=step.grad_norm,
                        tokens=speed.tokens,
                        tokens_per_second=speed.tokens_per_second,
                        seconds=now - began,
                        accuracy=figures.accuracy,
                        class_losses=figures.class_losses,
                        mfu=speed.mfu,
                        memory_bytes=step.memory_bytes,
                        eta_seconds=speed.eta_seconds,
                        step_seconds=now - step_began,
                        stall_seconds=step.stall_seconds,
                    )
                )
            is_stopping = wants_stop and planned.step < course.num_steps
            if is_stopping:
                report.send(Stopping(step=planned.step))
            else:
                evaluation.after(planned)
            if planned.ends_epoch and config.saves_after(planned.epoch):
                export.save(planned.epoch, planned.step)
            # After a step that was skipped the weights may be spoilt, and the last checkpoint is not.
            is_spoilt = skipped is not None and not skipped.is_overflow
            if is_stopping or (not is_spoilt and (wants_save or saver.is_planned(planned))):
                saver.save(planned.progress, seconds=time.perf_counter() - began)
            if is_stopping:
                path = step_dir(config.out_dir, planned.step) if saver.last_saved() == planned.step else ""
                report.send(Stopped(step=planned.step, path=str(path)))
                break
    saver.wait()
    report.close()
    dist.barrier()
    dist.destroy_process_group()
    export.refuse_unsaved_end()


def ways_of(model: torch.nn.Module, config: TrainConfig, ranks: Ranks) -> tuple[str, ...]:
    """Say how attention, loss and saving go, and why."""
    ways = [attention.way_of(model, ranks.device, getattr(torch, config.dtype)).why]
    if because := output_layer(model).plain_because:
        ways.append(f"loss from whole logits, which takes more memory: {because}")
    if config.strategy == "deepspeed" and saves_resume(config):
        ways.append("resume checkpoints are written while training waits, which FSDP2 does beside it")
    return tuple(ways)


def probe_memory(
    strategy: Strategy, dataset: PackedDataset, rows: tuple[int, ...], config: TrainConfig, ranks: Ranks
) -> None:
    """Take the costliest bin forward and backward before the first step, so that memory runs out now or never.

    Guarantees: training goes on as if nothing had happened.

    Raises:
        RunError: it does; says what to lower.
    """
    if not rows:
        return
    random_state = ranks.random_state()
    batch = pack([dataset.row(row) for row in rows], step_loss_weight=1.0)
    doing = f"on the largest batch, {len(batch.input_ids_T)} tokens"
    with memory_hints(config, doing), strategy.rehearsal():
        for number in range(config.accumulation_steps):
            loss = batch_loss(strategy.model, batch, ranks.device)
            # A gradient that is not a number is one that every strategy forgets without a step.
            strategy.backward(loss * math.nan, is_last=number + 1 == config.accumulation_steps)
        strategy.step(0.0)
    ranks.set_random_state(random_state)


def main(arguments: list[str]) -> int:
    """Run a rank; an error of ours goes to the parent as a record."""
    stop = StopSwitch()
    stop.listen()
    rank = int(os.environ.get("RANK", "0"))
    tell_parent(Joined(rank=rank, pid=os.getpid()))
    try:
        run(read_run(TrainConfig, Path(arguments[0])), stop)
    except OchatError as error:
        tell_parent(Failed(rank=rank, kind=type(error).__name__, message=error.message, hint=error.hint))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
