"""Who may call: deny by default, on the path that the router sees and nothing else."""

from collections.abc import Set

from starlette.types import ASGIApp, Receive, Scope, Send

from ochatctl.serve.errors import error_response
from ochatctl.serve.keys import KeyRing
from ochatctl.serve.logs import record_of
from ochatctl.serve.protocol import RequestError

PUBLIC_PATHS = frozenset({"/", "/health", "/ready"})
_CHALLENGE = (("WWW-Authenticate", "Bearer"),)


class KeyAuth:
    """Lets a request through that carries a known key or asks for a public path. Without keys all are let through.

    The path is `scope["path"]`: a URL put together from headers can be made to say something else (CVE-2026-48746 in
    vLLM). The name of the key goes into the request's record, the key nowhere.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, public_paths: Set[str] = PUBLIC_PATHS) -> None:
        self._app = app
        self._keys = keys
        self._public_paths = public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._keys.is_open or scope["path"] in self._public_paths:
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        caller = self._caller(given)
        if caller is not None:
            record_of(scope).key = caller
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        message = "an API key is needed: `Authorization: Bearer KEY`"
        if given:
            is_bearer = len(given) == 1 and _key(given[0]) is not None
            message = "the API key is wrong" if is_bearer else f"`Authorization` is not as it must be; {message}"
        record_of(scope).error = "invalid_api_key"
        await error_response(RequestError(401, message, code="invalid_api_key", headers=_CHALLENGE))(
            scope, receive, send
        )

    def _caller(self, given: list[bytes]) -> str | None:
        key = _key(given[0]) if len(given) == 1 else None
        return None if key is None else self._keys.name_of(key)


def _key(authorization: bytes) -> bytes | None:
    """Give the key of a header, or None where it holds none."""
    scheme, _, key = authorization.partition(b" ")
    return key.strip(b" ") or None if scheme.lower() == b"bearer" else None
