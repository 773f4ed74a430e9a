"""The request log: its levels, what it never holds, and what nobody can put into it."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from gated_engine_for_tests import GatedEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_for_tests import Served, byte_tokenizer, serving

from ochatctl.chat.families import get_family
from ochatctl.engine.echo import EchoEngine
from ochatctl.serve.config import LogConfig
from ochatctl.serve.logs import RequestLog
from ochatctl.serve.protocol import LogLine

CHAT = "/v1/chat/completions"
SECRET = "the secret words"
BODY: dict[str, Any] = {
    "model": "echo", "messages": [{"role": "user", "content": SECRET}], "temperature": 0.5, "user": "SECRET-user",
    "stop": ["SECRET-stop"],
}  # fmt: skip


def logged(path: Path, level: str, use: Callable[[Served], None], engine: Any = None) -> list[dict[str, Any]]:
    log = LogConfig(file=str(path), quiet=True, level=level)  # type: ignore[arg-type]  # any of the three
    with serving(engine=engine, log=log, api_keys=("sk-1",)) as served:
        use(served)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("level", ["metadata", "params", "text"])
def test_a_level_holds_what_it_says_and_no_more(level: str, tmp_path: Path) -> None:
    def use(served: Served) -> None:
        answer = httpx.post(served.base_url + CHAT, json=BODY, headers={"authorization": "Bearer sk-1"})
        assert answer.status_code == 200

    (line,) = logged(tmp_path / "log", level, use)
    assert (line["status"], line["key"], line["endpoint"]) == (200, "key-1", CHAT)
    assert ("params" in line, "answers" in line) == (level != "metadata", level == "text")
    text = (tmp_path / "log").read_text()
    assert "sk-1" not in text
    if level == "text":
        assert line["answers"] == [SECRET]
        assert line["params"]["messages"][0]["content"] == SECRET
    else:
        assert "secret" not in text.lower()
    if level == "params":
        assert line["params"]["temperature"] == 0.5


def test_nobody_puts_a_line_into_the_log_or_a_label_into_the_metrics(tmp_path: Path) -> None:
    evil = 'x"}\r\n{"status": 200, "evil": "\x1b[2J\u2028'
    metrics: list[str] = []

    def use(served: Served) -> None:
        headers = {"authorization": "Bearer sk-1"}
        for body in (
            BODY | {"model": evil}, BODY | {"user": evil}, BODY | {"condition": evil},
            BODY | {"messages": [{"role": evil, "content": evil}]}, BODY | {evil: evil},
        ):  # fmt: skip
            httpx.post(served.base_url + CHAT, json=body, headers=headers)
        for path in ("/evil", "/v1/models/evil", "/v1/evil%0a%22"):
            httpx.get(served.base_url + path, headers=headers)
        told = httpx.get(served.base_url, headers={"x-request-id": 'evil"} {"a": "b'})
        assert told.headers["x-request-id"].startswith("req-")
        httpx.request("EVIL", served.base_url + CHAT)
        metrics.append(httpx.get(served.base_url + "/metrics", headers=headers).text)

    lines = logged(tmp_path / "log", "metadata", use)
    text = (tmp_path / "log").read_text()
    assert len(lines) == 11
    assert text.isascii()
    assert "evil" not in text.lower().replace("/v1/models/evil", "")
    assert "evil" not in metrics[0].lower()


@settings(deadline=None, max_examples=25)
@given(answer=st.text(max_size=30))
def test_whatever_text_is_logged_is_one_line_of_ascii(tmp_path_factory: pytest.TempPathFactory, answer: str) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = RequestLog(LogConfig(file=str(path), quiet=True, level="text"))
    log.write(LogLine(time="now", answers=[answer]))
    log.close()
    content = path.read_bytes()
    assert content.isascii()
    assert content.count(b"\n") == 1
    assert all(byte >= 32 for byte in content[:-1])
    assert json.loads(content)["answers"] == [answer]


def test_files_turn_at_their_size_and_stay_private(tmp_path: Path) -> None:
    log = RequestLog(LogConfig(file=str(tmp_path / "log"), max_mb=1, max_count=2, quiet=True))
    for _ in range(45):
        log.write(LogLine(time="now", answers=["x" * 100_000]))
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2"]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert all(file.stat().st_size <= 1_000_000 for file in files)


def test_a_log_that_was_moved_is_opened_again_where_that_can_be_done(tmp_path: Path) -> None:
    folder, path = tmp_path / "logs", tmp_path / "logs" / "log"
    folder.mkdir()
    log = RequestLog(LogConfig(file=str(path), quiet=True))
    log.write(LogLine(time="1"))
    while not path.stat().st_size:
        time.sleep(0.001)
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.write(LogLine(time="lost, for there is no folder"))
    time.sleep(0.15)  # until that is over
    folder.mkdir()
    log.write(LogLine(time="2"))
    log.close()
    lines = [json.loads(at.read_text().splitlines()[-1])["time"] for at in (tmp_path / "moved" / "log", path)]
    assert lines == ["1", "2"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_aborted_and_refused_requests_are_logged_too(tmp_path: Path) -> None:
    def use(served: Served) -> None:
        headers = {"authorization": "Bearer sk-1"}
        httpx.post(served.base_url + CHAT, json=BODY)
        httpx.post(served.base_url + CHAT, json=BODY | {"n": 0}, headers=headers)
        httpx.get(served.base_url, headers={f"x-{number}": "y" for number in range(200)})
        body = BODY | {"stream": True, "messages": [{"role": "user", "content": "x" * 3000}]}
        with httpx.stream("POST", served.base_url + CHAT, json=body, headers=headers) as response:
            next(response.iter_raw())

    echo = EchoEngine(byte_tokenizer(get_family("openchat_v3.2")))
    # No answer ends before its client has gone.
    lines = logged(tmp_path / "log", "metadata", use, GatedEngine(echo, lambda number: number < 100))
    assert [line["status"] for line in lines] == [401, 400, 431, 499]
    assert [line.get("error") for line in lines] == ["invalid_api_key", "invalid_value", "headers_too_large", None]


def test_a_prefix_is_taken_off_before_anybody_asks_who_may_call() -> None:
    with serving(api_keys=("sk-1",), root_path="/v") as served:

        def status(path: str) -> int:
            return httpx.get(served.base_url + path).status_code

        assert [status(path) for path in ("/v/health", "/health", "/v/", "/")] == [200] * 4
        assert httpx.get(served.base_url + "/v").headers["location"] == "/v/"
        closed = ("/v/v1/models", "/v1/models", "/v/v/health", "/vhealth", "/v/health/x", "/health/v", "//v/health")
        assert [status(path) for path in closed] == [401] * len(closed)
        key = {"authorization": "Bearer sk-1"}
        assert httpx.get(served.base_url + "/v/v1/models", headers=key).status_code == 200


def test_a_terminal_that_takes_nothing_holds_nobody_up_and_what_is_lost_is_counted() -> None:
    readable, writable = os.pipe()
    with os.fdopen(readable) as reader, os.fdopen(writable, "w") as writer:
        with contextlib.redirect_stderr(writer):
            log = RequestLog(LogConfig())
        for _ in range(12_000):
            log.write(LogLine(time="x" * 100))
        assert log.num_lost > 0  # and nobody has read a line by now
        closing = threading.Thread(target=log.close)
        closing.start()
        lines = [reader.readline() for _ in range(12_000 - log.num_lost)]
        closing.join()
    assert [json.loads(line)["time"] for line in lines] == ["x" * 100] * (12_000 - log.num_lost)
