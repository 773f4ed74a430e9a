"""One browser for the whole room, and closed with it: while it is there, no other test could run an event loop."""

from collections.abc import Iterator
from typing import Any

import pytest
from browser_for_tests import chromium


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser
