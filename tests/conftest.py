"""What several rooms' tests share."""

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vllm_for_tests import ServedVllm


def pytest_configure() -> None:
    # A shell that runs the tests in the background has Ctrl-C ignored, and what they start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def served_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator["ServedVllm"]:
    """Serve by vLLM until the session ends, for it takes a minute to start.

    The last test that asks for it, in `serve/test_faults.py`, kills it.
    """
    # Here, for every run of tests reads this file.
    from vllm_for_tests import serving_vllm

    with serving_vllm(tmp_path_factory.mktemp("adapters")) as served:
        yield served
