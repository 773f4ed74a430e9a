"""Counters for Prometheus. The one home of prometheus-client.

Labels take only values from fixed sets: nothing that a client sends makes a new series.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ochatctl.serve.queue import QueuedEngine
from ochatctl.serve.record import RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


def num_tasks() -> int:
    """Count the tasks of the running event loop."""
    return len(asyncio.all_tasks())


class Lossy(Protocol):
    """What may lose lines: the request log."""

    num_lost: int


class Durations:
    """How many took how long."""

    __slots__ = ("_nums", "_sum_seconds")

    def __init__(self) -> None:
        self._nums = [0] * (len(_SECONDS) + 1)
        self._sum_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self._nums[bisect_left(_SECONDS, seconds)] += 1
        self._sum_seconds += seconds

    def shown(self, name: str, text: str) -> Metric:
        """Give a histogram."""
        bounds = (*map(str, _SECONDS), "+Inf")
        buckets = list(zip(bounds, accumulate(self._nums), strict=True))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self._sum_seconds)


class Metrics(Collector):
    """The counters of one application: plain numbers of the event loop's, put into Prometheus's form when it asks.

    Its own counters, each with a lock, cost a request 3 us instead of 0.6.
    """

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._num_prompt_tokens = 0
        self._num_answer_tokens = 0
        self._num_running = 0
        self._whole = Durations()
        self._first_token = Durations()
        self._watched: tuple[QueuedEngine, Lossy] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def watch(self, queued: QueuedEngine, log: Lossy) -> None:
        """Show how many answers run and wait, and how many lines of the request log are lost."""
        self._watched = queued, log

    def refuse(self, status: int) -> None:
        """Count what was refused before it became a request."""
        self._requests["other", status] += 1

    def begin(self) -> None:
        """Count a request that has come in."""
        self._num_running += 1

    def end(self, record: RequestRecord, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self._num_running -= 1
        self._requests[record.endpoint, status] += 1
        self._whole.add(seconds)
        self._num_prompt_tokens += record.num_prompt_tokens
        self._num_answer_tokens += record.num_answer_tokens
        if record.first_token_seconds is not None:
            self._first_token.add(record.first_token_seconds)

    def render(self) -> bytes:
        """Give all counters in Prometheus's text form."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Give what there is to count; called by Prometheus's registry."""
        requests = CounterMetricFamily(
            "ochatctl_requests", "Requests that were answered or aborted.", labels=["endpoint", "status"]
        )
        for (endpoint, status), num in self._requests.items():
            requests.add_metric([endpoint, str(status)], num)
        yield requests
        yield CounterMetricFamily("ochatctl_prompt_tokens", "Tokens of prompts.", self._num_prompt_tokens)
        yield CounterMetricFamily("ochatctl_answer_tokens", "Tokens drawn.", self._num_answer_tokens)
        yield GaugeMetricFamily("ochatctl_requests_running", "Requests under way.", self._num_running)
        yield self._whole.shown("ochatctl_request_seconds", "Time to the end of a request.")
        yield self._first_token.shown("ochatctl_first_token_seconds", "Time to the first token.")
        if self._watched is not None:
            queued, log = self._watched
            yield GaugeMetricFamily("ochatctl_answers_running", "Answers that the engine is at.", queued.num_running)
            yield GaugeMetricFamily("ochatctl_answers_waiting", "Answers that wait for a slot.", queued.num_waiting)
            yield GaugeMetricFamily("ochatctl_event_loop_tasks", "Tasks of the event loop.", num_tasks())
            yield GaugeMetricFamily("ochatctl_log_lines_lost", "Request log lines that found no room.", log.num_lost)
