"""How many tokens a rank takes at once, and how often before an optimizer step.

A step's tokens are what learning depends on, so they are kept whatever the number of ranks is; what a rank takes at
once is a matter of memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ochatctl.chat.families import Family
from ochatctl.data.dataset import PackedDataset
from ochatctl.errors import ConfigError
from ochatctl.train.request import TrainRequest

# A bin of OpenChat's is 8 x 4096 tokens, which only a large data set fills often enough.
_DEFAULT_ROWS_PER_BIN = 8
_CPU_BATCH_TOKENS = 2048
_MIN_STEPS_PER_EPOCH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One rank's forward pass in tokens, and how many make its share of a step."""

    tokens: int
    accumulation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a batch must hold and may take: the longest conversation, the usual size, all tokens of the data.

    `fits` says whether so many tokens at once fit a GPU's memory.
    """

    num_ranks: int
    longest: int
    usual: int
    total: int
    fits: Callable[[int], bool]


def choose_batch(
    request: TrainRequest,
    *,
    family: Family,
    dataset: PackedDataset,
    num_ranks: int,
    on_cpu: bool,
    fits: Callable[[int], bool],
    notes: list[str],
) -> Batch:
    """Give the batch that is asked for, or one that keeps the step, or one that makes several steps an epoch.

    Raises:
        ConfigError: it could not hold the longest conversation.
    """
    usual = _DEFAULT_ROWS_PER_BIN * family.context_tokens
    limits = Limits(
        num_ranks=num_ranks,
        longest=int(dataset.lengths.max(initial=1)),
        usual=min(usual, _CPU_BATCH_TOKENS) if on_cpu else usual,
        total=int(dataset.lengths.sum()),
        fits=fits,
    )
    asked = _asked_tokens(request, family)
    if asked:
        batch = _as_asked(request, asked, limits, notes)
    elif request.batch.step_tokens:
        batch = _of_step(request, request.batch.step_tokens, limits, notes)
    else:
        return _several_steps(request, limits, notes)
    step = batch.tokens * batch.accumulation * num_ranks
    if request.batch.tokens is None and limits.total <= step:
        key = "batch.step_tokens" if request.batch.step_tokens else "batch.tokens"
        notes.append(
            f"one step an epoch: all data, {limits.total} tokens, fits one step of {step}; "
            f"`--set {key}=N` makes it smaller"
        )
    return batch


def _asked_tokens(request: TrainRequest, family: Family) -> int:
    batch = request.batch
    if batch.tokens is not None and batch.size_per_gpu is not None:
        raise ConfigError(
            "`--batch-tokens` and `--batch-size-per-gpu` say the same thing twice", hint="leave one of them out"
        )
    return batch.tokens or (batch.size_per_gpu or 0) * family.context_tokens


def _as_asked(request: TrainRequest, asked: int, limits: Limits, notes: list[str]) -> Batch:
    if asked < limits.longest:
        raise ConfigError(
            f"a batch of {asked} tokens a rank cannot hold the longest conversation, {limits.longest} tokens",
            hint=request.command(batch_tokens=limits.longest, batch_size_per_gpu=None),
        )
    step = request.batch.step_tokens
    accumulation = request.batch.accumulation or (max(1, round(step / (limits.num_ranks * asked))) if step else 1)
    batch = Batch(tokens=asked, accumulation=accumulation)
    if step:
        _say_step(step, batch, limits, notes)
    return batch


def _of_step(request: TrainRequest, step: int, limits: Limits, notes: list[str]) -> Batch:
    share = step // limits.num_ranks
    accumulation = request.batch.accumulation
    if accumulation is None:
        most = max(limits.usual, limits.longest)
        while most > limits.longest and not limits.fits(most):
            most = max(limits.longest, most // 2)
        # Never so many that the longest conversation finds no room.
        accumulation = max(1, min(math.ceil(share / most), share // limits.longest))
    batch = Batch(tokens=share // accumulation, accumulation=accumulation)
    if batch.tokens < limits.longest:
        raise ConfigError(
            f"a step of {step} tokens leaves {batch.tokens} to each of {limits.num_ranks} ranks x {accumulation} "
            f"passes, and the longest conversation has {limits.longest}",
            hint=request.command(**{"batch.step_tokens": limits.longest * limits.num_ranks * accumulation}),
        )
    _say_step(step, batch, limits, notes)
    return batch


def _say_step(step: int, batch: Batch, limits: Limits, notes: list[str]) -> None:
    real = batch.tokens * batch.accumulation * limits.num_ranks
    # Rounding loses less than a token a rank and pass.
    kept = "kept" if step - limits.num_ranks * batch.accumulation < real <= step else f"instead of {step}"
    ranks = f"{limits.num_ranks} rank{'s' if limits.num_ranks > 1 else ''}"
    notes.append(
        f"a step of {real} tokens ({kept}) = {ranks} x {batch.tokens} tokens a forward pass x "
        f"accumulation {batch.accumulation}"
    )


def _several_steps(request: TrainRequest, limits: Limits, notes: list[str]) -> Batch:
    """Take the usual batch, or less where an epoch would have few steps; what memory makes smaller is added up."""
    asked = request.batch.accumulation
    even = math.ceil(limits.total / (limits.num_ranks * (asked or 1) * _MIN_STEPS_PER_EPOCH))
    wanted = max(limits.longest, min(limits.usual, even))
    tokens = wanted
    while tokens > limits.longest and not limits.fits(tokens):
        tokens = max(limits.longest, tokens // 2)
    batch = Batch(tokens=tokens, accumulation=asked or max(1, round(wanted / tokens)))
    if tokens < wanted:
        why = "which a GPU's memory holds" if limits.fits(tokens) else "the least: the longest conversation"
        added = f", accumulation {batch.accumulation}" if asked is None else ""
        notes.append(f"batch of {tokens} tokens a rank, {why}{added}; `--batch-tokens` sets it")
    elif wanted < limits.usual:
        notes.append(f"batch of {wanted} tokens a rank, so that an epoch has several steps; `--batch-tokens` sets it")
    return batch
