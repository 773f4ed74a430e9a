"""The gate: open while the server takes requests, shut while it finishes those that it has."""

from ochatctl.serve.protocol import RequestError

# Answered to the end: a probe must be able to tell a server that drains from one that has died.
_ALWAYS = frozenset({"/", "/health", "/metrics"})
_HEADERS = (("Retry-After", "5"), ("Connection", "close"))


class Gate:
    """Whether requests are let in, `/ready` among them, and how many are inside that are to be waited for."""

    def __init__(self) -> None:
        self.is_shut = False
        self.num_inside = 0

    def shut(self) -> None:
        """Let nobody in any more."""
        self.is_shut = True

    def enter(self, path: str) -> None:
        """Let a request in, which is to leave.

        Raises:
            RequestError: 503, the gate is shut.
        """
        if path in _ALWAYS:
            return
        if self.is_shut:
            raise RequestError(503, "the server is shutting down", code="shutting_down", headers=_HEADERS)
        self.num_inside += 1

    def leave(self, path: str) -> None:
        """Note that a request is over."""
        if path not in _ALWAYS:
            self.num_inside -= 1
