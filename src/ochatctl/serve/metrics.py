"""Counters for Prometheus. The one home of prometheus-client.

Labels take only values from fixed sets: nothing that a client sends makes a new series.
"""

import asyncio
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ochatctl.serve.queue import QueuedEngine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def num_tasks() -> int:
    """Count the tasks of the running event loop."""
    return len(asyncio.all_tasks())


class Lossy(Protocol):
    """What may lose lines: the request log."""

    num_lost: int


class Metrics:
    """The counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ochatctl_requests",
            "Requests that were answered or aborted.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._series: dict[tuple[str, int], Counter] = {}
        self._prompt_tokens = Counter("ochatctl_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self._answer_tokens = Counter("ochatctl_answer_tokens", "Tokens drawn.", registry=self._registry)
        self._running = Gauge("ochatctl_requests_running", "Requests under way.", registry=self._registry)
        self._seconds = Histogram(
            "ochatctl_request_seconds", "Time to the end of a request.", buckets=_SECONDS, registry=self._registry
        )
        self._first_token = Histogram(
            "ochatctl_first_token_seconds", "Time to the first token.", buckets=_SECONDS, registry=self._registry
        )

    def watch(self, queued: QueuedEngine, log: Lossy) -> None:
        """Show how many answers run and wait, and how many lines of the request log are lost."""
        for name, text, read in (
            ("ochatctl_answers_running", "Answers that the engine is at.", lambda: queued.num_running),
            ("ochatctl_answers_waiting", "Answers that wait for a slot.", lambda: queued.num_waiting),
            ("ochatctl_event_loop_tasks", "Tasks of the event loop.", num_tasks),
            ("ochatctl_log_lines_lost", "Request log lines that found no room.", lambda: log.num_lost),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def refuse(self, status: int) -> None:
        """Count what was refused before it became a request."""
        self._count("other", status)

    def begin(self) -> None:
        """Count a request that has come in."""
        self._running.inc()

    def end(
        self,
        *,
        endpoint: str,
        status: int,
        seconds: float,
        first_token_seconds: float | None,
        num_prompt_tokens: int,
        num_answer_tokens: int,
    ) -> None:
        """Count a request that is over."""
        self._running.dec()
        self._count(endpoint, status)
        self._seconds.observe(seconds)
        self._prompt_tokens.inc(num_prompt_tokens)
        self._answer_tokens.inc(num_answer_tokens)
        if first_token_seconds is not None:
            self._first_token.observe(first_token_seconds)

    def _count(self, endpoint: str, status: int) -> None:
        # Looking a series up costs three times what counting does.
        series = self._series.get((endpoint, status))
        if series is None:
            series = self._series[endpoint, status] = self._requests.labels(endpoint, str(status))
        series.inc()

    def render(self) -> bytes:
        """Give all counters in Prometheus's text form."""
        return generate_latest(self._registry)
