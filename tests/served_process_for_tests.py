"""`ochatctl serve` as a process of its own, for tests that talk to it as a user's program does."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

OCHATCTL = (sys.executable, "-m", "ochatctl")


@contextlib.contextmanager
def served(*flags: str) -> Iterator[str]:
    """Serve at a free port until the block ends; give the address as the server says it."""
    server = subprocess.Popen([*OCHATCTL, "serve", "--port", "0", *flags], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if match := re.search(r"http://(localhost|127\.0\.0\.1):\d+/v1", line):
                yield match[0]
                break
        else:
            pytest.fail("".join(lines))
    finally:
        server.terminate()
        server.communicate(timeout=30)
