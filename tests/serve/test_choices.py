"""Several answers at once: all of each, no more in waiting than there is room for, and no fault that goes unheard."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest
from serving_for_tests import byte_tokenizer
from virtual_time_for_tests import run

from ochatctl.chat.families import get_family
from ochatctl.engine.base import SamplingSpec
from ochatctl.engine.echo import EchoEngine
from ochatctl.serve.choices import draw

TOKENIZER = byte_tokenizer(get_family("openchat_v3.2"))
DRAWS = (([1], SamplingSpec(max_tokens=2_000)),) * 3


def test_every_choice_comes_whole_even_to_a_slow_reader_and_the_answers_wait_for_it() -> None:
    engine = EchoEngine(TOKENIZER, reply=lambda prompt_ids: list(b"x" * 200))
    texts = [""] * len(DRAWS)

    async def read() -> int:
        await engine.start()
        async with aclosing(draw(engine, DRAWS)) as deltas:
            index, delta = await anext(deltas)
            texts[index] += delta.text
            await asyncio.sleep(0.05)  # each answer takes far less, were nothing in its way
            waiting = engine.num_running
            async for index, delta in deltas:
                texts[index] += delta.text
        await engine.close()
        return waiting

    assert run(read()) == len(DRAWS)
    assert texts == ["x" * 200] * len(DRAWS)


def test_a_fault_of_one_choice_ends_all_and_is_raised() -> None:
    asked = 0

    def reply(prompt_ids: Sequence[int]) -> list[int]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise ZeroDivisionError("a bug in the second")
        return list(b"x" * 500)

    engine = EchoEngine(TOKENIZER, reply=reply, delay_seconds=0.01)

    async def read() -> None:
        await engine.start()
        async with asyncio.timeout(5), aclosing(draw(engine, DRAWS)) as deltas:
            async for _ in deltas:
                pass

    with pytest.raises(ZeroDivisionError):
        run(read())
    assert engine.num_running == 0
    assert asked == len(DRAWS)
