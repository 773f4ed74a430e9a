"""A server with a key, then `chat` and `bench` as a user types them."""

import json
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from served_process_for_tests import OCHATCTL, served

TASKS = str(resources.files("ochatctl") / "samples" / "tasks.jsonl")


@pytest.fixture
def base_url() -> Iterator[str]:
    with served("--engine", "echo", "--api-keys", "sk-1", "sk-2") as address:
        yield address


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [*OCHATCTL, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, input="")


def test_a_server_with_a_key_is_chatted_with_and_benchmarked(base_url: str, tmp_path: Path) -> None:
    said = run("chat", "--base-url", base_url, "--api-key", "sk-1", "-m", "Hello there", cwd=tmp_path)
    assert (said.returncode, said.stdout.strip()) == (0, "Hello there"), said.stderr
    suite = ("bench", "suite", "--tasks", TASKS, "--base-url", base_url, "--json", "--out", "run")
    refused = run(*suite, cwd=tmp_path)
    assert refused.returncode == 6
    assert "--api-key" in refused.stderr
    done = run(*suite, "--api-key", "sk-2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    overall = json.loads(done.stdout)["overall"]
    # The echo engine gives the question back: no option is named, and no capital either.
    assert (overall["num_items"], overall["num_unmatched"], overall["num_wrong"]) == (12, 8, 4)
    assert overall["num_answer_tokens"] > 0
