"""Start the ranks, listen to them, and leave none behind. This is the parent; it imports no torch.

in: RunPlan, out: TrainResult, with each record of the ranks given to a callback on the way.
"""

import contextlib
import os
import platform
import re
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ochatctl import errors
from ochatctl.config import write_run
from ochatctl.errors import OchatError, RunError
from ochatctl.files import make_dir, read_jsonl
from ochatctl.lock import hold
from ochatctl.train.child import Child, Signals, base_environment
from ochatctl.train.config import TrainConfig
from ochatctl.train.launch_lines import run_path
from ochatctl.train.prepare import RunPlan
from ochatctl.train.records import (
    BAD_STEPS_FILE,
    METRICS_FILE,
    PARENT_HOLDS_STDIN,
    Failed,
    Joined,
    Record,
    SaveFailed,
    Stepped,
    StopAsked,
    Stopped,
    from_line,
)
from ochatctl.train.resume import RESUME_DIR, last_whole, remove_unfinished

LOG_FILE = "train.log"
_ALLOCATOR_SETTINGS = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}
_SHOWN_LOG_LINES = 8
_TICK_SECONDS = 0.2
# After a rank has said that it failed, the others have this long to say so too and to end.
_AFTER_FAILURE_SECONDS = 5.0
_MODEL_FOLDER = re.compile(r"ep_\d+|\.ep_\d+\..*\.(part|old)")
_STEP_FOLDER = re.compile(r"step_\d+|\.step_\d+\.part")
_RANK_LINE = re.compile(r"\[rank(\d+)\]:")
_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """A run that has ended well, or was stopped and has saved. `tokens_per_second` is over all ranks and all steps.

    `stopped_at` is the step after which it was told to stop, `resume_path` what it goes on from, `signal` what told it.
    `failed_saves` are sentences; `missing_models` should be there, and are not. Figures are of the whole run, over all
    its interruptions; `eval_loss` is the last one, `stall_ratio` the part of all steps' time that was spent on waiting
    for batches.
    """

    out_dir: Path
    checkpoints: tuple[Path, ...]
    num_steps: int
    first_loss: float
    last_loss: float
    seconds: float
    tokens_per_second: float
    eval_loss: float | None = None
    stall_ratio: float = 0.0
    stopped_at: int | None = None
    resume_path: Path | None = None
    signal: str | None = None
    failed_saves: tuple[str, ...] = ()
    missing_models: tuple[Path, ...] = ()
    was_finished: bool = False


@dataclass(slots=True)
class _Heard:
    """What the ranks have said so far."""

    failures: list[Failed] = field(default_factory=list)
    failed_saves: list[str] = field(default_factory=list)
    stopped: Stopped | None = None
    has_stepped: bool = False

    def note(self, record: Record) -> None:
        match record:
            case Stepped():
                self.has_stepped = True
            case Failed():
                self.failures.append(record)
            case SaveFailed():
                self.failed_saves.append(f"{record.what} at step {record.step}: {record.reason}")
            case Stopped():
                self.stopped = record


def train(plan: RunPlan, *, on_record: Callable[[Record], None]) -> TrainResult:
    """Run the ranks to their end, or until a signal tells them to save and stop.

    Raises:
        RunError: a rank failed, with its last log lines; or they could not save within the grace time.
        EnvironmentProblem: another process trains in the same folder.
        OchatError: what a rank itself raised.
    """
    config = plan.config
    if plan.is_finished:
        return _result(config, was_finished=True)
    is_main = config.node_rank == 0
    make_dir(config.out_dir)
    with hold(config.out_dir, saves=True) if is_main else contextlib.nullcontext():
        if is_main:
            if config.resume_from is None:
                clear_earlier_run(config.out_dir)
            remove_unfinished(config.out_dir)
        write_run(run_path(config), config)
        log_path = config.out_dir / (LOG_FILE if is_main else f"train.node{config.node_rank}.log")
        # What an interrupted run has logged stays.
        with log_path.open("a" if config.resume_from else "w", encoding="utf-8", buffering=1) as log:
            return _follow(plan, log, on_record)


def _follow(plan: RunPlan, log: IO[str], on_record: Callable[[Record], None]) -> TrainResult:
    config, heard, tail = plan.config, _Heard(), deque[str](maxlen=400)
    asked_by: signal.Signals | None = None
    deadline, out_of_grace = float("inf"), False
    with Signals() as signals, Child(plan.launcher, _environment(config)) as child:
        for line in child.lines(_TICK_SECONDS):
            record = from_line(line) if line is not None else None
            if isinstance(record, Joined):
                child.rank_pids.add(record.pid)
            elif record is not None:
                heard.note(record)
                on_record(record)
            elif line is not None:
                log.write(line)
                tail.append(line.rstrip())
            if signals.received and asked_by is None:
                asked_by = signals.received[0]
                child.ask_to_stop()
                deadline = min(deadline, time.monotonic() + config.grace_seconds)
                on_record(StopAsked(signal=asked_by.name, grace_seconds=config.grace_seconds))
            if isinstance(record, Failed):
                deadline = min(deadline, time.monotonic() + _AFTER_FAILURE_SECONDS)
            if time.monotonic() >= deadline:
                out_of_grace = not heard.failures and heard.stopped is None
                break
        child.end()
        code = child.wait()
    if out_of_grace:
        raise _out_of_grace(config)
    if code != 0 and heard.stopped is None:
        raise _failure(config, code, heard.failures, list(tail))
    return _result(
        config,
        stopped_at=heard.stopped.step if heard.stopped else None,
        resume_path=Path(heard.stopped.path) if heard.stopped and heard.stopped.path else None,
        signal=asked_by.name if asked_by and heard.stopped else None,
        failed_saves=tuple(heard.failed_saves),
    )


def _result(config: TrainConfig, **more: Any) -> TrainResult:
    """Sum up `metrics.jsonl`, which holds all steps, those before an interruption too."""
    lines = [table for _, table in read_jsonl(config.out_dir / METRICS_FILE)]
    steps = [table for table in lines if "loss" in table]
    eval_losses = [table["eval_loss"] for table in lines if "eval_loss" in table]
    if not steps:
        raise RunError("no step was taken", hint=f"read {config.out_dir / LOG_FILE}")
    seconds = float(steps[-1]["seconds"])
    last_epoch = int(steps[-1]["epoch"]) if more.get("stopped_at") else config.num_epochs + 1
    planned = [epoch for epoch in range(config.num_epochs) if config.saves_after(epoch)]
    paths = {epoch: config.checkpoint_dir(epoch) for epoch in planned}
    table: dict[str, Any] = {
        "out_dir": config.out_dir,
        "checkpoints": tuple(path for path in paths.values() if path.is_dir()),
        "missing_models": tuple(path for epoch, path in paths.items() if epoch + 1 < last_epoch and not path.is_dir()),
        "num_steps": int(steps[-1]["step"]),
        "first_loss": float(steps[0]["loss"]),
        "last_loss": float(steps[-1]["loss"]),
        "seconds": seconds,
        "tokens_per_second": sum(step["tokens"] for step in steps) / seconds,
        "eval_loss": eval_losses[-1] if eval_losses else None,
        # An earlier version that began the run did not measure these.
        "stall_ratio": sum(step.get("stall_seconds", 0.0) for step in steps)
        / (sum(step.get("step_seconds", 0.0) for step in steps) or 1.0),
    }
    return TrainResult(**(table | more))


def _environment(config: TrainConfig) -> dict[str, str]:
    added = {PARENT_HOLDS_STDIN: "1", "OMP_NUM_THREADS": str(config.num_threads)}
    if config.device == "cpu":
        # Without it DeepSpeed looks for a GPU, and gloo for a network under this machine's name.
        added |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        loopback = {"Linux": "lo", "Darwin": "lo0"}.get(platform.system())
        if loopback and config.is_on_one_machine:
            added["GLOO_SOCKET_IFNAME"] = loopback
    elif config.device == "cuda" and not _ALLOCATOR_SETTINGS & os.environ.keys() and not _maps_no_memory():
        # Packed rows differ in number and length: without it what is free is soon in pieces that are too small.
        added["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return base_environment() | added


def _maps_no_memory() -> bool:
    """Whether the driver is one that fails at the first allocation of memory in segments that grow."""
    return any(name in platform.release().lower() for name in ("microsoft", "tegra"))


def clear_earlier_run(out_dir: Path) -> None:
    """Remove what an earlier run left under names that this one writes; the user has agreed to it by `--yes`."""
    resume_dir = out_dir / RESUME_DIR
    for path in (*out_dir.iterdir(), *(resume_dir.iterdir() if resume_dir.is_dir() else ())):
        wanted = _STEP_FOLDER if path.parent == resume_dir else _MODEL_FOLDER
        if path.is_dir() and wanted.fullmatch(path.name):
            shutil.rmtree(path)
    for name in (METRICS_FILE, BAD_STEPS_FILE):
        (out_dir / name).unlink(missing_ok=True)


def _out_of_grace(config: TrainConfig) -> RunError:
    point, _ = last_whole(config.out_dir)
    left = f"the last whole checkpoint is `{point.path}`" if point else "there is no whole checkpoint"
    return RunError(
        f"the ranks could not save within the {config.grace_seconds:g} s of `--grace` and were ended; {left}",
        hint="the same command goes on from there; a longer `--grace` leaves more time"
        if point
        else "the same command starts again from the beginning; `--save-every 30m` saves in between",
    )


def _failure(config: TrainConfig, code: int, failures: list[Failed], tail: list[str]) -> OchatError:
    if failures:
        first = failures[0]
        kind: type[OchatError] = getattr(errors, first.kind, RunError)
        return kind(first.message, hint=first.hint)
    log_path = config.out_dir / LOG_FILE
    cause = _ROOT_CAUSE.search("\n".join(tail))
    rank, exit_code = (int(cause[1]), int(cause[2])) if cause else (0, code)
    ended = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    lines = "".join(f"\n  {line}" for line in _last_lines(tail, rank))
    hint = f"read {log_path}"
    if exit_code == -9:
        hint += "; where memory ran out, lower `--batch-tokens`"
    return RunError(f"training stopped: rank {rank} {ended}{lines}", hint=hint)


def _last_lines(tail: list[str], rank: int) -> list[str]:
    """Give the last lines of a rank: those that torch has marked as its own, else those before the launcher's."""
    marked = [line for line in tail if (match := _RANK_LINE.match(line)) and int(match[1]) == rank]
    if marked:
        return marked[-_SHOWN_LOG_LINES:]
    own: list[str] = []
    for line in tail:
        if "torch/distributed/elastic" in line:
            break
        if line.strip():
            own.append(line)
    return own[-_SHOWN_LOG_LINES:]
