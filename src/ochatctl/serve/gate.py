"""The gate: open while the server takes requests, shut while it finishes those that it has."""

from starlette.types import ASGIApp, Receive, Scope, Send

from ochatctl.serve.errors import error_response
from ochatctl.serve.logs import record_of
from ochatctl.serve.protocol import RequestError

# Answered to the end: a probe must be able to tell a server that drains from one that has died.
_ALWAYS = frozenset({"/", "/health", "/metrics"})
_HEADERS = (("Retry-After", "5"), ("Connection", "close"))


class Gate:
    """Whether requests are let in, and how many are inside."""

    def __init__(self) -> None:
        self.is_shut = False
        self.num_inside = 0

    def shut(self) -> None:
        """Let nobody in any more."""
        self.is_shut = True


class Gatekeeper:
    """Counts requests, and tells those that come to a shut gate, `/ready` among them, 503."""

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
        elif self._gate.is_shut:
            record_of(scope).error = "shutting_down"
            refusal = RequestError(503, "the server is shutting down", code="shutting_down", headers=_HEADERS)
            await error_response(refusal)(scope, receive, send)
        else:
            self._gate.num_inside += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._gate.num_inside -= 1
