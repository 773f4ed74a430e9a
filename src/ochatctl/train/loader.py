"""A rank's batches in the order of the plan, made ahead of time.

in: a dataset and planned steps, out: MicroBatches on CPU, in pinned memory where they go to a GPU.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ochatctl.data.conditions import RowConditions
from ochatctl.data.dataset import PackedDataset
from ochatctl.data.encode import Row
from ochatctl.data.packing import pack
from ochatctl.train.course import Bins
from ochatctl.train.loss import as_inputs
from ochatctl.train.packed_model import PackedInputs
from ochatctl.train.prefetch import Prefetch
from ochatctl.train.ranks import Ranks

_NO_CONDITION = "other"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MicroBatch:
    """What a rank takes forward and backward at once; `is_last` where the optimizer step follows."""

    inputs: PackedInputs
    step_loss_weight: float
    is_last: bool


class RowClasses:
    """Numbers the conditions of rows, for losses by class; the last class is of rows without one."""

    def __init__(self, conditions: RowConditions) -> None:
        self._conditions = conditions
        self.names = (*conditions.names, _NO_CONDITION)
        self._numbers = {name: number for number, name in enumerate(conditions.names)}

    def of_tokens(self, rows: Sequence[Row]) -> npt.NDArray[np.int64] | None:
        """Give each token its row's class; None where all are of one."""
        if len(self.names) == 1:
            return None
        if not rows:
            return np.zeros(1, dtype=np.int64)  # the token that stands for an empty bin
        last = len(self.names) - 1
        found = [self._numbers.get(self._conditions.of(row.input_ids), last) for row in rows]
        return np.repeat(np.array(found, dtype=np.int64), [len(row.input_ids) for row in rows])


def micro_batches(
    dataset: PackedDataset, steps: Iterable[Bins], ranks: Ranks, classes: RowClasses, *, compat: bool = False
) -> Iterator[MicroBatch]:
    """Give this rank's batches of all steps, one after the other; `Bins` are those of all ranks.

    Every rank has the whole plan, so a step's loss weight needs no communication.
    """
    for bins in steps:
        rows_of_step = [row for rows in bins for row in rows]
        step_loss_weight = float(dataset.step_weights[rows_of_step].sum(dtype="float64"))
        own = bins[ranks.rank :: ranks.num_ranks]
        for number, indices in enumerate(own, start=1):
            rows = [dataset.row(index) for index in indices]
            inputs = as_inputs(
                pack(rows, step_loss_weight=step_loss_weight),
                classes_T=classes.of_tokens(rows),
                num_classes=len(classes.names),
                compat=compat,
            )
            if ranks.device.type == "cuda":
                inputs = inputs.with_each(torch.Tensor.pin_memory)
            yield MicroBatch(inputs=inputs, step_loss_weight=step_loss_weight, is_last=number == len(own))


def made_ahead(batches: Iterable[MicroBatch], ranks: Ranks) -> Prefetch[MicroBatch]:
    """Give the same, made on a thread while earlier ones are computed on."""
    # A thread begins on the first GPU, and would take memory there for pinning.
    on_thread = (lambda: torch.cuda.set_device(ranks.device)) if ranks.device.type == "cuda" else (lambda: None)
    return Prefetch(batches, on_thread=on_thread)
