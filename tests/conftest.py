"""What several rooms' tests share because it takes a minute to start."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vllm_for_tests import ServedVllm


@pytest.fixture(scope="session")
def served_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator["ServedVllm"]:
    """Serve by vLLM until the session ends. The last test that asks for it, in `serve/test_faults.py`, kills it."""
    # Here, for every run of tests reads this file.
    from vllm_for_tests import serving_vllm

    with serving_vllm(tmp_path_factory.mktemp("adapters")) as served:
        yield served
