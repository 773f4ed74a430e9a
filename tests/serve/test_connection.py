"""Raw sockets against the limits of a connection."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving_for_tests import Served, byte_tokenizer, serving
from waiting_for_tests import wait_until

from ochatctl.chat.families import get_family
from ochatctl.engine.echo import EchoEngine

GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
FAMILY = get_family("openchat_v3.2")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(max_header_bytes=20_000, max_headers=50) as served:
        yield served


def dial(served: Served) -> socket.socket:
    host, port = served.base_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_all(connection: socket.socket) -> bytes:
    out = b""
    try:
        while part := connection.recv(65_536):
            out += part
    except ConnectionResetError:
        pass  # it was closed with bytes of ours unread
    return out


def answer(raw: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    error: dict[str, Any] = json.loads(body)["error"]
    return int(head.split()[1]), error


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
        GET + b"a" * 20_000 + b": x\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        GET + b"".join(b"X-%d: 1\r\n" % number for number in range(60)) + b"\r\n",
        # Never whole, so that no parser tells of it.
        GET + b"X: " + b"a" * 400_000,
    ],
    ids=["a long value", "a long name", "a long path", "many headers", "a header without end"],
)
def test_a_head_that_is_too_large_gets_431_and_nobody_else_notices(served: Served, head: bytes) -> None:
    with dial(served) as connection:
        connection.sendall(head[:100_000])
        assert answer(read_all(connection)) == (431, {
            "message": "the head of the request is larger than 20000 bytes, or has more than 50 headers",
            "type": "invalid_request_error", "param": None, "code": "headers_too_large",
        })  # fmt: skip
    assert httpx.get(served.base_url + "/health").status_code == 200


def test_a_head_just_within_its_limits_is_served(served: Served) -> None:
    headers = {f"x-{number}": "a" * 400 for number in range(40)}
    assert httpx.get(served.base_url + "/v1/models", headers=headers).status_code == 200


def test_a_head_that_trickles_gets_408_and_silence_is_closed() -> None:
    with serving(header_timeout_seconds=0.3) as served:
        began = time.monotonic()
        with dial(served) as slow, dial(served) as silent:
            slow.sendall(GET)
            assert answer(read_all(slow))[0] == 408
            assert read_all(silent) == b""
            assert 0.3 <= time.monotonic() - began < 9  # 10 are the default


def test_what_is_not_http_gets_400_in_the_envelope_and_no_line_beside_the_request_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with dial(served) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        status, error = answer(read_all(connection))
    assert (status, error["code"]) == (400, "invalid_http")
    with dial(served) as connection:
        connection.sendall(
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert read_all(connection).startswith(b"HTTP/1.1 200")
    assert not caplog.records


@pytest.mark.slow
def test_one_connection_too_many_gets_503() -> None:
    with serving(max_connections=2) as served:
        with dial(served) as first, dial(served), dial(served) as third:
            assert answer(read_all(third))[0] == 503
            first.sendall(GET + b"Connection: close\r\n\r\n")
            assert b"200 OK" in read_all(first)
        wait_until(lambda: httpx.get(served.base_url + "/health").status_code == 200)


@pytest.mark.slow
def test_a_client_that_does_not_read_is_cut_off_and_its_answer_aborted() -> None:
    engine = EchoEngine(byte_tokenizer(FAMILY), context_tokens=200_000)
    text = "x" * 30_000
    body = json.dumps({"model": "echo", "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
    with serving(engine=engine, write_timeout_seconds=0.3) as served:
        host, port = served.base_url.removeprefix("http://").split(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        wait_until(lambda: engine.progress and not engine.num_running)
        assert b"[DONE]" not in read_all(connection)
        connection.close()


def test_a_silent_stream_is_kept_alive_by_comments_that_readers_skip() -> None:
    engine = EchoEngine(byte_tokenizer(FAMILY), delay_seconds=0.12)
    body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "Hey"}]}
    with serving(engine=engine, keep_alive_seconds=0.03) as served:
        frames = httpx.post(served.base_url + "/v1/chat/completions", json=body).text.split("\n\n")
    comments = [frame for frame in frames if frame == ": keep-alive"]
    events = [json.loads(frame[6:]) for frame in frames if frame.startswith("data: {")]
    assert len(comments) >= 3
    assert len(comments) + len(events) + 1 == len(frames) - 1
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "Hey"
    assert frames[-2:] == ["data: [DONE]", ""]
