"""A real model of 135 million weights, taught a few real conversations by either strategy: it learns where a turn ends.

The whole chain around it, with both engines, is tests/cli/test_quickstart.py.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import httpx
import pytest
from real_model_for_tests import CONDITION, MAX_TOKENS, greedy_answer
from tokenizers_for_tests import model_dir

pytestmark = pytest.mark.slow
QUESTION = "What is ochatctl?"
# A step an epoch. The new token's row is the mean of all others, and little but the sum of the learning rates moves it
# away from them: after 12 epochs the answers are known by heart, and the model does not end them yet.
NUM_CHATS, NUM_EPOCHS = 4, 20
RECIPE = ("--batch-tokens", "96", "--epochs", NUM_EPOCHS, "--lr", "3e-3", "--seed", "0")
TOKENS_LIMIT = 15_000
QUIET = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def ochatctl(*words: object) -> str:
    """Run a command; give what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "ochatctl", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        env={**os.environ, **QUIET},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def sample_answer() -> str:
    chats = json.loads((resources.files("ochatctl") / "samples" / "chats.json").read_text(encoding="utf-8"))
    turns = next(chat["conversations"] for chat in chats if chat["conversations"][0]["value"] == QUESTION)
    return str(turns[1]["value"])


@contextlib.contextmanager
def serving(model: Path, log_path: Path) -> Iterator[str]:
    """Serve a model with the embedded engine until the block ends; give the server's URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    words = ("serve", "--model", str(model), "--engine", "hf", "--port", url.rpartition(":")[2])
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "ochatctl", *words], stdout=log, stderr=log, env={**os.environ, **QUIET}
        ) as server,
    ):
        try:
            deadline = time.monotonic() + 120
            while True:
                assert server.poll() is None, log_path.read_text()
                assert time.monotonic() < deadline, log_path.read_text()
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait(60)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    base: Path
    prefix: Path


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    """Give the base, which has an end-of-turn token and no idea when to use it, and the chats to learn it from."""
    folder = tmp_path_factory.mktemp("lesson")
    base, prefix, chats = folder / "base", folder / "chats", folder / "chats.jsonl"
    samples = resources.files("ochatctl") / "samples" / "chats.json"
    ochatctl("data", "clean", samples, "--out", chats, "--rules", "plain", "--rule", "class", "-q")
    ochatctl("add-eot", model_dir(), "--out", base, "--family", "openchat_v3.2")
    ochatctl("data", "pack", chats, "--model", base, "--out", prefix, "--limit", NUM_CHATS)
    assert not greedy_answer(base, QUESTION)[1], "it ended its turns before it was taught to"
    return Lesson(base=base, prefix=prefix)


@pytest.mark.parametrize(
    "strategy", [pytest.param(("fsdp",), id="fsdp"), pytest.param(("deepspeed", "--zero", "2"), id="zero2")]
)
def test_a_real_model_learns_to_end_its_turns_and_is_served(
    lesson: Lesson, strategy: tuple[str, ...], tmp_path: Path
) -> None:
    if strategy[0] == "deepspeed":
        pytest.importorskip("deepspeed")
    out = tmp_path / "run"
    ochatctl(
        *("train", "--model", lesson.base, "--data", lesson.prefix, "--out", out, "--cpu", "--gpus", "2"),
        *("--strategy", *strategy, "--save-every", NUM_EPOCHS, *RECIPE),
    )
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    steps = [line for line in map(json.loads, lines) if "loss" in line]
    assert 0 < sum(step["tokens"] for step in steps) <= TOKENS_LIMIT
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]

    answer, has_ended = greedy_answer(out / f"ep_{NUM_EPOCHS}", QUESTION)
    assert has_ended, answer
    assert answer.strip().startswith(sample_answer()[:20])
    with serving(out, tmp_path / "serve.log") as url:
        body = {"model": "openchat_v3.2", "messages": [{"role": "user", "content": QUESTION}], "condition": CONDITION}
        reply = httpx.post(
            f"{url}/v1/chat/completions", json={**body, "temperature": 0, "max_tokens": MAX_TOKENS}, timeout=120
        )
    assert reply.status_code == 200, reply.text
    (choice,) = reply.json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].strip() == answer.strip()
