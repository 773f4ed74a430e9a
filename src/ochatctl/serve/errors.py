"""The one function that says a fault over HTTP, in OpenAI's envelope; and what each of our errors is as a status."""

import asyncio
import contextlib

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ochatctl.errors import DataError, OchatError
from ochatctl.serve.protocol import RequestError, error_body

_CODES = {404: "not_found", 405: "method_not_allowed"}
_MESSAGES = {404: "there is nothing at this address", 405: "this address does not take this method"}
# What is still taken of a body that nobody reads, so that its sender hears why.
_LINGER_SECONDS = 5.0
_LINGER_BYTES = 64_000_000


def error_response(error: RequestError) -> Response:
    """Give a fault as a response."""
    closes = ("Connection", "close") in error.headers
    kind = LastResponse if closes else Response
    return kind(error_body(error), status_code=error.status, media_type="application/json", headers=dict(error.headers))


class LastResponse(Response):
    """A response after which the connection is closed, though the client may still be sending.

    The rest of the body is thrown away first, within bounds: closing a socket with unread bytes resets the connection,
    and the client, or a gateway, then sees a broken pipe instead of the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_linger(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({**message, "more_body": True})
            await _discard(receive)
            await send({"type": "http.response.body"})

        await super().__call__(scope, receive, send_and_linger)


async def _discard(receive: Receive) -> None:
    num_bytes = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while num_bytes <= _LINGER_BYTES:
                message = await receive()
                num_bytes += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def as_request_error(error: Exception) -> RequestError:
    """Give what a client is told of an exception: of a bug of ours nothing but that there is one."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):
        code = error.status_code
        message = _MESSAGES.get(code, error.detail)
        return RequestError(code, message, code=_CODES.get(code), headers=tuple((error.headers or {}).items()))
    if isinstance(error, DataError):
        return RequestError(400, error.message, code="invalid_value")
    if isinstance(error, OchatError):
        return RequestError(503, "the engine cannot answer now", code="engine_unavailable")
    return RequestError(500, "the server failed; its log says more", code="internal_error")
