"""Tells the parent and writes `metrics.jsonl`."""

import dataclasses
import json
from pathlib import Path
from typing import IO

from ochatctl.files import atomic_file
from ochatctl.train.config import TrainConfig
from ochatctl.train.parent import tell_parent
from ochatctl.train.ranks import Ranks
from ochatctl.train.records import METRICS_FILE, METRICS_FORMAT, METRICS_VERSION, Record, Stepped


class Reporter:
    """Speaks for the ranks: the first one of a node to its parent, the first of all also to `metrics.jsonl`."""

    def __init__(self, config: TrainConfig, ranks: Ranks, *, after_step: int) -> None:
        self._speaks = ranks.is_first_here
        self._metrics: IO[str] | None = None
        if ranks.is_first:
            path = config.out_dir / METRICS_FILE
            cut_metrics(path, after_step=after_step)
            self._metrics = path.open("a", encoding="utf-8", buffering=1)

    def send(self, record: Record) -> None:
        """Tell the parent."""
        if self._speaks:
            tell_parent(record)

    def step(self, record: Stepped) -> None:
        """Tell the parent and `metrics.jsonl` of a step."""
        self.send(record)
        if self._metrics is not None:
            self._metrics.write(json.dumps(dataclasses.asdict(record)) + "\n")

    def close(self) -> None:
        """Close `metrics.jsonl`."""
        if self._metrics is not None:
            self._metrics.close()


def cut_metrics(path: Path, *, after_step: int) -> None:
    """Leave the header and the steps up to `after_step`: those that come later are taken again."""
    lines = [json.dumps({"format": METRICS_FORMAT, "version": METRICS_VERSION})]
    if after_step and path.is_file():
        lines += [line for line in path.read_text(encoding="utf-8").splitlines()[1:] if _step_of(line) <= after_step]
    with atomic_file(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off in the middle, by a kill
