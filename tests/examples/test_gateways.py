"""`examples/deploy/`'s two gateways, as they are but for ports and certificates, before a real server."""

import contextlib
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ports_for_tests import free_port
from waiting_for_tests import wait_until

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT.parent / "examples" / "deploy"
SCRIPT = ROOT / "scripted_server_for_tests.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs `openssl` to make a certificate"),
]
# Debian keeps nginx where only root looks.
PATH = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/bin"
NGINX = """daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, upstream: str) -> list[str]:
    live = "/etc/letsencrypt/live/chat.example.com"
    site = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("    listen [::]:443 ssl http2;\n", ""),
        ("server 127.0.0.1:18888", f"server {upstream}"),
        (f"{live}/fullchain.pem", f"{folder}/cert.pem"),
        (f"{live}/privkey.pem", f"{folder}/key.pem"),
    )
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, upstream: str) -> list[str]:
    site = replaced(
        (DEPLOY / "Caddyfile").read_text(),
        ("chat.example.com {", f"https://localhost:{port} {{\n\ttls {folder}/cert.pem {folder}/key.pem"),
        ("127.0.0.1:18888 {", f"{upstream} {{"),
    )
    settings = "{\n\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n}\n"
    (folder / "Caddyfile").write_text(settings + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@contextlib.contextmanager
def running(command: list[str], **more: object) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(command, text=True, **more)  # type: ignore[call-overload]  # its overloads want literals
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("gateway", [nginx, caddy], ids=["nginx", "caddy"])
def test_a_gateway_streams_event_by_event_and_tells_who_asks_and_who_has_gone(gateway: object, tmp_path: Path) -> None:
    name = "nginx" if gateway is nginx else "caddy"
    program = shutil.which(name) or shutil.which(name, path=PATH)
    if program is None:
        pytest.skip(f"needs {name}")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key.pem", "-out",
         tmp_path / "cert.pem", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    log = tmp_path / "requests.log"
    gate = tmp_path / "gate"
    gate.write_text("x" * 100)
    told = {"gate": str(gate), "log": {"file": str(log)}, "app": {"root_path": "/llm"}}
    with (
        running([sys.executable, str(SCRIPT), json.dumps(told)], stdout=subprocess.PIPE) as server,
        contextlib.ExitStack() as stack,
    ):
        assert server.stdout is not None
        upstream = f"127.0.0.1:{next(int(line) for line in server.stdout if line.strip().isdigit())}"
        port = free_port()
        command = (nginx if gateway is nginx else caddy)(tmp_path, port, upstream)
        errors = stack.enter_context((tmp_path / "gateway.log").open("w"))
        stack.enter_context(running([program, *command[1:]], stdout=errors, stderr=errors))
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        # A client that is not this machine's first address, so that it can be told from the gateway.
        transport = httpx.HTTPTransport(verify=trusting, local_address="127.0.0.2")
        base_url = f"https://localhost:{port}/llm"
        client = stack.enter_context(httpx.Client(base_url=base_url, transport=transport, timeout=60))
        wait_until(lambda: is_ready(client))

        answer = client.post("/v1/chat/completions", json=body("Hi"), headers={"x-request-id": "mine"})
        assert answer.json()["choices"][0]["message"]["content"] == "Hi"
        assert answer.headers["x-request-id"] == "mine"

        gate.write_text("x")  # the head comes with the first event
        with client.stream("POST", "/v1/chat/completions", json=body("abcdefgh", stream=True)) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            chunks, seen = response.iter_raw(), b""
            for number, letter in enumerate("abcdefgh", start=1):
                assert f'"content":"{letter}"'.encode() not in seen
                gate.write_text("x" * number)
                # None is made before the one before it has come through.
                while f'"content":"{letter}"'.encode() not in seen:
                    seen += next(chunks)
            gate.write_text("x" * 100)
            assert b"".join(chunks).endswith(b"data: [DONE]\n\n")

        with client.stream("POST", "/v1/chat/completions", json=body("x" * 400, stream=True)) as response:
            chunks = response.iter_raw()  # let go of, it hangs up
            next(chunks)
            assert running_answers(upstream) == 1
        wait_until(lambda: not running_answers(upstream))  # it would have gone on for ever

        assert client.post("/v1/chat/completions", json=body("x" * 3_900_000)).status_code == 400
        assert client.post("/v1/chat/completions", json=body("x" * 4_500_000)).status_code == 413
        for path in ("/metrics", "/llm/metrics"):
            assert client.get(f"https://localhost:{port}{path}").status_code == 403, "for the operator only"
        line = next(line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == "mine")
        assert line["client"] == "127.0.0.2"


def body(text: str, **more: object) -> dict[str, object]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}


def is_ready(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/ready").status_code == 200
    return False


def running_answers(upstream: str) -> float:
    lines = httpx.get(f"http://{upstream}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("ochatctl_answers_running ")))
