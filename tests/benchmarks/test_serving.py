"""The benchmark of serving: its client tells right from wrong, and its rows of our own server still run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_for_tests import Served, serving

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TEXT = "the answer is what was said"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("taskset")), reason="the client is compiled by gcc"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("client") / "serving_load"
    source = BENCHMARKS / "serving_load.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(path), str(source)], check=True)
    return path


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


def ask(
    client: Path, served: Served, folder: Path, *flags: str, stream: bool, expect: str = TEXT, **more: Any
) -> dict[str, Any]:
    body, text = folder / "body.json", folder / "expect.txt"
    asked = {"model": "echo", "messages": [{"role": "user", "content": TEXT}], "stream": stream}
    body.write_text(json.dumps(asked | more))
    text.write_text(expect)
    port = served.base_url.rpartition(":")[2]
    command = [str(client), "--port", port, "--body", str(body), "--expect", str(text), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if told["failed"] else 0)
    return told


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_finds_every_answer_right(client: Path, served: Served, tmp_path: Path, stream: bool) -> None:
    told = ask(client, served, tmp_path, "--connections", "8", "--seconds", "1", stream=stream)
    assert told["failed"] == 0, told["fault"]
    assert told["ok"] >= 8
    assert told["texts"] == told["ok"] * (len(TEXT) if stream else 1)
    assert told["first_us"]["p50"] <= told["whole_us"]["p50"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "expect", "fault"),
    [({}, TEXT[:-1], "not what was expected"), ({}, TEXT + "!", "bytes of text, not"), ({"n": 99}, TEXT, "status 400")],
)
def test_the_client_finds_what_is_wrong(
    client: Path, served: Served, tmp_path: Path, stream: bool, more: dict[str, Any], expect: str, fault: str
) -> None:
    told = ask(client, served, tmp_path, "--requests", "3", stream=stream, expect=expect, **more)
    assert (told["ok"], told["failed"]) == (0, 3)
    assert fault in told["fault"]


def test_a_thousand_streams_lose_no_event() -> None:
    command = [sys.executable, str(BENCHMARKS / "serving.py"), "--quick", "--only", "streams"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "0 errors, 0 events lost" in done.stdout
