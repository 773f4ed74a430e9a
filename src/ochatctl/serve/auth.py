"""Who may call: deny by default, on the path that the router sees and nothing else."""

import hashlib
import hmac
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from ochatctl.serve.errors import error_response
from ochatctl.serve.protocol import RequestError

PUBLIC_PATHS = frozenset({"/", "/health", "/ready"})
_CHALLENGE = (("WWW-Authenticate", "Bearer"),)


class KeyAuth:
    """Lets a request through that carries a known key or asks for a public path. Without keys all are let through.

    Keys are held as SHA-256 and compared in constant time, each with every one. The path is `scope["path"]`: a URL put
    together from headers can be made to say something else (CVE-2026-48746 in vLLM).
    """

    def __init__(self, app: ASGIApp, *, api_keys: Collection[str]) -> None:
        self._app = app
        self._digests = tuple(_digest(key.encode()) for key in api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._digests or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if self._known(given):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        message = "the API key is wrong" if given else "an API key is needed: `Authorization: Bearer KEY`"
        await error_response(RequestError(401, message, code="invalid_api_key", headers=_CHALLENGE))(
            scope, receive, send
        )

    def _known(self, given: list[bytes]) -> bool:
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
