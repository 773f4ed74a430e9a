"""How tests wait for what other threads and processes do: for the event, not for a time."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> float:
    """Wait until it holds; give how long that took. The limit is for what never comes, however busy the machine is."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"it did not happen within {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - began
