"""Several answers, drawn at once. in: a prompt and a spec each, out: (choice, Delta) as they come."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ochatctl.engine.base import Delta, Engine, SamplingSpec

# Deltas that wait for a slow reader; the answers then wait too.
_MAX_WAITING = 64


async def draw(
    engine: Engine, draws: Sequence[tuple[Sequence[int], SamplingSpec]]
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Give the deltas of all choices.

    Guarantees: closing it aborts every choice; a fault of one ends all, and is raised.
    """
    if len(draws) == 1:
        async with aclosing(engine.generate(*draws[0])) as deltas:
            async for delta in deltas:
                yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, Delta] | asyncio.Task[None]] = asyncio.Queue()
    # Bounds the deltas in the queue, and not the ends: a task that is done cannot wait for room.
    room = asyncio.Semaphore(_MAX_WAITING)

    async def pump(index: int, prompt_ids: Sequence[int], spec: SamplingSpec) -> None:
        async with aclosing(engine.generate(prompt_ids, spec)) as deltas:
            async for delta in deltas:
                await room.acquire()
                queue.put_nowait((index, delta))

    tasks = [asyncio.create_task(pump(index, *each)) for index, each in enumerate(draws)]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                item.result()  # raises the fault that ended it
                running -= 1
            else:
                room.release()
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
