"""One TCP connection: how large and how slow its heads may be, and how long a client may leave what it is sent.

uvicorn's own limits are h11's, and do nothing under httptools, which it prefers: it took one header of 8 MB.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ochatctl.serve.config import LimitConfig
from ochatctl.serve.protocol import RequestError, error_body

# Told of each request that was refused before it became one: the client's address and the fault.
OnRefused = Callable[[str, RequestError], None]

# uvicorn warns of strangers' garbage too, a line each beside the one that the request log has. Its errors are faults.
_logger = logging.getLogger("uvicorn.error.connection")
_logger.setLevel(logging.ERROR)
_MALFORMED = RequestError(400, "this is not HTTP/1.1", code="invalid_http")


def connection_class(limits: LimitConfig, on_refused: OnRefused) -> type["Connection"]:
    """Give the protocol class that uvicorn makes its connections of."""
    return type("LimitedConnection", (Connection,), {"limits": limits, "on_refused": staticmethod(on_refused)})


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits of its own.

    Guarantees: a head of too many bytes or headers gets 431, a slow one 408, one connection too many 503; each closes.
    A client that does not read what it is sent, or that does not end a closed connection, is cut off.
    """

    limits: LimitConfig
    on_refused: OnRefused

    _refusal: RequestError | None = None
    _is_in_head = True
    # Bytes of the head as they came: a header is shown by the parser only once it is whole.
    _num_raw_bytes = 0
    _num_chunk_bytes = 0
    _num_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self.logger = _logger
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(RequestError(503, "the server has too many connections", code="too_many_connections"))
            return
        self._head_timer = self.loop.call_later(self.limits.header_timeout_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop("_head_timer")
        self._stop("_write_timer")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._num_chunk_bytes = len(data)
        if self._is_in_head:
            self._num_raw_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._num_raw_bytes > self.limits.max_header_bytes and not self.transport.is_closing():
            self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        # Of a later request on this connection, the first bytes may have come with the last of its forerunner.
        self._num_raw_bytes = self._num_chunk_bytes if self.cycle is None else 1
        self._num_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.header_timeout_seconds, self._head_is_late)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))
        if len(self.headers) > self.limits.max_headers:
            self._refusal = self._too_large()
            raise self._refusal

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop("_head_timer")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong in OpenAI's envelope; called by uvicorn where the parser, or a callback, gives up."""
        self._refuse(self._refusal or _MALFORMED)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_timeout_seconds, self._cut_off)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop("_write_timer")

    def shutdown(self) -> None:
        super().shutdown()
        self._linger()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._linger()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._linger()

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > self.limits.max_header_bytes:
            self._refusal = self._too_large()
            raise self._refusal

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._num_raw_bytes:
            seconds = self.limits.header_timeout_seconds
            message = f"the head of the request did not come within {seconds:g} seconds"
            self._refuse(RequestError(408, message, code="request_timeout"))
        else:
            self.transport.close()
            self._linger()

    def _refuse(self, refusal: RequestError) -> None:
        self._stop("_head_timer")
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is on its way: nothing may be written between its parts.
            self.transport.abort()
            return
        body = error_body(refusal)
        self.transport.write(
            STATUS_LINE[refusal.status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
        self._linger()
        self.on_refused(self.client[0] if self.client else "", refusal)

    def _linger(self) -> None:
        """Wait for a client that is to take the rest of what it was sent, and no longer than for any other."""
        if self.transport.is_closing() and self._write_timer is None and self.parser is not None:
            self._write_timer = self.loop.call_later(self.limits.write_timeout_seconds, self._cut_off)

    def _cut_off(self) -> None:
        self._write_timer = None
        self.transport.abort()

    def _stop(self, name: str) -> None:
        timer: Any = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)

    def _too_large(self) -> RequestError:
        return RequestError(
            431,
            f"the head of the request is larger than {self.limits.max_header_bytes} bytes,"
            f" or has more than {self.limits.max_headers} headers",
            code="headers_too_large",
        )
