"""The queue before an engine: bounded, in order, with deadlines, and never short of a slot."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from virtual_time_for_tests import run

from ochatctl.engine.base import Delta, SamplingSpec
from ochatctl.errors import RunError
from ochatctl.serve.config import LimitConfig
from ochatctl.serve.protocol import RequestError
from ochatctl.serve.queue import QueuedEngine

SPEC = SamplingSpec(max_tokens=10)


class Paced:
    """An engine that gives a token each time it is told to."""

    name = "paced"
    context_tokens = 100
    unsupported: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.num_running = self.num_ended = self.progress = 0
        self.tokens = asyncio.Semaphore(0)
        self.order: list[int] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def check_alive(self) -> None: ...

    async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        self.num_running += 1
        self.order.append(prompt_ids[0])
        try:
            for _ in range(2):
                await self.tokens.acquire()
                self.progress += 1
                yield Delta(token_ids=(1,), text="a")
            yield Delta(finish_reason="stop")
        finally:
            self.num_running -= 1
            self.num_ended += 1


async def draw(engine: QueuedEngine, number: int = 1) -> str:
    async with aclosing(engine.generate([number], SPEC)) as deltas:
        return "".join([delta.text async for delta in deltas])


def queued(**limits: float) -> tuple[Paced, QueuedEngine]:
    engine = Paced()
    return engine, QueuedEngine(engine, LimitConfig(**limits))  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_answers_wait_in_order_and_beyond_the_queue_there_is_a_503() -> None:
    async def main() -> None:
        engine, queue = queued(max_running=2, max_queue=2)
        tasks = [asyncio.create_task(draw(queue, number)) for number in range(4)]
        await settle()
        assert (engine.num_running, queue.num_waiting) == (2, 2)
        with pytest.raises(RequestError) as refused:
            await draw(queue)
        assert (refused.value.status, refused.value.code) == (503, "queue_full")
        assert int(dict(refused.value.headers)["Retry-After"]) >= 1
        for _ in range(8):
            engine.tokens.release()
        assert await asyncio.gather(*tasks) == ["aa"] * 4
        assert engine.order == [0, 1, 2, 3]
        assert (engine.num_running, queue.num_waiting) == (0, 0)

    run(main())


def test_whoever_gives_up_waiting_leaves_the_slot_to_the_next() -> None:
    async def main() -> None:
        engine, queue = queued(max_running=1, max_queue=9)
        tasks = [asyncio.create_task(draw(queue, number)) for number in range(4)]
        await settle()
        tasks[1].cancel()  # one that waits
        tasks[0].cancel()  # the one that runs, and by that gives its slot to number 2 ...
        await asyncio.sleep(0)
        tasks[2].cancel()  # ... which goes in that very moment
        await settle()
        assert engine.num_running == 1
        for _ in range(4):
            engine.tokens.release()
        assert await tasks[3] == "aa"
        assert await draw(queue) == "aa"

    run(main())


@pytest.mark.parametrize(
    ("limits", "num_tokens", "status", "code"),
    [
        ({"first_token_timeout_seconds": 0.02}, 0, 504, "deadline_exceeded"),
        ({"answer_timeout_seconds": 0.02}, 1, 504, "deadline_exceeded"),
        ({"queue_timeout_seconds": 0.02, "max_running": 1}, 0, 503, "queue_timeout"),
    ],
)
def test_what_takes_too_long_is_ended_and_the_slot_is_free(
    limits: dict[str, float], num_tokens: int, status: int, code: str
) -> None:
    async def main() -> None:
        engine, queue = queued(**limits)
        for _ in range(num_tokens):
            engine.tokens.release()
        is_full = "max_running" in limits
        blocker = asyncio.create_task(draw(queue)) if is_full else None
        await settle()
        with pytest.raises(RequestError) as late:
            await draw(queue)
        assert (late.value.status, late.value.code) == (status, code)
        assert engine.num_running == is_full
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        if blocker is not None:
            blocker.cancel()
        await settle()
        for _ in range(2):
            engine.tokens.release()
        assert await draw(queue) == "aa"

    run(main())


def test_an_engine_that_draws_nothing_for_too_long_is_dead_and_says_so_to_all() -> None:
    async def main() -> None:
        _, queue = queued(stall_timeout_seconds=0.02, max_running=1)
        queue.check_alive()
        await asyncio.sleep(0.03)
        queue.check_alive()  # nobody asks, so it may be silent
        tasks = [asyncio.create_task(draw(queue)) for _ in range(2)]
        await settle()
        queue.check_alive()
        await asyncio.sleep(0.03)
        with pytest.raises(RunError, match="stuck"):
            queue.check_alive()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ends] == [RunError, RunError]
        with pytest.raises(RunError, match="stuck"):
            await draw(queue)

    run(main())


def test_an_engine_that_draws_what_is_not_due_yet_is_not_stuck() -> None:
    async def main() -> None:
        engine, queue = queued(stall_timeout_seconds=0.02)
        task = asyncio.create_task(draw(queue))
        await settle()
        queue.check_alive()
        for _ in range(5):  # a plain answer's tokens, which are one delta in the end
            await asyncio.sleep(0.015)
            engine.progress += 1
            queue.check_alive()
        assert not task.done()
        await asyncio.sleep(0.03)
        with pytest.raises(RunError, match="stuck"):
            queue.check_alive()
        await asyncio.gather(task, return_exceptions=True)

    run(main())


def test_a_client_that_reads_slowly_does_not_make_the_engine_look_stuck() -> None:
    async def main() -> None:
        engine, queue = queued(stall_timeout_seconds=0.01)
        engine.tokens.release()
        async with aclosing(queue.generate([1], SPEC)) as deltas:
            await anext(deltas)
            queue.check_alive()
            await asyncio.sleep(0.03)
            queue.check_alive()

    run(main())
