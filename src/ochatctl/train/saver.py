"""Writes resume checkpoints while training goes on, and reads one back.

The strategy writes its shards; where it can do so beside training, the steps go on meanwhile. What follows it, the
digests of all files and the manifest, runs on a thread everywhere. The ranks speak of saving in a group of their own.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from ochatctl.train import resume
from ochatctl.train.config import TrainConfig
from ochatctl.train.course import PlannedStep, Progress
from ochatctl.train.ranks import Ranks
from ochatctl.train.records import Record, ResumeSaved, SaveFailed
from ochatctl.train.resume import Manifest, Part, ResumePoint
from ochatctl.train.strategies.base import SaveFault, Strategy

_WHAT = "the resume checkpoint"
# A disk that is full to the last byte fails in more ways than one.
_SPARE_BYTES = 1 << 20
# Found in what torch says where a write fails, which is never what the system said.
_TORCH_WRITER = ("unexpected pos", "PytorchStreamWriter", "inline_container")


class Saver:
    """The resume checkpoints of a run. All ranks make the same calls in the same order."""

    def __init__(
        self,
        config: TrainConfig,
        strategy: Strategy,
        ranks: Ranks,
        *,
        num_steps: int,
        tell: Callable[[Record], None],
        last: ResumePoint | None,
    ) -> None:
        self._config, self._strategy, self._ranks, self._tell = config, strategy, ranks, tell
        self._num_steps = num_steps
        self._group = dist.new_group(backend="gloo")
        self._pending: threading.Thread | None = None
        self._began = time.monotonic()
        self._saved_step = last.manifest.progress.step if last else 0
        self._num_bytes = last.num_bytes if last else 0

    @property
    def is_due(self) -> bool:
        """Whether it is time by the clock, which only the first rank says."""
        every = self._config.save_every_seconds
        return self._ranks.is_first and every is not None and time.monotonic() - self._began >= every

    def is_planned(self, planned: PlannedStep) -> bool:
        """Whether a checkpoint follows this step whatever the clock says."""
        every = self._config.save_every_steps
        at_epoch = planned.ends_epoch and self._config.saves_after(planned.epoch)
        return planned.step < self._num_steps and (at_epoch or (every is not None and planned.step % every == 0))

    def load(self, point: ResumePoint) -> None:
        """Bring back the weights, the optimizer and, where as many ranks wrote it, the random state."""
        self._strategy.load_shards(point.path / resume.SHARDS_DIR)
        if point.manifest.ranks == self._ranks.num_ranks:
            path = point.path / _rng_name(self._ranks.rank)
            self._ranks.set_random_state(torch.load(path, weights_only=True))
        else:
            self._ranks.seed(self._config.seed + point.manifest.progress.step)

    def save(self, progress: Progress, *, seconds: float) -> None:
        """Begin a checkpoint; one that is still being written is waited for first."""
        self.wait()
        self._began = began = time.monotonic()
        folder = resume.part_dir(self._config.out_dir, progress.step)
        fault = self._make_room(folder)
        if self._tell_fault(progress.step, fault):
            return
        finish: Callable[[], object] | None = None
        try:
            torch.save(self._ranks.random_state(), folder / _rng_name(self._ranks.rank))
        except (OSError, RuntimeError) as error:
            fault = save_reason(str(error), folder)
        try:
            finish = self._strategy.save_shards(folder / resume.SHARDS_DIR)
        except SaveFault as error:
            fault = fault or save_reason(str(error), folder)
        manifest = Manifest(
            strategy=self._strategy.name,
            ranks=self._ranks.num_ranks,
            progress=progress,
            num_steps=self._num_steps,
            seconds=seconds,
            parts=(),
        )
        self._pending = threading.Thread(target=self._finish, args=(manifest, folder, finish, fault, began))
        self._pending.start()

    def wait(self) -> None:
        """Wait until the checkpoint that was begun is whole, or has failed."""
        if self._pending is not None:
            self._pending.join()
            self._pending = None

    def last_saved(self) -> int:
        """Wait, and give the step of the last checkpoint that is whole; 0: none."""
        self.wait()
        return self._saved_step

    def _finish(
        self, manifest: Manifest, folder: Path, finish: Callable[[], object] | None, fault: str, began: float
    ) -> None:
        step = manifest.progress.step
        try:
            if finish is not None:
                finish()
        except SaveFault as error:
            fault = fault or save_reason(str(error), folder)
        if self._tell_fault(step, fault):
            self._remove(folder)
            return
        parts, fault = self._describe(folder)
        if self._tell_fault(step, fault):
            self._remove(folder)
            return
        if self._ranks.is_first:
            try:
                resume.finish(self._config.out_dir, replace(manifest, parts=tuple(parts)), keep=self._config.keep)
            except OSError as error:
                fault = str(error)
        if self._tell_fault(step, fault):
            self._remove(folder)
            return
        self._saved_step, self._num_bytes = step, sum(part.num_bytes for part in parts)
        path, taken = resume.step_dir(self._config.out_dir, step), time.monotonic() - began
        self._tell(ResumeSaved(step=step, path=str(path), num_bytes=self._num_bytes, seconds=taken))

    def _make_room(self, folder: Path) -> str:
        """Make the folder on the first rank; give what stands against it."""
        if not self._ranks.is_first:
            return ""
        try:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / resume.SHARDS_DIR).mkdir(parents=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            return str(error)
        if free < self._num_bytes + _SPARE_BYTES:
            self._remove(folder)
            return f"{free / 1e9:.2f} GB are free, and the last one took {self._num_bytes / 1e9:.2f} GB"
        return ""

    def _describe(self, folder: Path) -> tuple[list[Part], str]:
        """Read all files, each rank its share of them; give the manifest's entries."""
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        own: list[Part] | str
        try:
            own = [resume.describe_part(folder, file) for file in files[self._ranks.rank :: self._ranks.num_ranks]]
        except OSError as error:
            own = str(error)
        found: list[list[Part] | str] = [[]] * self._ranks.num_ranks
        dist.all_gather_object(found, own, group=self._group)
        faults = [each for each in found if isinstance(each, str)]
        parts = [part for each in found if isinstance(each, list) for part in each]
        return sorted(parts, key=lambda part: part.path), faults[0] if faults else ""

    def _tell_fault(self, step: int, fault: str) -> bool:
        """Agree on whether a rank has failed; the first one says so."""
        found = [""] * self._ranks.num_ranks
        dist.all_gather_object(found, fault, group=self._group)
        reasons = [f"rank {rank}: {each}" for rank, each in enumerate(found) if each]
        if reasons:
            self._tell(SaveFailed(step=step, what=_WHAT, reason=reasons[0]))
        return bool(reasons)

    def _remove(self, folder: Path) -> None:
        if self._ranks.is_first:
            shutil.rmtree(folder, ignore_errors=True)


def save_reason(said: str, folder: Path) -> str:
    """Give why a file could not be written; torch's writer says `unexpected pos 704 vs 598` of a full disk."""
    if not any(words in said for words in _TORCH_WRITER):
        return said
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < _SPARE_BYTES:
            return f"the disk that holds `{folder.parent}` is full"
    return said


def _rng_name(rank: int) -> str:
    return f"rng_{rank}.pt"
