"""What a long run says off a terminal; a question on one."""

import contextlib
import json
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
        # One that comes just before Python waits for the answer is seen only after it: people press again.
        for _ in range(60):
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1)
                break
        else:
            child.kill()
        assert child.returncode == -signal.SIGINT
    os.close(side)
    os.close(terminal)


def printed(code: str, **environment: str) -> bytes:
    code = f"import sys\nfrom ochatctl.cli.output import Output, show_any_text\nshow_any_text()\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, check=True
    ).stdout


def test_a_character_that_cannot_be_shown_ends_nothing_and_json_stays_json() -> None:
    code = "Output().result(0, '\\u2581é')\nOutput(as_json=True).result({'a': '\\U0001f60aé'}, '')\n"
    code += "Output(as_json=True).line(['é'])\nprint('\\u2581')"
    text, one, line, plain = printed(code, PYTHONIOENCODING="latin-1").decode("latin-1").splitlines()
    assert (text, plain) == (r"\u2581é", r"\u2581")
    assert one.isascii()
    assert (json.loads(one), json.loads(line)) == ({"a": "\U0001f60aé"}, ["é"])
    shown = printed(code, PYTHONIOENCODING="utf-8").decode("utf-8").splitlines()
    assert shown == ["\u2581é", '{"a": "\U0001f60aé"}', '["é"]', "\u2581"]


def test_a_narrow_terminal_cuts_off_nothing_of_a_table() -> None:
    name = "HuggingFaceH4/ultrachat_200k"
    code = f"sys.stdout.isatty = lambda: True\nOutput().table(0, ('name', 'what'), [({name!r}, 'what ' * 9)])"
    shown = printed(code, COLUMNS="30", TERM="xterm", PYTHONIOENCODING="utf-8").decode("utf-8")
    lines = [line for line in shown.splitlines() if line.strip()][2:]
    assert max(len(line) for line in lines) == 30
    assert "".join(line.split("  ")[1].strip() for line in lines) == name


def test_a_table_without_headings_has_no_line_for_them() -> None:
    shown = printed("Output().table(0, ('', ''), [('rows', '3')])").decode()
    assert [line.split() for line in shown.splitlines() if line.strip()] == [["rows", "3"]]
