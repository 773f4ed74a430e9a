"""The launcher and its ranks, as the parent sees them: started, listened to, told to stop, ended. No torch.

The parent holds the ranks' standard input open. When the parent goes, however it goes, the ranks read its end and stop;
when the launcher goes, the parent closes it. So no rank outlives either. A byte on it tells them to save and stop.
"""

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from ochatctl.train.parent import STOP_ORDER

_END_SECONDS = 10.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# What a cluster may send to every process of a job. The launcher would kill the ranks; they see to it themselves.
_NOT_THE_LAUNCHERS = (signal.SIGTERM, signal.SIGUSR1)
_LAUNCHER_ENVIRONMENT = {
    # torch's launcher ends the ranks at these; the default has SIGTERM among them.
    "PET_SIGNALS_TO_HANDLE": "SIGQUIT",
    # How long it leaves the other ranks of one that has died; the default is 30 seconds.
    "PET_SHUTDOWN_TIMEOUT": "5",
}


class Child:
    """The launcher, or the one rank that needs none. Close it, or use it in a `with` block."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, **_LAUNCHER_ENVIRONMENT},
            # Ctrl-C reaches us alone.
            start_new_session=True,
            preexec_fn=_leave_signals_to_the_ranks,  # we have no threads yet
        )
        # Filled in as the ranks say who they are.
        self.rank_pids: set[int] = set()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # The ranks hold the output pipe open, so its end says nothing about the launcher.
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._let_go_after, self._read)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        for thread in self._threads:
            thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def lines(self, tick_seconds: float) -> Iterator[str | None]:
        """Give the output line by line until its end; None after each tick without one."""
        while True:
            try:
                line = self._lines.get(timeout=tick_seconds)
            except queue.Empty:
                yield None
                continue
            if line is None:
                return
            yield line

    def ask_to_stop(self) -> None:
        """Tell the ranks to save and stop after the step that they are at."""
        with contextlib.suppress(OSError, ValueError):  # they have ended meanwhile
            assert self._process.stdin is not None
            self._process.stdin.write(STOP_ORDER)
            self._process.stdin.flush()

    def wait(self) -> int:
        """Give the exit code."""
        return self._process.wait()

    def end(self) -> None:
        """End all of them now, if they have not ended."""
        if self._process.poll() is not None:
            return
        self._let_go()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            for pid in self.rank_pids:
                # A rank that does not even read its input is stuck for good. It leads a session of its own.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if os.getsid(pid) == pid:
                        os.kill(pid, signal.SIGKILL)

    def _let_go(self) -> None:
        """Close the ranks' standard input, which ends them."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _let_go_after(self) -> None:
        self._process.wait()
        self._let_go()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            self._lines.put(raw.decode("utf-8", errors="replace"))
        self._lines.put(None)


class Signals:
    """The signals that ask a run to save and stop, collected while the block runs.

    A second Ctrl-C is an ordinary one: it interrupts at once.
    """

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in _STOP_SIGNALS:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal` gave

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in self.received:
            raise KeyboardInterrupt
        self.received.append(signal.Signals(number))


def _leave_signals_to_the_ranks() -> None:
    for number in _NOT_THE_LAUNCHERS:
        signal.signal(number, signal.SIG_IGN)


def base_environment() -> dict[str, str]:
    """Give this process's environment, with what every rank needs."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
