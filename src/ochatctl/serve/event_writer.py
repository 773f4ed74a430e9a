"""Events -> a response's body: what is written when.

in: the events of one stream as they come, out: ASGI messages
"""

import asyncio

from starlette.types import Send

COMMENT = b": keep-alive\n\n"
# A write costs more than the events in it, most of it the system's call: 20 us, against 8 us. So all streams together
# are written to this often and no more, which is a fifth of a core. A stream of 40 tokens a second has each of them at
# once as long as there are not more than 250 such streams.
_WRITES_A_SECOND = 10_000
_MAX_PAUSE_SECONDS = 0.05


class Pace:
    """How often a stream is written to, shared by all streams: the more there are, the more events share a write."""

    __slots__ = ("num_streams",)

    def __init__(self) -> None:
        self.num_streams = 0

    @property
    def pause_seconds(self) -> float:
        """How long a stream's events wait after its last write."""
        return min(self.num_streams / _WRITES_A_SECOND, _MAX_PAUSE_SECONDS)


class EventWriter:
    """Sends the events of one stream, each at once unless the last write was just before it.

    Guarantees: events go out in their order; the first at once, and none waits longer than twice the pace's pause, the
    last not at all. A client that does not read holds up `write`. A stream that is silent for `keep_alive_seconds`
    gets a comment, so that no proxy on the way takes it for dead. No timer a token. `stop` must be called.
    """

    __slots__ = (
        "_due", "_is_sending", "_keep_alive_seconds", "_late_timer", "_loop", "_num_seen", "_num_sent", "_pace",
        "_send", "_silence_timer", "_waiting", "_writing",
    )  # fmt: skip

    def __init__(self, send: Send, pace: Pace, *, keep_alive_seconds: float) -> None:
        self._send = send
        self._pace = pace
        pace.num_streams += 1
        self._loop = asyncio.get_running_loop()
        self._keep_alive_seconds = keep_alive_seconds
        self._waiting: list[bytes] = []
        # From when on the next event is written at once.
        self._due = 0.0
        self._is_sending = False
        # Writes what no later event has taken along.
        self._late_timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._num_seen = self._num_sent = 0
        self._silence_timer = self._look_later()

    async def write(self, events: bytes) -> None:
        """Send events, now or with those that come next."""
        if not events:
            return
        self._waiting.append(events)
        if self._writing is not None:
            await self._writing
        if self._loop.time() >= self._due:
            await self._flush()
        elif self._late_timer is None:
            self._late_timer = self._loop.call_later(2 * self._pace.pause_seconds, self._on_late)

    async def end(self, events: bytes) -> None:
        """Send the last events, with all that waits, and end the body."""
        if self._writing is not None:
            await self._writing
        self._stop_timers()
        self._waiting.append(events)
        await self._send({"type": "http.response.body", "body": b"".join(self._waiting)})

    def stop(self) -> None:
        """Write nothing more: the stream is over, or its client gone. Called once."""
        self._pace.num_streams -= 1
        self._stop_timers()
        if self._writing is not None:
            self._writing.cancel()

    def _stop_timers(self) -> None:
        self._silence_timer.cancel()
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None

    async def _flush(self) -> None:
        if not self._waiting:
            return
        events = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        self._due = self._loop.time() + self._pace.pause_seconds
        self._num_sent += 1
        self._is_sending = True
        await self._send({"type": "http.response.body", "body": events, "more_body": True})
        self._is_sending = False

    def _on_late(self) -> None:
        self._late_timer = None
        if self._waiting and not self._is_sending:
            left = self._due - self._loop.time()
            if left > 0:  # the stream has written meanwhile, and then there came more
                self._late_timer = self._loop.call_later(left, self._on_late)
            else:
                self._write_soon()

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = self._loop.create_task(self._flush())
            self._writing.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing = None

    def _look_later(self) -> asyncio.TimerHandle:
        # Twice in the time, for silence may begin just after a look.
        return self._loop.call_later(self._keep_alive_seconds / 2, self._look)

    def _look(self) -> None:
        # Nothing more is sent to a client that has yet to read.
        if self._num_seen == self._num_sent and not self._is_sending and not self._waiting:
            self._waiting.append(COMMENT)
            self._write_soon()
        self._num_seen = self._num_sent
        self._silence_timer = self._look_later()
