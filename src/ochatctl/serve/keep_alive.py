"""Comments in silent event streams, so that no proxy on the way takes them for dead."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STREAM = b"text/event-stream"
COMMENT = b": keep-alive\n\n"


class KeepAlive:
    """Sends a comment into each event stream that would be silent for `seconds`. One timer a stream, none an event."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        stream = _Stream(send, self._seconds)
        try:
            await self._app(scope, receive, stream.send)
        finally:
            stream.stop()


class _Stream:
    """One response, on its way through."""

    __slots__ = ("_comment", "_is_sending", "_num_seen", "_num_sent", "_seconds", "_send", "_timer")

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._num_sent = self._num_seen = 0
        # Nothing more is sent to a client that has yet to read.
        self._is_sending = False
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        self._num_sent += 1
        if message["type"] == "http.response.start":
            if any(name == b"content-type" and value.startswith(_STREAM) for name, value in message["headers"]):
                self._arm()
        elif not message.get("more_body"):
            self.stop()
        self._is_sending = True
        await self._send(message)
        self._is_sending = False

    def stop(self) -> None:
        """Send no comment any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._comment is not None:
            self._comment.cancel()

    def _arm(self) -> None:
        # Twice in the time, for silence may begin just after a look.
        self._timer = asyncio.get_running_loop().call_later(self._seconds / 2, self._look)

    def _look(self) -> None:
        is_free = not self._is_sending and (self._comment is None or self._comment.done())
        if is_free and self._num_seen == self._num_sent:
            self._comment = asyncio.create_task(self._say())
        self._num_seen = self._num_sent
        self._arm()

    async def _say(self) -> None:
        await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
