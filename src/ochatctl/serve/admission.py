"""Who is let in: the gate, the key and the quota are asked in turn, before anything of a body is read."""

from starlette.types import ASGIApp, Receive, Scope, Send

from ochatctl.serve.auth import KeyAuth
from ochatctl.serve.errors import error_response
from ochatctl.serve.gate import Gate
from ochatctl.serve.protocol import RequestError
from ochatctl.serve.quota import Quota
from ochatctl.serve.record import record_of


class Admission:
    """Lets a request through that all three let through; a refusal is said here, once for all of them.

    One layer and not three: each step of an answer, a token of a stream too, passes through all layers there are.
    """

    def __init__(self, app: ASGIApp, *, gate: Gate, auth: KeyAuth, quota: Quota) -> None:
        self._app = app
        self._gate = gate
        self._auth = auth
        self._quota = quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        record = record_of(scope)
        try:
            self._gate.enter(scope["path"])
            try:
                record.key = self._auth.caller(scope)
                account = self._quota.enter(scope["method"], record)
                try:
                    await self._app(scope, receive, send)
                finally:
                    self._quota.leave(account)
            finally:
                self._gate.leave(scope["path"])
        except RequestError as refusal:
            # Only of the three: what is wrong further in is an answer by the time that it is here.
            record.error = refusal.code or ""
            await error_response(refusal)(scope, receive, send)
