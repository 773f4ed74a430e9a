"""How fast a run goes, how well it uses its GPUs, how much memory it takes, and how long it still needs."""

import resource
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ochatctl.memory.training import peak_tflops, step_flops
from ochatctl.train.course import PlannedStep
from ochatctl.train.estimate import read_model
from ochatctl.train.ranks import Ranks

# One step says little: rows differ in length, and a checkpoint may be written beside it.
_WINDOW_STEPS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """`tokens` of a step; `tokens_per_second` and `mfu` of the last steps; `eta_seconds` to the end of the run.

    `mfu` is model FLOPs utilisation, over the peak of all GPUs: what is computed twice does not count. None where the
    peak is not known, as on CPU.
    """

    tokens: int
    tokens_per_second: float
    mfu: float | None
    eta_seconds: float


class Gauge:
    """Measures steps; the time of what stands between them counts for `eta_seconds` alone.

    `trained_params` are those that learn beside frozen weights; None where all do. `peak_flops` is that of all GPUs
    together; None: asked of the GPU.
    """

    def __init__(
        self,
        model_dir: Path,
        lengths: npt.NDArray[np.int64],
        ranks: Ranks,
        *,
        num_steps: int,
        trained_params: int | None = None,
        peak_flops: float | None = None,
    ) -> None:
        self._lengths, self._num_steps, self._trained_params = lengths, num_steps, trained_params
        self._model = read_model(model_dir)
        self._peak_flops = peak_flops or _peak_flops(ranks)
        self._window: deque[tuple[int, float, float]] = deque(maxlen=_WINDOW_STEPS)
        self._first_ended: float | None = None
        self._num_since = 0

    def see(self, planned: PlannedStep, *, step_seconds: float) -> Speed:
        """Take note of a step that has just ended."""
        lengths = self._lengths[[row for rows in planned.bins for row in rows]].astype(np.float64)
        tokens = int(lengths.sum())
        self._window.append((tokens, self._flops(lengths), step_seconds))
        seconds = sum(taken for _, _, taken in self._window)
        flops = sum(flops for _, flops, _ in self._window)
        return Speed(
            tokens=tokens,
            tokens_per_second=sum(count for count, _, _ in self._window) / seconds,
            mfu=flops / seconds / self._peak_flops if self._peak_flops and self._model else None,
            eta_seconds=self._eta(planned.step, step_seconds),
        )

    def _flops(self, lengths: npt.NDArray[np.float64]) -> float:
        if self._model is None:
            return 0.0
        num_squares = float((lengths**2).sum())
        return step_flops(
            self._model.weights,
            self._model.shape,
            num_tokens=float(lengths.sum()),
            num_squares=num_squares,
            trained_params=self._trained_params,
        )

    def _eta(self, step: int, step_seconds: float) -> float:
        """Give the steps that are left at the pace so far, with its saves and evaluations.

        The first step is left out where there are others: it compiles and warms up.
        """
        now, left = time.perf_counter(), self._num_steps - step
        if self._first_ended is None:
            self._first_ended = now
            return left * step_seconds
        self._num_since += 1
        return left * (now - self._first_ended) / self._num_since


def _peak_flops(ranks: Ranks) -> float | None:
    peak = peak_tflops(torch.cuda.get_device_name(ranks.device)) if ranks.device.type == "cuda" else None
    return None if peak is None else peak * 1e12 * ranks.num_ranks


def peak_memory_bytes(device: torch.device) -> int:
    """Give the most memory that this rank has held so far: of its GPU, or in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
