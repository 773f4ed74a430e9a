"""Counters for Prometheus. The one home of prometheus-client.

Labels take only values from fixed sets: nothing that a client sends makes a new series.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


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
        self._prompt_tokens = Counter("ochatctl_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self._answer_tokens = Counter("ochatctl_answer_tokens", "Tokens drawn.", registry=self._registry)
        self._running = Gauge("ochatctl_requests_running", "Requests under way.", registry=self._registry)
        self._seconds = Histogram(
            "ochatctl_request_seconds", "Time to the end of a request.", buckets=_SECONDS, registry=self._registry
        )
        self._first_token = Histogram(
            "ochatctl_first_token_seconds", "Time to the first token.", buckets=_SECONDS, registry=self._registry
        )

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
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.observe(seconds)
        self._prompt_tokens.inc(num_prompt_tokens)
        self._answer_tokens.inc(num_answer_tokens)
        if first_token_seconds is not None:
            self._first_token.observe(first_token_seconds)

    def render(self) -> bytes:
        """Give all counters in Prometheus's text form."""
        return generate_latest(self._registry)
