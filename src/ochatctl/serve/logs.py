"""One JSON line a request, written by a thread of its own: what was asked and how it ended, never a key or a text."""

import asyncio
import contextlib
import functools
import json
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
from ochatctl.serve.protocol import RequestError, encode
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

    The thread makes a line of its table, and writes it with those that have come meanwhile: one by one, they cost a
    request 22 us instead of 5, more than its key, its limits and its counters together.
    """

    def __init__(self, config: LogConfig) -> None:
        # An empty table is no line, and wakes the thread.
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
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

    def write(self, table: dict[str, Any]) -> None:
        """Put a line on its way; the table is the log's from then on."""
        if not self.is_on:
            return
        if self._queue.qsize() < _MAX_WAITING:
            self._queue.put(table)
        else:
            self.num_lost += 1

    def reopen(self) -> None:
        """Go on in a file of the same name: somebody has moved the old one."""
        self._is_moved = True
        self._queue.put({})

    def close(self) -> None:
        """Write what waits, and stop."""
        self._is_closing.set()
        self._queue.put({})
        self._thread.join(timeout=5)
        if self._file is not None:
            self._file.close()

    def _run(self) -> None:
        while not self._is_closing.is_set() or not self._queue.empty():
            tables = self._gather()
            if self._is_moved:
                self._is_moved = False
                if self._file is not None:
                    self._file.reopen()
            self._write_all([_line(table) for table in tables if table])
            if len(tables) < _MAX_GATHERED:
                self._is_closing.wait(_GATHER_SECONDS)

    def _gather(self) -> list[dict[str, Any]]:
        """Wait for a line, and give it with those behind it."""
        out = [self._queue.get()]
        while len(out) < _MAX_GATHERED and not self._queue.empty():
            out.append(self._queue.get())
        return out

    def _write_all(self, lines: list[str]) -> None:
        if self._stderr is not None:
            with contextlib.suppress(OSError):  # the other end of a pipe may be gone; the file goes on
                self._stderr.write("".join(lines))
                self._stderr.flush()
        if self._file is not None:
            self._file.write_all(lines)


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
        self._metrics.end(
            endpoint=record.endpoint,
            status=status,
            seconds=seconds,
            first_token_seconds=record.first_token_seconds,
            num_prompt_tokens=record.num_prompt_tokens,
            num_answer_tokens=record.num_answer_tokens,
        )
        if not self._log.is_on:
            return
        client = scope.get("client")
        table = {
            "time": _now(),
            "request_id": record.request_id,
            "client": client[0] if client else None,
            **({"key": record.key} if record.key else {}),
            "method": scope["method"],
            "endpoint": record.endpoint,
            "status": status,
            "seconds": round(seconds, 4),
        }
        if record.num_prompt_tokens:
            first = record.first_token_seconds
            table |= {
                "stream": record.stream,
                "prompt_tokens": record.num_prompt_tokens,
                "answer_tokens": record.num_answer_tokens,
                "finish_reasons": record.finish_reasons,
                "first_token_seconds": None if first is None else round(first, 4),
            }
        if record.request is not None and self._log.level != "metadata":
            table["params"] = _asked(record.request, with_text=self._log.level == "text")
        if record.answers:
            table["answers"] = ["".join(texts) for _, texts in sorted(record.answers.items())]
        if record.error:
            table["error"] = record.error
        if record.warning:
            table["warning"] = record.warning
        self._log.write(table)


def write_refused(log: RequestLog, metrics: Metrics, client: str, error: RequestError) -> None:
    """Log and count what was refused before it became a request."""
    metrics.refuse(error.status)
    log.write({"time": _now(), "client": client, "endpoint": "other", "status": error.status, "error": error.code})


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


def _line(table: dict[str, Any]) -> str:
    """Give a line of ASCII: nothing can break it, or reach a terminal as a control sequence."""
    try:
        line = encode(table)
        if line.isascii():
            return line.decode() + "\n"
    except UnicodeEncodeError:
        pass  # half of a character that UTF-16 writes in two: below, it is escaped
    return json.dumps(table, default=lambda struct: json.loads(encode(struct))) + "\n"


class _PrivateRotatingFile(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner can read."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding="utf-8", opener=_open_private)

    def write_all(self, lines: list[str]) -> None:
        """Write lines, at once where the file has room for them, and each with a file of its own to turn to if not."""
        text = "".join(lines)
        if self.stream is not None and self.stream.tell() + len(text) < self.maxBytes:
            with contextlib.suppress(OSError):  # serving goes on where the disk is full
                self.stream.write(text)
                self.stream.flush()
            return
        for line in lines:
            self.emit(logging.makeLogRecord({"msg": "%s", "args": (line.removesuffix("\n"),)}))

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
