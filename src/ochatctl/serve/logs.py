"""One JSON line a request, written by a thread of its own: what was asked and how it ended, never a key or a text."""

import asyncio
import contextlib
import functools
import logging.handlers
import os
import queue
import re
import sys
import threading
import time
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ochatctl.errors import EnvironmentProblem
from ochatctl.serve.config import LogConfig
from ochatctl.serve.errors import error_response
from ochatctl.serve.ids import new_id
from ochatctl.serve.metrics import Metrics
from ochatctl.serve.protocol import LogLine, RequestError, encode_lines
from ochatctl.serve.record import RequestRecord

_SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_MAX_WAITING = 10_000
# Lines that share a write.
_MAX_GATHERED = 1000
_GATHER_SECONDS = 0.05
_ABORTED = 499
_ENDPOINTS = frozenset({
    "/", "/health", "/ready", "/version", "/metrics", "/openapi.json", "/v1/models", "/v1/chat/completions",
    "/v1/completions", "/tokenize", "/detokenize",
})  # fmt: skip


def check_log(config: LogConfig) -> None:
    """Stop before a model is loaded where the log cannot be written.

    Raises:
        EnvironmentProblem: its file cannot be made, or opened.
    """
    if config.file:
        _open(config).close()


class RequestLog:
    """Writes request lines without holding up the event loop; lines that find the queue full are counted and lost.

    The thread turns a line into text, and writes it with those that have come meanwhile: one by one, they cost a
    request 22 us instead of 3, more than its key, its limits and its counters together.
    """

    def __init__(self, config: LogConfig) -> None:
        # None is no line, and wakes the thread.
        self._queue: queue.SimpleQueue[LogLine | None] = queue.SimpleQueue()
        self._is_closing = threading.Event()
        self._stderr: TextIO | None = None if config.quiet else sys.stderr
        self._file = _open(config) if config.file else None
        self._is_moved = False
        self.num_lost = 0
        self.level = config.level
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    @property
    def is_on(self) -> bool:
        """Whether lines go anywhere."""
        return self._stderr is not None or self._file is not None

    def write(self, line: LogLine) -> None:
        """Put a line on its way; it is the log's from then on."""
        if not self.is_on:
            return
        if self._queue.qsize() < _MAX_WAITING:
            self._queue.put(line)
        else:
            self.num_lost += 1

    def reopen(self) -> None:
        """Go on in a file of the same name: somebody has moved the old one."""
        self._is_moved = True
        self._queue.put(None)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._is_closing.set()
        self._queue.put(None)
        self._thread.join(timeout=5)
        if self._file is not None:
            self._file.close()

    def _run(self) -> None:
        while not self._is_closing.is_set() or not self._queue.empty():
            lines = self._gather()
            if self._is_moved:
                self._is_moved = False
                if self._file is not None:
                    self._file.reopen()
            self._write_all(encode_lines([line for line in lines if line is not None]))
            if len(lines) < _MAX_GATHERED:
                self._is_closing.wait(_GATHER_SECONDS)

    def _gather(self) -> list[LogLine | None]:
        """Wait for a line, and give it with those behind it."""
        get = self._queue.get
        # Nobody else takes from it, so that as many are there.
        return [get(), *(get() for _ in range(min(self._queue.qsize(), _MAX_GATHERED - 1)))]

    def _write_all(self, text: str) -> None:
        if self._stderr is not None:
            with contextlib.suppress(OSError):  # the other end of a pipe may be gone; the file goes on
                self._stderr.write(text)
                self._stderr.flush()
        if self._file is not None:
            self._file.write_all(text)


class RequestLogging:
    """Gives each request an id and a record, and writes and counts it when it is over."""

    def __init__(self, app: ASGIApp, *, log: RequestLog, metrics: Metrics) -> None:
        self._app = app
        self._log = log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        record = RequestRecord(request_id=_request_id(scope), endpoint=_endpoint(path))
        if self._log.level == "text":
            record.answers = {}
        scope["ochatctl.record"] = record
        header = (b"x-request-id", record.request_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        self._metrics.begin()
        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server is told to end at once. uvicorn would print this as a fault of ours.
            record.aborted = True
            if not record.status:
                ending = RequestError(503, "the server is shutting down", code="shutting_down")
                await error_response(ending)(scope, receive, send_with_id)
        finally:
            self._end(record, scope)

    def _end(self, record: RequestRecord, scope: Scope) -> None:
        seconds = time.monotonic() - record.started
        # Without a status an exception is on its way to the outermost layer, which answers 500.
        status = _ABORTED if record.aborted else record.status or 500
        self._metrics.end(record, status, seconds)
        if not self._log.is_on:
            return
        client = scope.get("client")
        line = LogLine(
            time=_now(),
            request_id=record.request_id,
            client=client[0] if client else None,
            method=scope["method"],
            endpoint=record.endpoint,
            status=status,
            seconds=round(seconds, 4),
        )
        if record.key:
            line.key = record.key
        if record.num_prompt_tokens:
            first = record.first_token_seconds
            line.stream = record.stream
            line.prompt_tokens = record.num_prompt_tokens
            line.answer_tokens = record.num_answer_tokens
            line.finish_reasons = record.finish_reasons
            line.first_token_seconds = None if first is None else round(first, 4)
        if record.request is not None and self._log.level != "metadata":
            line.params = _asked(record.request, with_text=self._log.level == "text")
        if record.answers:
            line.answers = ["".join(texts) for _, texts in sorted(record.answers.items())]
        if record.error:
            line.error = record.error
        if record.warning:
            line.warning = record.warning
        self._log.write(line)


def write_refused(log: RequestLog, metrics: Metrics, client: str, error: RequestError) -> None:
    """Log and count what was refused before it became a request."""
    metrics.refuse(error.status)
    log.write(LogLine(time=_now(), client=client, status=error.status, error=error.code or ""))


def _endpoint(path: str) -> str:
    """Give one of a few names, so that a stranger's paths fill neither a counter nor a log."""
    if path.startswith("/assets/"):
        return "/assets"
    return path if path in _ENDPOINTS else "other"


def _now() -> str:
    return _in_words(int(time.time()))


@functools.lru_cache(maxsize=1)
def _in_words(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def _asked(request: Any, *, with_text: bool) -> dict[str, Any]:
    """Give what a request sets: its numbers and switches, or all of it."""
    values = {name: getattr(request, name, None) for name in request.__struct_fields__}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (bool, int, float)) or (with_text and value is not None)
    }


class _PrivateRotatingFile(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner can read."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding="utf-8", opener=_open_private)

    def write_all(self, text: str) -> None:
        """Write lines, at once where the file has room for them, and each with a file of its own to turn to if not."""
        if self.stream is not None and self.stream.tell() + len(text) < self.maxBytes:
            with contextlib.suppress(OSError):  # serving goes on where the disk is full
                self.stream.write(text)
                self.stream.flush()
            return
        for line in text.splitlines():
            self.emit(logging.makeLogRecord({"msg": "%s", "args": (line,)}))

    def reopen(self) -> None:
        """Open the file by its name; where that fails, each line tries again."""
        self.close()
        with contextlib.suppress(OSError):
            self.stream = self._open()

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on serving where the disk is full."""


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _open(config: LogConfig) -> _PrivateRotatingFile:
    try:
        return _PrivateRotatingFile(config.file or "", maxBytes=config.max_mb * 1_000_000, backupCount=config.max_count)
    except OSError as error:
        raise EnvironmentProblem(
            f"the log file `{config.file}` cannot be written: {error.strerror}", hint="give another `--log-file`"
        ) from error


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            return str(value, "ascii")
    return new_id("req")
