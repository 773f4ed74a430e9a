"""Who may call: deny by default, on the path that the router sees and nothing else."""

from collections.abc import Set

from starlette.types import Scope

from ochatctl.serve.keys import KeyRing
from ochatctl.serve.protocol import RequestError

PUBLIC_PATHS = frozenset({"/", "/health", "/ready"})
_CHALLENGE = (("WWW-Authenticate", "Bearer"),)


class KeyAuth:
    """Knows a request by its key, unless it asks for a public path. Without keys everybody may call.

    The path is `scope["path"]`: a URL put together from headers can be made to say something else (CVE-2026-48746 in
    vLLM). The name of the key goes into the request's record, the key nowhere.
    """

    def __init__(self, *, keys: KeyRing, public_paths: Set[str] = PUBLIC_PATHS) -> None:
        self._keys = keys
        self._public_paths = public_paths

    def caller(self, scope: Scope) -> str:
        """Give the name of the key that a request carries; empty where it needs none.

        Raises:
            RequestError: 401, it has no key, or a wrong one.
        """
        if self._keys.is_open or scope["path"] in self._public_paths:
            return ""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        key = _key(given[0]) if len(given) == 1 else None
        caller = None if key is None else self._keys.name_of(key)
        if caller is None:
            message = "an API key is needed: `Authorization: Bearer KEY`"
            if given:
                message = "the API key is wrong" if key else f"`Authorization` is not as it must be; {message}"
            raise RequestError(401, message, code="invalid_api_key", headers=_CHALLENGE)
        return caller


def _key(authorization: bytes) -> bytes | None:
    """Give the key of a header, or None where it holds none."""
    scheme, _, key = authorization.partition(b" ")
    return key.strip(b" ") or None if scheme.lower() == b"bearer" else None
