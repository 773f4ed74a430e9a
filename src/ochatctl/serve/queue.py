"""A bounded queue before an engine, deadlines around its answers, and a watch over its progress.

in: an engine, out: an engine that turns away what it has no room for, ends what takes too long, and dies when stuck
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ochatctl.engine.base import Delta, Engine, SamplingSpec
from ochatctl.errors import RunError
from ochatctl.serve.config import LimitConfig
from ochatctl.serve.protocol import RequestError

_MAX_RETRY_SECONDS = 60
# Weight of the latest answer in the mean that `Retry-After` is reckoned from.
_NEWEST = 0.1


class _Drawing:
    """One answer that the engine is at."""

    __slots__ = ("error", "is_waiting", "task")

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        # Whether the engine is waited for, or the client.
        self.is_waiting = False
        self.error: Exception | None = None

    def end(self, error: Exception) -> None:
        """End the answer with an error: at once, or where the client is waited for, when it has read on."""
        if self.error is None:
            self.error = error
            if self.is_waiting and self.task is not None:
                self.task.cancel()

    def end_late(self, what: str, seconds: float) -> None:
        """End the answer, for it was not there in time."""
        self.end(RequestError(504, f"{what} did not come within {seconds:g} seconds", code="deadline_exceeded"))


class QueuedEngine:
    """Lets `max_running` answers into an engine; the next `max_queue` wait in the order of their coming.

    Guarantees: the slot of an answer is free again when its generator ends, whatever ended it. A token costs no timer.
    """

    def __init__(self, engine: Engine, limits: LimitConfig) -> None:
        self._engine = engine
        self.name = engine.name
        self.context_tokens = engine.context_tokens
        self.unsupported = engine.unsupported
        self._limits = limits
        self._num_inside = 0
        self._queue: dict[asyncio.Future[None], None] = {}
        self._drawings: set[_Drawing] = set()
        # What was there when progress was last looked at, and since when.
        self._seen = (-1, 0.0)
        self._stuck = ""
        self._mean_seconds = 1.0

    @property
    def num_running(self) -> int:
        return self._engine.num_running

    @property
    def num_waiting(self) -> int:
        """Answers that wait for a slot."""
        return len(self._queue)

    @property
    def progress(self) -> int:
        return self._engine.progress

    async def start(self) -> None:
        await self._engine.start()
        self.context_tokens = self._engine.context_tokens

    async def close(self) -> None:
        await self._engine.close()

    async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        """Give the deltas of one answer.

        Raises:
            RequestError: 503 where the queue is full or waiting took too long, 504 where the answer did.
            DataError, RunError: the engine's own.
        """
        self.check_alive()
        await self._enter()
        started = time.monotonic()
        drawing = _Drawing()
        self._drawings.add(drawing)
        loop = asyncio.get_running_loop()
        seconds = self._limits.first_token_timeout_seconds
        timer = loop.call_later(seconds, drawing.end_late, "the first token", seconds)
        try:
            async with aclosing(self._engine.generate(prompt_ids, spec)) as deltas:
                is_first = True
                drawing.is_waiting = True
                async for delta in deltas:
                    drawing.is_waiting = False
                    if is_first:
                        is_first = False
                        timer.cancel()
                        seconds = self._limits.answer_timeout_seconds
                        timer = loop.call_later(seconds, drawing.end_late, "the answer", seconds)
                    yield delta
                    if drawing.error is not None:
                        raise drawing.error
                    drawing.is_waiting = True
        except asyncio.CancelledError:
            if drawing.error is None or drawing.task is None:
                raise
            drawing.task.uncancel()
            raise drawing.error from None
        finally:
            timer.cancel()
            self._drawings.discard(drawing)
            self._mean_seconds += _NEWEST * (time.monotonic() - started - self._mean_seconds)
            self._leave()

    def check_alive(self) -> None:
        """Raise RunError where the engine has died, is closed, or is stuck; all its answers then end with it."""
        try:
            self._engine.check_alive()
            self._check_progress()
        except RunError as error:
            self.end_all(error)
            raise

    def end_all(self, error: Exception) -> None:
        """End every answer, and all that wait, with an error."""
        for drawing in self._drawings:
            drawing.end(error)
        for ticket in self._queue:
            if not ticket.done():
                ticket.set_exception(error)

    async def _enter(self) -> None:
        if self._num_inside < self._limits.max_running:
            self._num_inside += 1
            return
        if len(self._queue) >= self._limits.max_queue:
            raise self._full(f"{len(self._queue)} answers wait already", "queue_full")
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[ticket] = None
        seconds = self._limits.queue_timeout_seconds
        try:
            async with asyncio.timeout(seconds) as timeout:
                await ticket
        except BaseException as error:
            if ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                self._leave()  # the slot was given in the very moment of giving up
            if isinstance(error, TimeoutError) and timeout.expired():
                raise self._full(f"no slot was free within {seconds:g} seconds", "queue_timeout") from error
            raise
        finally:
            del self._queue[ticket]

    def _leave(self) -> None:
        """Hand the slot to the one who has waited longest."""
        for ticket in self._queue:
            if not ticket.done():
                ticket.set_result(None)
                return
        self._num_inside -= 1

    def _full(self, why: str, code: str) -> RequestError:
        rounds = (len(self._queue) + 1) / self._limits.max_running
        seconds = min(_MAX_RETRY_SECONDS, max(1, math.ceil(rounds * self._mean_seconds)))
        return RequestError(503, f"the server is busy: {why}", code=code, headers=(("Retry-After", str(seconds)),))

    def _check_progress(self) -> None:
        if self._stuck:
            raise RunError(self._stuck)
        now = asyncio.get_running_loop().time()
        num_seen, since = self._seen
        progress = self._engine.progress
        if num_seen != progress or not any(drawing.is_waiting for drawing in self._drawings):
            self._seen = (progress, now)
        elif now - since > self._limits.stall_timeout_seconds:
            self._stuck = (
                f"the engine `{self.name}` is stuck: no token in {self._limits.stall_timeout_seconds:g} seconds,"
                " and answers wait"
            )
            raise RunError(self._stuck)
