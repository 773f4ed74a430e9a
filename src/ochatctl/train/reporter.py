"""Tells the parent, `metrics.jsonl` and the loggers."""

import dataclasses
import json
from pathlib import Path
from typing import IO

from ochatctl.files import atomic_file
from ochatctl.train.config import TrainConfig
from ochatctl.train.loggers import Loggers
from ochatctl.train.parent import tell_parent
from ochatctl.train.ranks import Ranks
from ochatctl.train.records import METRICS_FILE, METRICS_FORMAT, METRICS_VERSION, Evaluated, Record, Stepped


class Reporter:
    """Speaks for the ranks: the first of a node to its parent, the first of all to `metrics.jsonl` and loggers too."""

    def __init__(self, config: TrainConfig, ranks: Ranks, *, after_step: int) -> None:
        self._speaks = ranks.is_first_here
        self._metrics: IO[str] | None = None
        self._loggers: Loggers | None = None
        self._evaluated_at: set[int] = set()
        if ranks.is_first:
            path = config.out_dir / METRICS_FILE
            self._evaluated_at = cut_metrics(path, after_step=after_step)
            self._metrics = path.open("a", encoding="utf-8", buffering=1)
            self._loggers = Loggers(config, after_step=after_step)

    def send(self, record: Record) -> None:
        """Tell the parent."""
        if self._speaks:
            tell_parent(record)

    def write(self, record: Stepped | Evaluated) -> None:
        """Tell the parent, `metrics.jsonl` and the loggers."""
        self.send(record)
        if self._metrics is not None:
            self._metrics.write(json.dumps(dataclasses.asdict(record)) + "\n")
        if self._loggers is not None:
            self._loggers.log(record)

    def has_evaluated(self, step: int) -> bool:
        """Whether `metrics.jsonl` had an evaluation after this step when the run began; only the first rank knows."""
        return step in self._evaluated_at

    def close(self) -> None:
        """Close `metrics.jsonl` and the loggers."""
        if self._metrics is not None:
            self._metrics.close()
        if self._loggers is not None:
            self._loggers.close()


def cut_metrics(path: Path, *, after_step: int) -> set[int]:
    """Leave the header and the steps up to `after_step`: those that come later are taken again.

    Gives the steps that an evaluation is left of.
    """
    kept: list[str] = []
    if after_step and path.is_file():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines()[1:] if _step_of(line) <= after_step]
    header = json.dumps({"format": METRICS_FORMAT, "version": METRICS_VERSION})
    with atomic_file(path) as part:
        part.write_text("".join(f"{line}\n" for line in (header, *kept)), encoding="utf-8")
    return {int(_step_of(line)) for line in kept if "eval_loss" in json.loads(line)}


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off in the middle, by a kill
