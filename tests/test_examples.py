"""Every file of `examples/` does what it says."""

import asyncio
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jinja2.sandbox
import pytest
from command_lines_for_tests import parse, script_lines
from serving_for_tests import byte_tokenizer, serving
from tokenizers_for_tests import byte_bpe, write_fast

from ochatctl.bench.task import grade, read_task
from ochatctl.chat.conversation import Conversation, read_conversations
from ochatctl.chat.families import get_family, load_family
from ochatctl.chat.template import Encoded
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.cli import quickstart
from ochatctl.data.build import PackConfig, pack_files
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.data.encode import unshift
from ochatctl.engine.echo import EchoEngine
from ochatctl.errors import DataError

EXAMPLES = Path(__file__).parent.parent / "examples"
CHATS = tuple(read_conversations(EXAMPLES / "chats.jsonl"))
MINE = get_family(str(EXAMPLES / "family.toml"))


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    there = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert set(re.findall(r"^- `([^`]+)`:", text, re.MULTILINE)) == there


# chats.jsonl and family.toml


def ids_of_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """Give the ids of a rendered text, whose control strings are tokens."""
    marks = "|".join(re.escape(mark) for mark in MINE.template.control_strings)
    out: list[int] = []
    for part in filter(None, re.split(f"({marks})", text)):
        token_id = tokenizer.token_id(part) if part in MINE.template.control_strings else None
        out += tokenizer.encode_text(part) if token_id is None else [token_id]
    return out


@pytest.mark.parametrize("conversation", CHATS, ids=lambda chat: chat.id or "without-id")
def test_the_familys_jinja_renders_what_it_encodes(conversation: Conversation) -> None:
    tokenizer = byte_tokenizer(MINE)
    template = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(MINE.template.to_jinja(dummy_prefix=False))
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    messages = [*system, *({"role": each.role, "content": each.content} for each in conversation.messages)]
    text = template.render(messages=messages, condition=conversation.condition)
    assert f"<|im_start|>assistant {conversation.condition or 'GPT4'}\n" in text
    assert ids_of_text(text, tokenizer) == MINE.template.encode(conversation, tokenizer).token_ids


def test_the_family_takes_no_condition_that_it_does_not_name() -> None:
    with pytest.raises(DataError, match="`GPT5` is not one of `GPT4`, `GPT3`"):
        MINE.template.check_condition("GPT5")


def test_the_chats_show_every_key() -> None:
    rows = [json.loads(line) for line in (EXAMPLES / "chats.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(CHATS) == 6
    assert {key for row in rows for key in row} == {"id", "messages", "system", "condition"}
    assert {key for row in rows for each in row["messages"] for key in each} == {"role", "content", "weight"}
    assert max(len(chat.messages) for chat in CHATS) == 6
    assert CHATS[5].system == "Answer in one word."


@pytest.mark.parametrize("family", ["openchat_v3.2", str(EXAMPLES / "family.toml")])
def test_the_chats_are_packed_and_the_bad_answer_is_not_learned(family: str, tmp_path: Path) -> None:
    model = write_fast(tmp_path / "model", byte_bpe())
    prefix = str(tmp_path / "packed")
    report = pack_files(
        PackConfig(data_path=EXAMPLES / "chats.jsonl", model_dir=model, prefix=prefix, family=family, num_workers=1)
    )
    assert report.train.num_rows == 6
    dataset = open_dataset(split_path(prefix, "train"))
    _, tokenizer = load_family(model, family)
    learned = [learned_text(unshift(dataset.row(index)), tokenizer) for index in range(6)]
    for chat, text in zip(CHATS, learned, strict=True):
        for message in chat.messages:
            assert (message.content in text) == (message.loss_weight > 0), (chat.id, message.content)
    assert "Eight." not in learned[3]
    assert "insect has six" in learned[3]
    assert max(unshift(dataset.row(4)).loss_weights) == pytest.approx(0.1)


def learned_text(row: Encoded, tokenizer: Tokenizer) -> str:
    pairs = zip(row.token_ids, row.loss_weights, strict=True)
    return tokenizer.decode([token_id for token_id, weight in pairs if weight > 0])


# tasks.jsonl


def test_the_tasks_are_read_and_their_own_labels_are_right() -> None:
    task = read_task(EXAMPLES / "tasks.jsonl")
    assert [bool(item.options) for item in task.items] == [True, True, True, False, False]
    for item in task.items:
        for label in item.labels:
            assert grade(item, label).right, (item.prompt, label)
        assert not grade(item, "I do not know.").right
    assert {len(item.labels) for item in task.items} == {1, 2}


# client.py


def client(*arguments: str, key: str = "") -> "subprocess.Popen[str]":
    env = {**os.environ, "OCHATCTL_API_KEY": key, "no_proxy": "localhost,127.0.0.1"}
    env.pop("PYTHONUNBUFFERED", None)  # it would hide a missing flush
    command = [sys.executable, str(EXAMPLES / "client.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """Run `ochatctl serve` on a free port; give its address."""
    command = [sys.executable, "-m", "ochatctl", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            ready = next((line for line in process.stderr if line.startswith("ready: ")), "")
            assert ready, "the server ended"
            yield ready.removeprefix("ready: ").strip()
        finally:
            process.kill()
            process.communicate()


def test_the_client_asks_a_real_server_with_a_key() -> None:
    with server("--engine", "echo", "--api-keys", "sk-1", "sk-2") as url:
        clients = [
            client("Grüße, 世界?", "--base-url", url, key="sk-2"),
            client("Once more", "--base-url", f"{url}/", "--api-key", "sk-1", "--system", "Be brief."),
            client("Let me in", "--base-url", url, key="sk-3"),
            client("Who?", "--base-url", url, "--model-name", "absent", key="sk-1"),
        ]
        said = [(*process.communicate(timeout=60), process.returncode) for process in clients]
    assert said[0] == ("Grüße, 世界?\n", "", 0)
    assert said[1] == ("Once more\n", "", 0)
    assert (said[2][0], said[2][2]) == ("", 1)
    assert re.fullmatch(r"\nerror: 401: .*key.*\n", said[2][1])
    assert (said[3][0], said[3][2]) == ("", 1)
    assert re.fullmatch(r"\nerror: 404: .*absent.*\n", said[3][1])


class HeldEngine(EchoEngine):
    """Echoes four characters, then waits until it is let go, and fails where nobody does."""

    go_on: asyncio.Event

    async def generate(self, prompt_ids, spec):  # type: ignore[no-untyped-def]  # as the engine it holds
        self.go_on = asyncio.Event()
        sent = 0
        async for delta in super().generate(prompt_ids, spec):
            yield delta
            sent += len(delta.text)
            if sent == 4:
                await asyncio.wait_for(self.go_on.wait(), timeout=60)


def test_the_client_shows_a_piece_before_the_next_one_is_made() -> None:
    engine = HeldEngine(byte_tokenizer(get_family("openchat_v3.2")))
    with serving(engine=engine) as served:
        process = client("held until read", "--base-url", f"{served.base_url}/v1")
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1) == b"h"
        piece = b"h"
        while len(piece) < 4:
            piece += os.read(process.stdout.fileno(), 100)
        assert piece == b"held"
        assert process.poll() is None
        served.loop.call_soon_threadsafe(engine.go_on.set)
        assert process.communicate(timeout=60) == (" until read\n", "")
        assert process.returncode == 0


def test_the_client_says_when_an_answer_breaks_off() -> None:
    engine = EchoEngine(byte_tokenizer(get_family("openchat_v3.2")), fail_after_tokens=5)
    with serving(engine=engine) as served:
        process = client("broken answer", "--base-url", f"{served.base_url}/v1")
        out, said = process.communicate(timeout=60)
    assert (out, process.returncode) == ("broke", 1)
    assert said.startswith("\nerror: ")
    assert "Traceback" not in said


def test_the_client_says_where_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        process = client("Hello?", "--base-url", f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        out, said = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 1)
    assert re.fullmatch(r"\nerror: http://127.0.0.1:.*refused.*\n", said)


# whole_chain.sh


def test_the_chain_is_the_lines_of_quickstart() -> None:
    script = EXAMPLES / "whole_chain.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script_lines(script.read_text(encoding="utf-8"))
    for line in lines:
        parse(line)
    out, samples = Path("runs/whole_chain"), str(quickstart._samples())
    expected = [list(step.arguments) for step in quickstart._making_steps(out, None)]
    expected.append(list(quickstart._serve_arguments(out, "hf", 18888)))
    # This machine may have GPUs or one core; the script says two CPU processes.
    devices = list(quickstart._devices())
    train = expected[4]
    start = train.index(devices[0])
    assert train[start : start + len(devices)] == devices
    train[start : start + len(devices)] = ["--cpu", "--gpus", "2"]
    assert [shlex.split(line.replace("$samples", samples))[1:] for line in lines] == expected
