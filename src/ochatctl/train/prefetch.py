"""Items made ahead of time on a thread: reading and packing go on while the model computes."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
# Enough that a batch that takes long to read does not show, few enough to hold in memory.
_DEPTH = 3
_JOIN_SECONDS = 0.05


class _End:
    """Nothing follows; `error` is why, where it is not the end of the items."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetch(Generic[T]):
    """Gives the items of an iterable in their order. Close it, or use it in a `with` block.

    Units: `stall_seconds` is how long the reader has waited in all.

    Guarantees: what the items raise is raised where they are read; at most `depth` + 1 of them wait; no thread is left
    behind. `on_thread` is called first, on the thread.
    """

    def __init__(
        self, items: Iterable[T], *, depth: int = _DEPTH, on_thread: Callable[[], object] = lambda: None
    ) -> None:
        self._items, self._on_thread = items, on_thread
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._is_closed = threading.Event()
        self._end: _End | None = None
        self.stall_seconds = 0.0
        self._thread = threading.Thread(target=self._make, name="prefetch", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        if self._end is None:
            began = time.perf_counter()
            item = self._queue.get()
            self.stall_seconds += time.perf_counter() - began
            if not isinstance(item, _End):
                return item
            self._end = item
        if self._end.error is not None:
            raise self._end.error
        raise StopIteration

    def close(self) -> None:
        """Forget what was made and not read, and end the thread."""
        self._is_closed.set()
        self._end = self._end or _End(None)
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
            self._thread.join(_JOIN_SECONDS)

    def _make(self) -> None:
        error: BaseException | None = None
        try:
            self._on_thread()
            for item in self._items:
                self._queue.put(item)
                if self._is_closed.is_set():
                    return
        except BaseException as caught:  # noqa: BLE001  # raised again by the reader
            error = caught
        self._queue.put(_End(error))
