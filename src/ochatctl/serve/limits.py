"""How much of a request is taken, and for how long the server listens."""

import asyncio

from starlette.types import Receive, Scope

from ochatctl.serve.protocol import RequestError

_CLOSE = (("Connection", "close"),)


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


async def read_json_body(scope: Scope, receive: Receive, *, max_bytes: int, timeout_seconds: float) -> bytes:
    """Give the body of a JSON request, counted while it comes.

    Raises:
        RequestError: 413 too large, 415 not JSON, 408 too slow.
        ClientGone: the connection was closed meanwhile.
    """
    headers = dict(scope["headers"])
    # A page of another origin may send text or a form without asking first, but not JSON.
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise RequestError(
            415, "the body must be JSON, with `Content-Type: application/json`", code="unsupported_media_type"
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RequestError(
            415, "the body must be sent as it is, without `Content-Encoding`", code="unsupported_media_type"
        )
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _collect(receive, max_bytes)
    except TimeoutError as error:
        raise RequestError(
            408, f"the body did not come within {timeout_seconds:g} seconds", code="request_timeout", headers=_CLOSE
        ) from error


async def _collect(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(413, f"the body is larger than {max_bytes} bytes", code="request_too_large", headers=_CLOSE)
