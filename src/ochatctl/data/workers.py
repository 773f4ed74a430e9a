"""Worker processes that end with this one, and leave Ctrl-C to it."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Workers(concurrent.futures.ProcessPoolExecutor):
    """A pool in which each process calls `start(*args)` before its first work.

    Guarantees: no worker outlives this process, however that ends; Ctrl-C, which a terminal sends to them all, is
    answered here alone.
    """

    def __init__(self, num_workers: int, start: Callable[..., None], args: tuple[Any, ...]) -> None:
        # Spawned, not forked: a fork of a process with threads may hang, and Windows and macOS have none.
        super().__init__(
            num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(start, args)
        )

    def submit(self, function: Any, /, *args: Any, **options: Any) -> concurrent.futures.Future[Any]:
        """Schedule a call; this is where processes are started."""
        with _blocked_ctrl_c():
            return super().submit(function, *args, **options)


@contextlib.contextmanager
def _blocked_ctrl_c() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: what is started meanwhile never hears it, not even while it imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(start: Callable[..., None], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*args)


def _end_with_parent() -> None:
    # A worker holds both ends of the queue that it reads, so that it would wait for a killed parent for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
