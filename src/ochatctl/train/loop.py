"""The training loop, as each rank runs it: `python -m ochatctl.train.loop run.json`.

in: run.json (a TrainConfig), out: `ep_N/` folders, `metrics.jsonl`, and records on standard output for the parent.
"""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist

from ochatctl.chat.families import load_family
from ochatctl.config import read_run
from ochatctl.data.dataset import PackedDataset, open_dataset
from ochatctl.data.packing import PackedBatch, pack, plan_epoch
from ochatctl.errors import OchatError, RunError
from ochatctl.train.checkpoint import save_checkpoint
from ochatctl.train.config import TrainConfig
from ochatctl.train.loss import batch_loss
from ochatctl.train.model import load_model
from ochatctl.train.ranks import Ranks, join_ranks
from ochatctl.train.records import (
    METRICS_FILE,
    METRICS_FORMAT,
    METRICS_VERSION,
    PARENT_HOLDS_STDIN,
    Failed,
    Record,
    Saved,
    Started,
    Stepped,
    to_line,
)
from ochatctl.train.schedule import lr_at
from ochatctl.train.strategies.base import Strategy, make_strategy

Bins = tuple[tuple[int, ...], ...]


def run(config: TrainConfig) -> None:
    """Train as the config says, on this rank.

    Raises:
        RunError: the loss or the gradient is not finite.
    """
    ranks = join_ranks(config)
    family, tokenizer = load_family(config.model_dir, config.family, trust_remote_code=config.trust_remote_code)
    dataset = open_dataset(config.data_path)
    plans = [
        plan_epoch(
            dataset.lengths,
            bin_tokens=config.batch_tokens,
            bins_per_step=config.bins_per_step,
            seed=config.seed,
            epoch=epoch,
        )
        for epoch in range(config.num_epochs)
    ]
    num_steps = sum(len(plan.steps) for plan in plans)

    torch.manual_seed(config.seed)
    model = load_model(config)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    strategy = make_strategy(model, config, ranks)
    report = Reporter(config, ranks)
    report.send(Started(strategy=strategy.name, num_parameters=num_parameters, num_steps=num_steps))

    step = 0
    began = time.perf_counter()
    for epoch, plan in enumerate(plans):
        for bins in plan.steps:
            step += 1
            step_began = time.perf_counter()
            lr = lr_at(
                step,
                num_steps=num_steps,
                peak=config.optim.lr,
                warmup_ratio=config.optim.warmup_ratio,
                min_lr_ratio=config.optim.min_lr_ratio,
            )
            loss, grad_norm = train_step(strategy, step_batches(dataset, bins, ranks), ranks, lr)
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise RunError(
                    f"step {step}: the loss is {loss} and its gradient's norm {grad_norm}; rows {_first_rows(bins)}",
                    hint="lower `--lr`, or look at those rows of the data",
                )
            tokens = int(sum(dataset.lengths[list(rows)].sum() for rows in bins))
            now = time.perf_counter()
            report.step(
                Stepped(
                    step=step,
                    num_steps=num_steps,
                    epoch=epoch + 1,
                    num_epochs=config.num_epochs,
                    loss=loss,
                    lr=lr,
                    grad_norm=grad_norm,
                    tokens=tokens,
                    tokens_per_second=tokens / (now - step_began),
                    seconds=now - began,
                )
            )
        if config.saves_after(epoch):
            state = strategy.full_state()
            if ranks.is_first:
                save_checkpoint(
                    config.checkpoint_dir(epoch),
                    model=model,
                    state=state,
                    base_dir=config.model_dir,
                    family=family,
                    tokenizer=tokenizer,
                    conditions=dataset.conditions,
                )
            dist.barrier()
            report.send(Saved(epoch=epoch + 1, path=str(config.checkpoint_dir(epoch))))
    report.close()
    dist.destroy_process_group()


def train_step(
    strategy: Strategy, batches: Iterator[tuple[PackedBatch, bool]], ranks: Ranks, lr: float
) -> tuple[float, float]:
    """Take one optimizer step; give its loss over all ranks and the norm of its gradient before clipping.

    A loss that is not finite takes no step.
    """
    loss_sum = torch.zeros((), device=ranks.device)
    for batch, is_last in batches:
        loss = batch_loss(strategy.model, batch, ranks.device)
        loss_sum += loss.detach()
        # Strategies average gradients over ranks, and our shares of the loss are to be summed.
        strategy.backward(loss * ranks.num_ranks, is_last=is_last)
    total = ranks.sum(loss_sum)
    if not math.isfinite(total):
        return total, math.nan
    return total, strategy.step(lr)


def step_batches(dataset: PackedDataset, bins: Bins, ranks: Ranks) -> Iterator[tuple[PackedBatch, bool]]:
    """Give this rank's batches of a step, and whether each is the last.

    Every rank has the whole plan, so the step's loss weight needs no communication.
    """
    rows_of_step = [row for rows in bins for row in rows]
    step_loss_weight = float(dataset.step_weights[rows_of_step].sum(dtype="float64"))
    own = bins[ranks.rank :: ranks.num_ranks]
    for number, rows in enumerate(own, start=1):
        yield pack([dataset.row(row) for row in rows], step_loss_weight=step_loss_weight), number == len(own)


class Reporter:
    """Tells the parent and `metrics.jsonl`; only rank 0 says anything."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        self._metrics: IO[str] | None = None
        self._is_first = ranks.is_first
        if ranks.is_first:
            self._metrics = (config.out_dir / METRICS_FILE).open("w", encoding="utf-8", buffering=1)
            self._metrics.write(json.dumps({"format": METRICS_FORMAT, "version": METRICS_VERSION}) + "\n")

    def send(self, record: Record) -> None:
        """Tell the parent."""
        if self._is_first:
            tell_parent(record)

    def step(self, record: Stepped) -> None:
        """Tell the parent and `metrics.jsonl` of a step."""
        self.send(record)
        if self._metrics is not None:
            table = {name: getattr(record, name) for name in record.__dataclass_fields__}
            self._metrics.write(json.dumps(table) + "\n")

    def close(self) -> None:
        """Close `metrics.jsonl`."""
        if self._metrics is not None:
            self._metrics.close()


def tell_parent(record: Record) -> None:
    """Write a record as one line, in one piece: all ranks share the pipe."""
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), to_line(record).encode())


def die_with_parent() -> None:
    """End this process when the parent has gone, however it went: its end of our standard input closes then."""
    if os.environ.get(PARENT_HOLDS_STDIN) != "1":
        return

    def wait_for_end() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()


def _first_rows(bins: Bins) -> str:
    rows = [str(row) for rows in bins for row in rows]
    return ", ".join(rows[:20]) + (f" and {len(rows) - 20} more" if len(rows) > 20 else "")


def main(arguments: list[str]) -> int:
    """Run a rank; an error of ours goes to the parent as a record."""
    die_with_parent()
    try:
        run(read_run(TrainConfig, Path(arguments[0])))
    except OchatError as error:
        rank = int(os.environ.get("RANK", "0"))
        tell_parent(Failed(rank=rank, kind=type(error).__name__, message=error.message, hint=error.hint))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(__import__("sys").argv[1:]))
