"""One browser for the whole room."""

from collections.abc import Iterator
from typing import Any

import pytest
from browser_for_tests import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser
