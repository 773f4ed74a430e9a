"""An engine that goes on when it is told to, so that no test has to be quicker than an answer."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from ochatctl.engine.base import Delta, Engine, SamplingSpec


class GatedEngine:
    """Another engine's answers, each of which has its `n`th delta only once `may_have(n)`."""

    def __init__(self, engine: Engine, may_have: Callable[[int], bool]) -> None:
        self._engine = engine
        self._may_have = may_have

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        number = 0
        async with aclosing(self._engine.generate(prompt_ids, spec)) as deltas:
            async for delta in deltas:
                number += 1
                while not self._may_have(number):
                    await asyncio.sleep(0.005)
                    self._engine.check_alive()
                yield delta
