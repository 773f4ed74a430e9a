"""`ochatctl chat`, to a server and through a terminal."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from serving_for_tests import Served, serving
from typer.testing import CliRunner, Result

from ochatctl.cli import chat
from ochatctl.cli.app import OchatGroup, root

app = typer.Typer(cls=OchatGroup)
app.callback()(root)
chat.register(app)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(api_keys=("sk-1",)) as served:
        yield served


def call(served: Served, *arguments: str, key: str | None = "sk-1", typed: str | bytes = "") -> Result:
    env = {"OCHATCTL_API_KEY": key}
    return CliRunner().invoke(app, ["chat", "--base-url", served.base_url + "/v1", *arguments], env=env, input=typed)


def test_one_message_gives_one_answer_on_stdout_and_nothing_else(served: Served) -> None:
    result = call(served, "-m", "Hello wörld")
    assert (result.exit_code, result.stdout) == (0, "Hello wörld\n")


def test_what_comes_through_a_pipe_is_the_message(served: Served) -> None:
    assert call(served, typed="two\nlines\n").stdout == "two\nlines\n"
    assert call(served, typed="").exit_code == 2
    assert call(served, typed=b"\xff").exit_code == 4


def test_the_key_may_be_a_flag_and_its_lack_is_said(served: Served) -> None:
    assert call(served, "-m", "Hi", "--api-key", "sk-1", key=None).stdout == "Hi\n"
    result = call(served, "-m", "Hi", key=None)
    assert result.exit_code == 6
    assert "--api-key" in result.stderr


def test_a_folder_or_an_address_but_not_both(served: Served) -> None:
    assert call(served, "--model", "x", "-m", "Hi").exit_code == 2


def test_no_server_names_the_command_that_starts_one() -> None:
    result = CliRunner().invoke(app, ["chat", "--base-url", "http://127.0.0.1:9/v1", "-m", "Hi"])
    assert result.exit_code == 6
    assert "ochatctl serve" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_is_talked_with_until_ctrl_d_and_the_conversation_is_kept(tmp_path: Path) -> None:
    import pty

    from serving_for_tests import byte_tokenizer

    from ochatctl.chat.families import get_family
    from ochatctl.engine.echo import EchoEngine

    seen: list[bytes] = []

    def reply(prompt_ids: object) -> list[int]:
        seen.append(bytes(token_id for token_id in prompt_ids if token_id < 256))  # type: ignore[attr-defined]
        # The last two characters would clear a terminal.
        return list(f"answer {len(seen)}\x1b\x07".encode())

    engine = EchoEngine(byte_tokenizer(get_family("openchat_v3.2")), reply=reply)
    with serving(engine=engine) as served:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "ochatctl", "chat", "--base-url", served.base_url + "/v1", "--system", "Be."]
        child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
        os.close(theirs)
        shown = read_until(ours, b"> ")
        os.write(ours, b"first\n")
        shown += read_until(ours, b"answer 1\r\n> ")
        os.write(ours, b"second\n")
        shown += read_until(ours, b"answer 2\r\n> ")
        os.write(ours, b"\x04")
        assert child.wait(timeout=60) == 0
        os.close(ours)
    assert seen[1] == b"Be.GPT4 User: firstGPT4 Assistant: answer 1\x1b\x07GPT4 User: secondGPT4 Assistant:".replace(
        b"User: ", b"User:"
    ).replace(b"Assistant: ", b"Assistant:")
    assert b"\x1b\x07" not in shown


def read_until(handle: int, end: bytes) -> bytes:
    shown, deadline = b"", time.monotonic() + 60
    while not shown.endswith(end):
        assert time.monotonic() < deadline, shown
        shown += os.read(handle, 1024)
    return shown
