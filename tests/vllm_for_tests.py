"""vLLM's CPU build on the real model, behind our server in this process: one start, which takes a minute, for all."""

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from adapters_for_tests import save_adapters
from serving_for_tests import Served, serving

from ochatctl.chat.families import Family, get_family, load_family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.extras import has

MODEL = "smollm2"
ADAPTER = "pirate"
FAMILY = "chatml"
T = TypeVar("T")

VLLM_MARKS = [
    pytest.mark.slow,
    # Looked for, not imported: that takes ten seconds, which a run that leaves these tests out would pay too.
    pytest.mark.skipif(not has("vllm"), reason="vLLM is not installed"),
    pytest.mark.skipif("OCHATCTL_TEST_MODEL" not in os.environ, reason="OCHATCTL_TEST_MODEL names no model folder"),
    # vLLM's own imports and processes are not ours to keep free of warnings.
    pytest.mark.filterwarnings("default"),
]


def needs_vllm(test: T) -> T:
    """Mark a test that needs it."""
    for mark in VLLM_MARKS:
        test = mark(test)
    return test


@dataclass(frozen=True, kw_only=True)
class ServedVllm:
    """A server with its engine, on a loop that outlives one test."""

    served: Served
    engine: Any
    family: Family
    tokenizer: Tokenizer

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 300) -> T:
        """Do something on the engine's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.served.loop).result(seconds)


@contextlib.contextmanager
def serving_vllm(folder: Path) -> Iterator[ServedVllm]:
    """Serve SmolLM2, with adapters made on the spot in `folder`."""
    from ochatctl.engine.adapters import find_adapters
    from ochatctl.engine.vllm import VllmEngine

    model_dir = Path(os.environ["OCHATCTL_TEST_MODEL"])
    family, tokenizer = load_family(model_dir, FAMILY)
    save_adapters(model_dir, folder, seed=1)
    # In float32 an answer does not hang on who shares its batch; thirty-two bits of SmolLM2 are half a gigabyte.
    engine = VllmEngine(
        model_dir,
        tokenizer,
        context_tokens=512,
        dtype="float32",
        extra_args={"max_num_seqs": 16, "seed": 0},
        adapters=find_adapters({ADAPTER: str(folder)}, get_family(FAMILY)),
    )
    with serving(
        FAMILY, engine=engine, tokenizer=tokenizer, model_names=(MODEL, ADAPTER), adapters=(ADAPTER,)
    ) as served:
        yield ServedVllm(served=served, engine=engine, family=family, tokenizer=tokenizer)
