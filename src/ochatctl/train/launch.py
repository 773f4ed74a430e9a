"""Start the ranks, listen to them, and leave none behind. This is the parent; it imports no torch.

in: RunPlan, out: TrainResult, with each record of the ranks given to a callback on the way.

The parent holds the ranks' standard input open and never writes to it. When the parent goes, however it goes, the ranks
read its end and stop; when the launcher goes, the parent closes it. So no rank outlives either.
"""

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ochatctl import errors
from ochatctl.config import write_run
from ochatctl.errors import OchatError, RunError
from ochatctl.train.config import RUN_FILE, TrainConfig
from ochatctl.train.prepare import RunPlan
from ochatctl.train.records import PARENT_HOLDS_STDIN, Failed, Record, Saved, Stepped, from_line

LOG_FILE = "train.log"
_SHOWN_LOG_LINES = 8
_GRACE_SECONDS = 10.0
_RANK_LINE = re.compile(r"\[rank(\d+)\]:")
_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """A run that has ended well. `tokens_per_second` is over all ranks, from the first step to the last."""

    out_dir: Path
    checkpoints: tuple[Path, ...]
    num_steps: int
    first_loss: float
    last_loss: float
    seconds: float
    tokens_per_second: float


def train(plan: RunPlan, *, on_record: Callable[[Record], None]) -> TrainResult:
    """Run the ranks to their end.

    Raises:
        RunError: a rank failed; with its last log lines.
        OchatError: what a rank itself raised.
    """
    config = plan.config
    config.out_dir.mkdir(parents=True, exist_ok=True)
    _clear_earlier_run(config.out_dir)
    write_run(config.out_dir / RUN_FILE, config)
    steps: list[Stepped] = []
    saved: list[Path] = []
    failures: list[Failed] = []
    with (config.out_dir / LOG_FILE).open("w", encoding="utf-8", buffering=1) as log:
        tail: deque[str] = deque(maxlen=400)
        with _ranks(plan) as child:
            for record in _listen(child, log, tail):
                match record:
                    case Stepped():
                        steps.append(record)
                    case Saved():
                        saved.append(Path(record.path))
                    case Failed():
                        failures.append(record)
                on_record(record)
            code = child.wait()
    if code != 0 or not steps:
        raise _failure(config, code, failures, list(tail))
    seconds = steps[-1].seconds
    return TrainResult(
        out_dir=config.out_dir,
        checkpoints=tuple(saved),
        num_steps=len(steps),
        first_loss=steps[0].loss,
        last_loss=steps[-1].loss,
        seconds=seconds,
        tokens_per_second=sum(step.tokens for step in steps) / seconds,
    )


@contextlib.contextmanager
def _ranks(plan: RunPlan) -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen(
        plan.launcher,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(plan.config),
        # Ctrl-C reaches us alone, and we end the ranks.
        start_new_session=True,
    )
    # The ranks hold the output pipe open, so its end says nothing about the launcher.
    watcher = threading.Thread(target=_let_go_after, args=(child,), daemon=True)
    watcher.start()
    try:
        with _termination_as_interrupt():
            yield child
    finally:
        if child.poll() is None:
            _let_go(child)
            child.terminate()
            try:
                child.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
        watcher.join()
        if child.stdout is not None:
            child.stdout.close()


def _let_go_after(child: "subprocess.Popen[bytes]") -> None:
    child.wait()
    _let_go(child)


def _let_go(child: "subprocess.Popen[bytes]") -> None:
    """Close the ranks' standard input, which ends them."""
    if child.stdin is not None:
        child.stdin.close()


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C, so that the ranks are ended before we are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(child: "subprocess.Popen[bytes]", log: IO[str], tail: "deque[str]") -> Iterator[Record]:
    """Give the ranks' records; any other line goes to the log."""
    assert child.stdout is not None
    for raw in child.stdout:
        line = raw.decode("utf-8", errors="replace")
        record = from_line(line)
        if record is not None:
            yield record
        else:
            log.write(line)
            tail.append(line.rstrip())


def _environment(config: TrainConfig) -> dict[str, str]:
    added = {
        PARENT_HOLDS_STDIN: "1",
        "OMP_NUM_THREADS": str(config.num_threads),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if config.device == "cpu":
        # Without it DeepSpeed looks for a GPU, and gloo for a network under this machine's name.
        added |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        loopback = {"Linux": "lo", "Darwin": "lo0"}.get(platform.system())
        if loopback:
            added["GLOO_SOCKET_IFNAME"] = loopback
    return {**os.environ, **added}


def _clear_earlier_run(out_dir: Path) -> None:
    """Remove what an earlier run left under names that this one writes; the user has agreed to it by `--yes`."""
    for path in out_dir.iterdir():
        if path.is_dir() and re.fullmatch(r"ep_\d+|\.ep_\d+\..*\.(part|old)", path.name):
            shutil.rmtree(path)


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
