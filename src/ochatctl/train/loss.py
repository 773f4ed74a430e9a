"""The weighted loss of C-RLFT: sum(w x CE) / sum(w), both sums over all ranks and micro-steps of an optimizer step.

S = supervised tokens, V = vocabulary
"""

import torch
import torch.nn.functional as F

from ochatctl.data.packing import PackedBatch
from ochatctl.train.model import supervised_logits


def weighted_cross_entropy_sum(
    logits_SV: torch.Tensor, labels_S: torch.Tensor, weights_S: torch.Tensor
) -> torch.Tensor:
    """Give sum(w x CE), a scalar in float32 whatever the logits are in."""
    return F.cross_entropy(logits_SV.float(), labels_S, reduction="none") @ weights_S


def batch_loss(model: torch.nn.Module, batch: PackedBatch, device: torch.device) -> torch.Tensor:
    """Give a batch's share of its step's loss: shares add up to the loss, over micro-steps and over ranks.

    A batch without a label gives a zero that still reaches every weight, so that no rank misses a collective.
    """
    return weighted_cross_entropy_sum(*supervised_logits(model, batch, device)) / (batch.step_loss_weight or 1.0)
