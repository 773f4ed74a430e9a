"""The training loop, as each rank runs it: `python -m ochatctl.train.loop run.json`.

in: run.json (a TrainConfig), out: `ep_N/` and `resume/step_N/` folders, `metrics.jsonl`, and records on standard output
for the parent.
"""

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from ochatctl.chat.families import load_family
from ochatctl.config import read_run
from ochatctl.data.dataset import PackedDataset, open_dataset
from ochatctl.data.packing import COST_PER_SQUARED_TOKEN, PackedBatch, pack
from ochatctl.errors import OchatError
from ochatctl.train.checkpoint import Exporter
from ochatctl.train.config import TrainConfig
from ochatctl.train.course import Bins, plan_course
from ochatctl.train.faults import BadSteps, memory_hints
from ochatctl.train.loss import backward_scale, batch_loss, measured_loss
from ochatctl.train.model import load_model
from ochatctl.train.nodes import agree
from ochatctl.train.parent import StopSwitch, tell_parent
from ochatctl.train.ranks import Ranks, join_ranks
from ochatctl.train.records import Failed, Joined, Resumed, Started, Stepped, Stopped, Stopping
from ochatctl.train.reporter import Reporter
from ochatctl.train.resume import open_checkpoint, step_dir
from ochatctl.train.saver import Saver
from ochatctl.train.schedule import lr_at
from ochatctl.train.selfcheck import check_packing
from ochatctl.train.strategies.base import Strategy, make_strategy


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
    course = plan_course(
        dataset.lengths,
        num_epochs=config.num_epochs,
        bins_per_step=config.bins_per_step,
        bin_tokens=config.batch_tokens,
        seed=config.seed,
        after=point.manifest.progress if point else None,
    )

    torch.manual_seed(config.seed)
    model = load_model(config)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    strategy = make_strategy(model, config, ranks)
    ranks.seed(config.seed)
    report = Reporter(config, ranks, after_step=course.first_step - 1)
    saver = Saver(config, strategy, ranks, num_steps=course.num_steps, tell=report.send, last=point)
    export = Exporter(config, strategy, ranks, model, family, tokenizer, dataset.conditions, tell=report.send)
    bad_steps = BadSteps(config, ranks)
    report.send(Started(strategy=strategy.name, num_parameters=num_parameters, num_steps=course.num_steps))
    seconds_before = 0.0
    if point:
        saver.load(point)
        seconds_before = point.manifest.seconds
        report.send(Resumed(step=course.first_step - 1, path=str(point.path)))
        export.make_up_for(point.manifest.progress, course)
    if config.selfcheck:
        check_packing(strategy.model, ranks.device)
    probe_memory(strategy, dataset, course.costliest(dataset.lengths, COST_PER_SQUARED_TOKEN), config, ranks)

    began = time.perf_counter() - seconds_before
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
            wishes = (stop.is_on, saver.is_due)
            loss, grad_norm, (wants_stop, wants_save) = train_step(
                strategy,
                step_batches(dataset, planned.bins, ranks),
                ranks,
                lr,
                wishes,
                compat=config.compat is not None,
            )
        now = time.perf_counter()
        skipped = bad_steps.see(planned, loss=loss, grad_norm=grad_norm)
        if skipped:
            report.send(skipped)
        else:
            tokens = int(sum(dataset.lengths[list(rows)].sum() for rows in planned.bins))
            report.step(
                Stepped(
                    step=planned.step,
                    num_steps=course.num_steps,
                    epoch=planned.epoch + 1,
                    num_epochs=config.num_epochs,
                    loss=loss,
                    lr=lr,
                    grad_norm=grad_norm,
                    tokens=tokens,
                    tokens_per_second=tokens / (now - step_began),
                    seconds=now - began,
                )
            )
        is_stopping = wants_stop and planned.step < course.num_steps
        if is_stopping:
            report.send(Stopping(step=planned.step))
        if planned.ends_epoch and config.saves_after(planned.epoch):
            export.save(planned.epoch, planned.step)
        # After a step that was skipped the weights may be spoilt, and the last checkpoint is not.
        if is_stopping or (not skipped and (wants_save or saver.is_planned(planned))):
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


def train_step(
    strategy: Strategy,
    batches: Iterator[tuple[PackedBatch, bool]],
    ranks: Ranks,
    lr: float,
    wishes: tuple[bool, ...] = (),
    *,
    compat: bool = False,
) -> tuple[float, float, list[bool]]:
    """Take one optimizer step; give its loss over all ranks, the norm of its gradient before clipping, and which of the
    wishes any rank has.

    Where loss or norm is not finite, no step is taken.
    """
    loss_sum = torch.zeros((), device=ranks.device)
    for batch, is_last in batches:
        loss = measured_loss(strategy.model, batch, ranks.device, compat=compat).share
        loss_sum += loss.detach()
        # A loss that is not finite may have a gradient that is: it must not be taken for a good one.
        scale = torch.where(loss.detach().isfinite(), backward_scale(ranks.num_ranks, compat=compat), math.nan)
        strategy.backward(loss * scale, is_last=is_last)
    flags = torch.tensor(wishes, dtype=loss_sum.dtype, device=ranks.device)
    total, *wished = ranks.sums(torch.cat([loss_sum[None], flags]))
    return total, strategy.step(lr), [wish > 0 for wish in wished]


def step_batches(dataset: PackedDataset, bins: Bins, ranks: Ranks) -> Iterator[tuple[PackedBatch, bool]]:
    """Give this rank's batches of a step, and whether each is the last.

    Every rank has the whole plan, so the step's loss weight needs no communication.
    """
    rows_of_step = [row for rows in bins for row in rows]
    step_loss_weight = float(dataset.step_weights[rows_of_step].sum(dtype="float64"))
    own = bins[ranks.rank :: ranks.num_ranks]
    for number, rows in enumerate(own, start=1):
        yield pack([dataset.row(row) for row in rows], step_loss_weight=step_loss_weight), number == len(own)


def probe_memory(
    strategy: Strategy, dataset: PackedDataset, rows: tuple[int, ...], config: TrainConfig, ranks: Ranks
) -> None:
    """Take the costliest bin forward and backward before the first step, so that memory runs out now or never.

    Raises:
        RunError: it does; says what to lower.
    """
    if ranks.device.type != "cuda" or not rows:
        return
    random_state = ranks.random_state()
    batch = pack([dataset.row(row) for row in rows], step_loss_weight=1.0)
    with memory_hints(config, f"on the largest batch, {len(batch.input_ids_T)} tokens"):
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
