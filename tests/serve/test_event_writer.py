"""What of a stream is written when."""

import asyncio
import random

from starlette.types import Message
from virtual_time_for_tests import run

from ochatctl.serve.event_writer import COMMENT, EventWriter, Pace


class Wire:
    """Takes messages, as a client that may stop reading."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.ended = False
        self.reading = asyncio.Event()
        self.reading.set()

    async def send(self, message: Message) -> None:
        await self.reading.wait()
        self.bodies.append(message["body"])
        self.ended = not message.get("more_body")


def among(num_others: int) -> Pace:
    pace = Pace()
    pace.num_streams = num_others
    return pace


def event(number: int) -> bytes:
    return b"data: %d\n\n" % number


def test_a_slow_stream_has_each_event_at_once() -> None:
    async def work() -> list[bytes]:
        wire = Wire()
        writer = EventWriter(wire.send, among(50), keep_alive_seconds=60)
        for number in range(4):
            await writer.write(event(number))
            assert wire.bodies[-1] == event(number)
            await asyncio.sleep(0.02)
        await writer.end(b"end")
        assert wire.ended
        return wire.bodies

    assert run(work()) == [event(0), event(1), event(2), event(3), b"end"]


def test_a_fast_stream_is_whole_in_fewer_writes_and_in_order() -> None:
    async def work() -> Wire:
        wire = Wire()
        writer = EventWriter(wire.send, among(50), keep_alive_seconds=60)
        draw = random.Random(0)
        for number in range(300):
            await writer.write(event(number))
            await asyncio.sleep(draw.choice((0, 0, 0, 0.001)))
        await writer.end(b"end")
        await asyncio.sleep(0.03)
        return wire

    wire = run(work())
    assert b"".join(wire.bodies) == b"".join(map(event, range(300))) + b"end"
    assert wire.bodies[0] == event(0)
    assert 2 < len(wire.bodies) < 200


def test_what_waits_is_written_though_nothing_comes_after_it() -> None:
    async def work() -> list[bytes]:
        wire = Wire()
        writer = EventWriter(wire.send, among(50), keep_alive_seconds=60)
        await writer.write(event(0))
        await writer.write(event(1))
        assert wire.bodies == [event(0)]
        async with asyncio.timeout(5):
            while len(wire.bodies) < 2:
                await asyncio.sleep(0.001)
        writer.stop()
        return wire.bodies

    assert run(work()) == [event(0), event(1)]


def test_a_client_that_does_not_read_holds_up_the_stream_and_gets_all_in_order() -> None:
    async def work() -> tuple[int, Wire]:
        wire = Wire()
        writer = EventWriter(wire.send, among(50), keep_alive_seconds=0.02)
        num_written = 0

        async def feed() -> None:
            nonlocal num_written
            for number in range(50):
                await writer.write(event(number))
                num_written += 1
                await asyncio.sleep(0)
            await writer.end(b"end")

        wire.reading.clear()
        feeding = asyncio.create_task(feed())
        await asyncio.sleep(0.1)
        held = num_written
        wire.reading.set()
        await feeding
        return held, wire

    held, wire = run(work())
    assert held == 0
    assert b"".join(wire.bodies).replace(COMMENT, b"") == b"".join(map(event, range(50))) + b"end"


def test_a_silent_stream_gets_comments_until_it_is_stopped() -> None:
    async def work() -> tuple[list[bytes], int]:
        wire = Wire()
        writer = EventWriter(wire.send, among(50), keep_alive_seconds=0.02)
        await writer.write(event(0))
        async with asyncio.timeout(5):
            while len(wire.bodies) < 3:
                await asyncio.sleep(0.005)
        writer.stop()
        num_bodies = len(wire.bodies)
        await asyncio.sleep(0.06)
        return wire.bodies, len(wire.bodies) - num_bodies

    bodies, num_late = run(work())
    assert bodies[:3] == [event(0), COMMENT, COMMENT]
    assert num_late == 0


def test_a_stream_alone_is_not_held_back_and_one_that_is_over_is_not_counted() -> None:
    async def work() -> tuple[float, float, Pace]:
        wire, pace = Wire(), Pace()
        writer = EventWriter(wire.send, pace, keep_alive_seconds=60)
        alone = pace.pause_seconds
        others = [EventWriter(wire.send, pace, keep_alive_seconds=60) for _ in range(999)]
        many = pace.pause_seconds
        for each in (writer, *others):
            each.stop()
        return alone, many, pace

    alone, many, pace = run(work())
    assert alone <= 0.0005
    assert 0.01 < many < 0.1
    assert pace.num_streams == 0
