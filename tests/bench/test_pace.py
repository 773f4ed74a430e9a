"""How many at once: half after a 429, more again after answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ochatctl.bench.pace import Pace


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def go() -> None:
        await work()

    asyncio.run(go())


async def most_at_once(pace: Pace, count: int) -> int:
    running = most = 0

    async def one() -> None:
        nonlocal running, most
        async with pace.place():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

    await asyncio.gather(*(one() for _ in range(count)))
    return most


def test_no_more_run_than_there_is_room_for() -> None:
    async def work() -> None:
        pace = Pace(8)
        assert await most_at_once(pace, 40) == 8
        pace.busy(0.0)
        assert pace.room == 4
        assert await most_at_once(pace, 40) == 4

    run(work)


def test_refusals_of_one_moment_are_one_event_and_one_place_always_remains() -> None:
    async def work() -> None:
        pace = Pace(8)
        for _ in range(20):
            pace.busy(0.0)
        assert (pace.room, pace.num_cuts) == (4, 1)
        small = Pace(1)
        small.busy(0.0)
        assert small.room == 1
        assert await most_at_once(small, 3) == 1

    run(work)


def test_room_grows_by_one_a_round_and_never_beyond_what_was_asked() -> None:
    async def work() -> None:
        pace = Pace(8)
        pace.busy(0.0)
        for _ in range(5):
            pace.good()
        assert pace.room == 5
        for _ in range(100):
            pace.good()
        assert pace.room == 8

    run(work)


def test_nothing_new_starts_before_the_endpoint_wants_it() -> None:
    async def work() -> None:
        pace = Pace(2)
        started = time.monotonic()
        pace.busy(0.05)
        async with pace.place():
            assert time.monotonic() - started >= 0.05

    run(work)
