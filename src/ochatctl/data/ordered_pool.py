"""Work in processes whose results come in the order of the input, so that their number changes nothing but the time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ochatctl.data.workers import Workers
from ochatctl.errors import RunError

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

_WAITING_PER_WORKER = 3


def map_in_order(
    chunks: Iterable[Chunk], make: Callable[..., Callable[[Chunk], Result]], args: tuple[Any, ...], *, num_workers: int
) -> Iterator[tuple[Chunk, Result]]:
    """Give each chunk with what `make(*args)` makes of it; `make` is called once in each process.

    Guarantees: the order is that of the chunks; only a few are in memory at a time; no worker outlives this process,
    however that ends. With one worker everything happens in this process.

    Raises:
        RunError: a worker died, of memory as a rule.
    """
    if num_workers <= 1:
        work = make(*args)
        for chunk in chunks:
            yield chunk, work(chunk)
        return
    pool = Workers(num_workers, _start, (make, *args))
    waiting: deque[tuple[Chunk, Future[Any]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_work, chunk)))
            if len(waiting) > _WAITING_PER_WORKER * num_workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    except BrokenProcessPool as error:
        raise RunError("a worker process died", hint="fewer `--workers` need less memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


# A worker's own function: made once a process.
_function: Callable[[Any], Any] | None = None


def _start(make: Callable[..., Callable[[Any], Any]], *args: Any) -> None:
    global _function
    _function = make(*args)


def _work(chunk: Any) -> Any:
    assert _function is not None
    return _function(chunk)
