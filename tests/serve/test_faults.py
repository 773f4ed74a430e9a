"""Real processes and real signals: what a fault does to clients, and with what the server ends."""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from vllm_for_tests import MODEL, ServedVllm, needs_vllm
from waiting_for_tests import wait_until

SCRIPT = Path(__file__).parent.parent / "scripted_server_for_tests.py"
CHAT = "/v1/chat/completions"
# A connection a request, and no certificates to read, which takes longer than all else.
http = httpx.Client(verify=False, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
pytestmark = pytest.mark.slow


def body(text: str = "x" * 40, **more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}


@contextlib.contextmanager
def scripted(**told: Any) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, str(SCRIPT), json.dumps(told)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        # Some packages greet on stdout.
        yield server, f"http://127.0.0.1:{next(int(line) for line in server.stdout if line.strip().isdigit())}"
    finally:
        if server.poll() is None:
            server.kill()
        server.communicate()


class Reader(threading.Thread):
    """A client of a stream, in a thread."""

    def __init__(self, url: str, **more: Any) -> None:
        super().__init__()
        self.url, self.more = url, more
        self.begun = threading.Event()
        self.text = ""
        self.start()
        assert self.begun.wait(60)

    def run(self) -> None:
        with http.stream("POST", self.url + CHAT, json=body(stream=True, **self.more)) as response:
            for text in response.iter_text():
                self.text += text
                self.begun.set()

    def ended(self) -> str:
        self.join(60)
        assert not self.is_alive()
        return self.text


class Gate:
    """Lets the answers of a scripted server go on: each has a delta, and the others once it is opened."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "gate"
        self._file.write_text("x")

    def __str__(self) -> str:
        return str(self._file)

    def open(self) -> None:
        self._file.write_text("x" * 10_000)


def is_draining(url: str) -> bool:
    return http.get(url + "/ready").status_code == 503


def gauge(url: str, name: str) -> float:
    lines = http.get(url + "/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def test_sigterm_drains_behind_a_shut_door_and_ends_with_0(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with scripted(gate=str(gate)) as (server, url):
        readers = [Reader(url) for _ in range(3)]
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: is_draining(url))
        assert http.get(url + "/ready").json()["error"]["code"] == "shutting_down"
        assert http.get(url + "/health").status_code == 200
        refused = http.post(url + CHAT, json=body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) > 0
        gate.open()
        assert all(reader.ended().endswith("[DONE]\n\n") for reader in readers)
        assert server.wait(60) == 0


def test_what_is_left_when_the_time_to_drain_is_over_gets_one_error_event() -> None:
    with scripted(echo={"delay_seconds": 0.5}, limits={"drain_timeout_seconds": 0.5}) as (server, url):
        reader = Reader(url)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert reader.ended().count('"shutting_down"') == 1
        assert "[DONE]" not in reader.text
        assert server.wait(60) == 0
        assert time.monotonic() - began < 15  # the answer would have taken 20 s


def test_a_second_signal_does_not_wait_for_streams() -> None:
    with scripted(echo={"delay_seconds": 0.5}) as (server, url):
        reader = Reader(url)
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: is_draining(url))
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.5)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert time.monotonic() - began < 15  # the answer would have taken 20 s
        with contextlib.suppress(AssertionError):
            reader.ended()
        assert "[DONE]" not in reader.text


def test_the_engines_death_is_one_event_a_stream_and_exit_7(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with scripted(echo={"die_after_tokens": 30}, gate=str(gate)) as (server, url):
        readers = [Reader(url) for _ in range(4)]
        gate.open()
        for reader in readers:
            assert reader.ended().count('"engine_unavailable"') == 1
            assert "[DONE]" not in reader.text
        assert server.wait(60) == 7


def test_an_engine_that_hangs_is_found_out_and_exit_7() -> None:
    with scripted(echo={"delay_seconds": 60}, limits={"stall_timeout_seconds": 0.5}) as (server, url):
        plain = http.post(url + CHAT, json=body())
        assert (plain.status_code, plain.json()["error"]["code"]) == (503, "engine_unavailable")
        assert server.wait(60) == 7
        assert server.stderr is not None
        assert "is stuck" in server.stderr.read()


def test_a_late_first_token_is_a_true_504_and_a_late_end_an_event() -> None:
    limits = {"first_token_timeout_seconds": 0.3, "answer_timeout_seconds": 0.6}
    with scripted(echo={"delay_seconds": 0.4}, limits=limits) as (_, url):
        late = http.post(url + CHAT, json=body(stream=True))
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    with scripted(echo={"delay_seconds": 0.1}, limits=limits) as (_, url):
        reader = Reader(url)
        assert reader.ended().count('"deadline_exceeded"') == 1
        assert "[DONE]" not in reader.text
        wait_until(lambda: gauge(url, "ochatctl_answers_running") == 0)


def test_a_full_queue_is_a_true_503_for_streams_too(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with scripted(gate=str(gate), limits={"max_running": 1, "max_queue": 0}) as (_, url):
        reader = Reader(url)
        for stream in (False, True):
            refused = http.post(url + CHAT, json=body(stream=stream))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
        gate.open()
        assert reader.ended().endswith("[DONE]\n\n")


@pytest.mark.parametrize("kind", ["echo", "hf"])
def test_an_engine_is_told_within_250_ms_of_a_client_that_goes_away(kind: str, tmp_path: Path) -> None:
    told: dict[str, Any] = {"slow_hf": str(tmp_path)} if kind == "hf" else {"echo": {"delay_seconds": 0.02}}
    more: dict[str, Any] = {"logit_bias": {"97": 100}} if kind == "hf" else {}
    with scripted(**told, tells=True) as (server, url):
        assert server.stdout is not None

        def seconds(how: str, *, stream: bool) -> float:
            """Give the time from a client's end to the engine's hearing of it."""
            content = json.dumps(body("x" * (40 if kind == "hf" else 2000), stream=stream, **more)).encode()
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(content) + content
                )
                wait_until(lambda: gauge(url, "ochatctl_answers_running") == 1)
                if how == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                gone = time.monotonic()
                if how == "half-close":
                    connection.shutdown(socket.SHUT_WR)
                else:
                    connection.close()
                heard = float(next(line for line in server.stdout or () if line.startswith("told ")).split()[1])
            wait_until(lambda: gauge(url, "ochatctl_answers_running") == 0)
            return heard - gone

        for how in ("close", "reset", "half-close"):
            for stream in (False, True):
                # Again where another process had the machine.
                assert any(seconds(how, stream=stream) < 0.25 for _ in range(5)), (how, stream)


def test_sighup_reads_the_keys_and_opens_the_log_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"

    def keys(*arguments: str) -> str:
        command = [sys.executable, "-m", "ochatctl", "keys", *arguments, "--file", str(file)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    old = keys("new", "--name", "old")
    command = [
        sys.executable,
        "-m",
        "ochatctl",
        "serve",
        "--engine",
        "echo",
        "--port",
        "0",
        "--api-keys-file",
        str(file),
    ]
    log = tmp_path / "requests.log"
    server = subprocess.Popen([*command, "--log-file", str(log)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = next(line for line in server.stderr if line.startswith("ready: ")).split()[1]

        num_asked = 0

        def status(key: str) -> int:
            nonlocal num_asked
            num_asked += 1
            return httpx.get(f"{url}/models", headers={"authorization": f"Bearer {key}"}).status_code

        assert status(old) == 200
        new = keys("new", "--name", "new")
        keys("revoke", "--name", "old")
        assert (status(old), status(new)) == (200, 401)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: status(new) == 200)
        assert status(old) == 401
        log.rename(tmp_path / "moved.log")
        file.write_text("{")
        server.send_signal(signal.SIGHUP)
        line = next(line for line in server.stderr if line.startswith("keys: as before"))
        assert "not valid JSON" in line
        assert status(new) == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        moved = (tmp_path / "moved.log").read_text()
        # What waited to be written when the file was moved is written to the new one.
        num_moved, num_new = moved.count("\n"), log.read_text().count("\n")
        assert (num_moved + num_new, num_moved >= 1, num_new >= 1) == (num_asked, True, True)
        assert log.stat().st_mode & 0o777 == 0o600
        printed = server.stderr.read() + moved + log.read_text()
        assert '"key":"new"' in printed.replace(": ", ":")
        assert not any(key in printed for key in (old, new))
    finally:
        server.kill()
        server.communicate()


@contextlib.contextmanager
def served(*arguments: str, **how: Any) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "ochatctl", "serve", "--port", "0", "--disable-log-requests", *arguments]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **how)
    try:
        assert server.stderr is not None
        yield server, next(line for line in server.stderr if line.startswith("ready: ")).split()[1]
    finally:
        server.kill()
        server.communicate()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs `openssl` to make a certificate")
def test_https_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    with served("--engine", "echo", "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)) as (server, url):
        assert url.startswith("https://localhost:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=trusting) as client:
            answer = client.post(f"{url}/chat/completions", json=body("over TLS"))
            assert answer.json()["choices"][0]["message"]["content"] == "over TLS"
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"))
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_step_that_never_ends_does_not_keep_the_server(is_patient: bool, tmp_path: Path) -> None:
    limits = {"drain_timeout_seconds": 1.0 if is_patient else 60.0}
    with scripted(hung_hf=str(tmp_path), limits=limits) as (server, url):
        reader = Reader(url, max_tokens=100, logit_bias={"97": 100})
        wait_until((tmp_path / "slow").exists)  # the step has begun
        server.send_signal(signal.SIGTERM)
        if is_patient:
            assert reader.ended().count('"shutting_down"') == 1
        else:
            wait_until(lambda: is_draining(url))
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 7
        assert server.stderr is not None
        assert "is stuck: a step has not ended" in server.stderr.read()
        with contextlib.suppress(AssertionError):
            reader.ended()


def family_of(pid: int) -> list[int]:
    """Give a process's children and theirs; a child is its thread's."""
    out: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            out += [child, *family_of(child)]
    return out


def engine_process(pids: list[int]) -> int | None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return next((pid for pid in pids if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text()), None)
    return None


VLLM = ("--engine", "vllm", "--model", os.environ.get("OCHATCTL_TEST_MODEL", ""), "--family", "chatml")


@needs_vllm
def test_vllms_process_killed_is_one_event_a_stream_and_no_child_left(served_vllm: ServedVllm) -> None:
    url = served_vllm.served.base_url
    readers = [Reader(url, model=MODEL, max_tokens=400) for _ in range(3)]
    pids = family_of(os.getpid())
    core = engine_process(pids)
    assert core is not None
    pids = [core, *family_of(core)]
    os.kill(core, signal.SIGKILL)
    for reader in readers:
        assert reader.ended().count('"engine_unavailable"') == 1
    refused = http.post(url + CHAT, json=body(model=MODEL))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert http.get(url + "/health").status_code == 503
    served_vllm.run(served_vllm.engine.close())
    wait_until(lambda: not any(is_running(pid) for pid in pids))


@needs_vllm
def test_vllm_that_stands_still_is_found_out_and_exit_7() -> None:
    more = ("--max-model-len", "512", "--stall-timeout", "3", "--served-model-name", "echo")
    with served(*VLLM, *more) as (server, url):
        reader = Reader(url.removesuffix("/v1"), max_tokens=400)
        pids = family_of(server.pid)
        core = engine_process(pids)
        assert core is not None
        os.kill(core, signal.SIGSTOP)
        assert reader.ended().count('"engine_unavailable"') == 1
        assert server.wait(60) == 7
        wait_until(lambda: not any(is_running(pid) for pid in pids))


@needs_vllm
def test_a_terminals_ctrl_c_ends_streams_whole_and_leaves_no_process_of_vllms() -> None:
    with served(*VLLM, "--max-model-len", "512", "--served-model-name", "echo", start_new_session=True) as (
        server,
        url,
    ):
        reader = Reader(url.removesuffix("/v1"), max_tokens=60, temperature=0)
        pids = family_of(server.pid)
        assert len(pids) >= 3  # the engine, its worker, and the grammars' child
        # As a terminal does: to every process of the group.
        os.killpg(server.pid, signal.SIGINT)
        text = reader.ended()
        assert text.endswith("[DONE]\n\n")
        assert '"error"' not in text
        assert server.wait(60) == 130
        wait_until(lambda: not any(is_running(pid) for pid in pids))
        assert server.stderr is not None
        assert "leaked" not in server.stderr.read()


@needs_vllm
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_server_that_is_ended_while_it_loads_takes_vllm_along(tmp_path: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "ochatctl", "serve", *VLLM, "--port", "0"]
    with (tmp_path / "stderr").open("w") as log:
        server = subprocess.Popen(command, stderr=log)

    def is_bound() -> bool:
        core = engine_process(family_of(server.pid))
        return core is not None and os.getpgid(core) == core

    try:
        # As early as may be: in the middle of its imports.
        wait_until(is_bound, seconds=240)
        pids = family_of(server.pid)
        server.send_signal(signal.SIGHUP)  # a reload of the keys, which are read later anyhow
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.2)
        server.send_signal(number)
        assert server.wait(240) == code
        assert len(pids) >= 2  # the engine, and the grammars' child
        wait_until(lambda: not any(is_running(pid) for pid in pids))
    finally:
        server.kill()


def is_running(pid: int) -> bool:
    """Tell whether a process is there and not just waiting to be reaped by whoever has inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_thousand_clients_that_connect_and_go_leave_nothing_behind() -> None:
    with scripted(echo={"delay_seconds": 0.005}) as (server, url):
        host, port = url.removeprefix("http://").split(":")
        requests = []
        for stream in (False, True):
            content = json.dumps(body("x" * 300, stream=stream)).encode()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            requests.append(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        half = requests[1][:-20]

        def cycle(number: int) -> None:
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                if number % 5 == 4:
                    return
                connection.sendall(half if number % 5 == 3 else requests[number % 2])
                if number % 10 == 1:
                    connection.recv(100)
                if number % 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        def left() -> tuple[int, float]:
            """Give the open descriptors and the tasks, once no request is under way but the one that asks."""
            wait_until(lambda: gauge(url, "ochatctl_answers_running") == 0)
            wait_until(lambda: gauge(url, "ochatctl_requests_running") == 1)
            return len(os.listdir(f"/proc/{server.pid}/fd")), gauge(url, "ochatctl_event_loop_tasks")

        def is_settled() -> bool:
            # The connection that asked last may still be closing.
            num_files, num_tasks = left()
            return num_files <= before[0] + 1 and num_tasks <= before[1]

        began = time.monotonic()
        for number in range(1_000):
            cycle(number)
        before, size = left(), resident_bytes(server.pid)
        for number in range(1_000, 10_000):
            cycle(number)
        assert time.monotonic() - began < 90  # 9 s on a quiet machine, and at most 26 s on a busy one
        wait_until(is_settled)
        assert resident_bytes(server.pid) - size <= 10_000_000
        assert http.post(url + CHAT, json=body("still here")).status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
