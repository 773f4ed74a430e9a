"""What is made ahead comes in order, not too far ahead, with its errors, and leaves no thread behind."""

import threading
import time
from collections.abc import Iterator

import pytest
from waiting_for_tests import wait_until

from ochatctl.train.prefetch import Prefetch


def test_items_come_in_their_order_from_another_thread_and_then_end() -> None:
    threads = set()

    def items() -> Iterator[int]:
        for number in range(50):
            threads.add(threading.current_thread())
            yield number

    with Prefetch(items()) as ahead:
        assert list(ahead) == list(range(50))
        assert list(ahead) == []
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_no_more_than_the_depth_waits_and_closing_ends_the_thread() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10_000):
            made.append(number)
            yield number

    ahead = Prefetch(items(), depth=2)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    wait_until(lambda: len(made) == 3 + 2 + 1)
    time.sleep(0.05)
    assert len(made) == 3 + 2 + 1
    ahead.close()
    assert len(made) < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    with pytest.raises(StopIteration):
        next(ahead)


def test_an_error_is_raised_where_its_item_would_be_read() -> None:
    with Prefetch(12 // (2 - number) for number in range(4)) as ahead:
        assert [next(ahead), next(ahead)] == [6, 12]
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                next(ahead)


def test_waiting_counts_and_nothing_else_does() -> None:
    may_begin, made = threading.Event(), []

    def slow() -> Iterator[int]:
        may_begin.wait()
        for number in range(3):
            time.sleep(0.02)
            yield number

    def quick() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    with Prefetch(slow()) as ahead:
        may_begin.set()
        list(ahead)
        assert ahead.stall_seconds >= 0.03
    with Prefetch(quick()) as ahead:
        wait_until(lambda: len(made) == 3)
        for _ in ahead:
            time.sleep(0.02)
        assert ahead.stall_seconds < 0.03
