"""One optimizer step on all ranks: forward, backward, one all-reduce of everything worth knowing, and the step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ochatctl.train.gauge import peak_memory_bytes
from ochatctl.train.linear_loss import NUM_COLUMNS
from ochatctl.train.loader import MicroBatch
from ochatctl.train.loss import backward_scale, inputs_loss
from ochatctl.train.prefetch import Prefetch
from ochatctl.train.ranks import Ranks
from ochatctl.train.strategies.base import Strategy


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step over all ranks; `wished` says of each wish whether any rank has it.

    Shapes: `tally_C5` as `linear_loss` makes it.

    Units: `grad_norm` is before clipping; `memory_bytes` is the most of any rank, `stall_seconds` the mean of all.
    """

    loss: float
    grad_norm: float
    wished: tuple[bool, ...]
    tally_C5: list[list[float]]
    memory_bytes: int
    stall_seconds: float


def train_step(
    strategy: Strategy,
    batches: Iterable[MicroBatch],
    ranks: Ranks,
    lr: float,
    wishes: tuple[bool, ...] = (),
    *,
    compat: bool = False,
) -> Step:
    """Take one optimizer step, of the batches up to the next that is the last of its step.

    Where loss or norm is not finite, no step is taken.
    """
    stalled = _stall_seconds(batches)
    loss_sum = torch.zeros((), device=ranks.device)
    tally_C5: torch.Tensor | None = None
    for batch in batches:
        share, own_C5 = inputs_loss(
            strategy.model, batch.inputs.to(ranks.device), step_loss_weight=batch.step_loss_weight
        )
        loss_sum += share.detach()
        own_C5 = own_C5.to(ranks.sum_dtype)
        tally_C5 = own_C5 if tally_C5 is None else tally_C5 + own_C5
        # A loss that is not finite may have a gradient that is: it must not be taken for a good one.
        scale = torch.where(share.detach().isfinite(), backward_scale(ranks.num_ranks, compat=compat), math.nan)
        strategy.backward(share * scale, is_last=batch.is_last)
        if batch.is_last:
            break
    assert tally_C5 is not None, "a rank has a batch in every step, if an empty one"
    memory = [0.0] * ranks.num_ranks  # each rank's own, so that a sum can tell the largest
    memory[ranks.rank] = float(peak_memory_bytes(ranks.device))
    own = [*map(float, wishes), _stall_seconds(batches) - stalled, *memory]
    sums = ranks.sums(
        torch.cat(
            [
                loss_sum[None].to(ranks.sum_dtype),
                tally_C5.flatten(),
                torch.tensor(own, dtype=ranks.sum_dtype, device=ranks.device),
            ]
        )
    )
    num_tally = tally_C5.numel()
    loss, tallied, (*wished, stall), memory = (
        sums[0],
        sums[1 : 1 + num_tally],
        sums[1 + num_tally : -ranks.num_ranks],
        sums[-ranks.num_ranks :],
    )
    return Step(
        loss=loss,
        grad_norm=strategy.step(lr),
        wished=tuple(wish > 0 for wish in wished),
        tally_C5=[tallied[start : start + NUM_COLUMNS] for start in range(0, num_tally, NUM_COLUMNS)],
        memory_bytes=int(max(memory)),
        stall_seconds=stall / ranks.num_ranks,
    )


def _stall_seconds(batches: Iterable[MicroBatch]) -> float:
    return batches.stall_seconds if isinstance(batches, Prefetch) else 0.0
