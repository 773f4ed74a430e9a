"""What a long run says off a terminal; a question on one."""

import os
import pty
import signal
import subprocess
import sys
import threading

from ochatctl.cli.output import regularly


def test_something_is_said_though_nothing_has_come_and_nothing_after_the_end() -> None:
    said: list[int] = []
    twice = threading.Event()

    def say() -> None:
        said.append(len(said))
        if len(said) == 2:
            twice.set()
        raise OSError("the log is full")

    with regularly(say, first_seconds=0, then_seconds=0.001):
        assert twice.wait(60)
    num_said = len(said)
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
    assert num_said >= 2


def test_a_short_run_says_nothing() -> None:
    said: list[str] = []
    with regularly(lambda: said.append("too early"), first_seconds=600, then_seconds=600):
        pass
    assert not said


def test_control_c_ends_a_question_that_a_coroutine_asks() -> None:
    code = "import asyncio\nfrom ochatctl.cli.output import Output\n"
    code += "async def ask():\n    Output().confirm('go on?')\nasyncio.run(ask())"
    terminal, side = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdin=side, stdout=side, stderr=side) as child:
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(terminal, 1000)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == -signal.SIGINT
    os.close(side)
    os.close(terminal)
