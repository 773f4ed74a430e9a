"""The loss of held-out rows: always the same rows in the same batches, without dropout and without a gradient.

in: PREFIX.eval.parquet, out: Evaluated records
"""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch.distributed.fsdp import FSDPModule

from ochatctl.data.dataset import open_dataset
from ochatctl.data.packing import plan_epoch
from ochatctl.train.config import TrainConfig
from ochatctl.train.course import Bins, Course, PlannedStep, Progress
from ochatctl.train.linear_loss import NUM_COLUMNS
from ochatctl.train.loader import RowClasses, made_ahead, micro_batches
from ochatctl.train.packed_model import Sealed
from ochatctl.train.ranks import Ranks
from ochatctl.train.records import Evaluated
from ochatctl.train.strategies.base import Strategy
from ochatctl.train.tallies import figures_of


class Evaluation:
    """Evaluates the model of a run. All ranks make the same calls.

    Guarantees: on the same weights and as many ranks the same figures, to the last digit; training goes on as if
    nothing had happened.
    """

    def __init__(
        self,
        config: TrainConfig,
        strategy: Strategy,
        ranks: Ranks,
        classes: RowClasses,
        *,
        num_steps: int,
        tell: Callable[[Evaluated], None],
    ) -> None:
        self._config, self._strategy, self._ranks, self._classes = config, strategy, ranks, classes
        self._num_steps, self._tell = num_steps, tell
        self._dataset = open_dataset(config.eval_path) if config.eval_path else None
        self._steps: tuple[Bins, ...] = ()
        if self._dataset is not None:
            self._steps = plan_evaluation(
                self._dataset.lengths, bin_tokens=config.batch_tokens, num_ranks=ranks.num_ranks
            )

    def after(self, planned: PlannedStep) -> None:
        """Evaluate, if it is time."""
        if self._config.evaluates_after(
            planned.step, planned.epoch, ends_epoch=planned.ends_epoch, num_steps=self._num_steps
        ):
            self._run(planned.step, planned.epoch)

    def make_up_for(self, progress: Progress, course: Course, *, is_done: bool) -> None:
        """Evaluate where the run goes on, if it was told to stop before it could; the first rank knows if `is_done`."""
        ends_epoch = course.begins_after(progress.epoch)
        if not self._config.evaluates_after(
            progress.step, progress.epoch, ends_epoch=ends_epoch, num_steps=self._num_steps
        ):
            return
        done = torch.tensor(float(is_done), device=self._ranks.device)
        if self._ranks.sum(done) == 0:
            self._run(progress.step, progress.epoch)

    def _run(self, step: int, epoch: int) -> None:
        began = time.perf_counter()
        random_state = self._ranks.random_state()
        model = self._strategy.model
        was_training = model.training
        model.eval()
        try:
            tally_C5 = self._tally()
        finally:
            model.train(was_training)
            self._ranks.set_random_state(random_state)
        figures = figures_of(tally_C5, self._classes.names)
        self._tell(
            Evaluated(
                step=step,
                epoch=epoch + 1,
                num_epochs=self._config.num_epochs,
                eval_loss=figures.loss,
                eval_accuracy=figures.accuracy,
                class_losses=figures.class_losses,
                class_accuracies=figures.class_accuracies,
                tokens=figures.tokens,
                seconds=time.perf_counter() - began,
            )
        )

    def _tally(self) -> list[list[float]]:
        """Give the sums over all rows and ranks, by class."""
        assert self._dataset is not None
        device, model = self._ranks.device, self._strategy.model
        num_classes = len(self._classes.names)
        total_C5 = torch.zeros(num_classes, NUM_COLUMNS, dtype=self._ranks.sum_dtype, device=device)
        # Not `inference_mode`: what ZeRO-3 gathers there could not be trained afterwards.
        batches = micro_batches(self._dataset, self._steps, self._ranks, self._classes)
        with made_ahead(batches, self._ranks) as ahead, torch.no_grad():
            for batch in ahead:
                _, tally_C5 = model(packed=Sealed(batch.inputs.to(device)))
                total_C5 += tally_C5
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # which the backward pass does otherwise
        sums = self._ranks.sums(total_C5.flatten())
        return [sums[start : start + NUM_COLUMNS] for start in range(0, len(sums), NUM_COLUMNS)]


def plan_evaluation(lengths: npt.NDArray[np.int64], *, bin_tokens: int, num_ranks: int) -> tuple[Bins, ...]:
    """Give the rows of each bin, a bin a rank and step; always the same ones. Where rows are few, bins are empty."""
    if len(lengths) < num_ranks:
        return (tuple((row,) for row in range(len(lengths))) + ((),) * (num_ranks - len(lengths)),)
    plan = plan_epoch(lengths, bin_tokens=max(bin_tokens, int(lengths.max())), bins_per_step=num_ranks, seed=0, epoch=0)
    return tuple(tuple(tuple(int(row) for row in own) for own in bins) for bins in plan.steps)
