"""How many requests run at once: up to what was asked, fewer while the endpoint says that they are too many."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

# Answers of one moment that say "too many" are one event.
_SAME_EVENT_SECONDS = 1.0


class Pace:
    """Additive increase, multiplicative decrease, as TCP does it: half as many after a 429, one more a round after it.

    Guarantees: never more than `most` at once, never fewer than one; after a 429 nothing new is sent for as long as
    the endpoint asked.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._room = float(most)
        self._running = 0
        self._quiet_until = 0.0
        self._cut_at = float("-inf")
        self._freed = asyncio.Condition()
        self.num_cuts = 0

    @property
    def room(self) -> int:
        """How many may run at once now."""
        return max(1, int(self._room))

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold one of the places; waits until one is free."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._running < self.room)
            self._running += 1
        try:
            while (wait_seconds := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(wait_seconds)
            yield
        finally:
            async with self._freed:
                self._running -= 1
                self._freed.notify_all()

    def busy(self, wait_seconds: float) -> None:
        """Hear that the endpoint was asked too much, and for how long it wants to be left alone."""
        now = time.monotonic()
        self._quiet_until = max(self._quiet_until, now + wait_seconds)
        if now - self._cut_at >= _SAME_EVENT_SECONDS:
            self._cut_at = now
            self._room = max(1.0, self._room / 2)
            self.num_cuts += 1

    def good(self) -> None:
        """Hear of an answer."""
        self._room = min(self._most, self._room + 1 / self._room)
