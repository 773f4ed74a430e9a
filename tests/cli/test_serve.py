"""`ochatctl serve`: OpenChat's own lines, and one real process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner
from waiting_for_tests import wait_until

from ochatctl.cli import serve
from ochatctl.cli.app import OchatGroup, root

app = typer.Typer(cls=OchatGroup)
app.callback()(root)
serve.register(app)
PAGE = "--model openchat/openchat_v3.2_super "


def call(*arguments: str, **env: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["serve", *arguments], env={"HF_HUB_OFFLINE": "1", **env})
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    "line",
    [
        PAGE + "--engine-use-ray --worker-use-ray",
        PAGE + "--engine-use-ray --worker-use-ray --tensor-parallel-size 2",
        PAGE + "--api-keys sk-KEY1 sk-KEY2 --disable-log-requests --disable-log-stats --log-file openchat.log",
        "--model openchat/openchat_v3.2 --model-type openchat_v3.2 --stream-period 6 --log-max-mb 1 --log-max-count 2",
        PAGE + """--allow-credentials --allowed-origins ["*"] --allowed-methods ["*"] --allowed-headers ["*"]""",
        "--tp 2 --api-keys sk-1",
        "--tensor-parallel-size 2",
        "--api-keys",
        "",
    ],
)
def test_openchats_lines_parse_and_end_with_what_to_do(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = call(*line.split(), "--port", "0", HF_HOME=str(tmp_path))
    # 6: this test's hub is offline and no folder of that name is here.
    assert code in (2, 5, 6), said
    assert "no such option" not in said.lower()
    assert re.search(r"^hint: .*(ochatctl|pip install|hf download)", said, re.MULTILINE), said
    if "--model" not in line:
        assert (code, "ochatctl serve --model openchat/openchat_v3.2_super" in said) == (2, True)


def test_serve_alone_says_what_it_needs() -> None:
    code, said = call()
    assert (code, said.splitlines()[0]) == (2, "error: `--model` is missing")


def test_a_flag_that_the_engine_cannot_honour_is_never_ignored() -> None:
    others = (["--quantization", "awq"], ["--engine-arg", "swap_space=4"], ["--dtype", "bfloat16"])
    for flag in (["--tp", "2"], ["--gpu-memory-utilization", "0.5"], *others):
        code, said = call("--engine", "echo", "--port", "0", *flag)
        assert code == 3, said
        assert flag[0] in said


def test_a_flag_that_is_unknown_is_named_with_the_way_to_vllm() -> None:
    code, said = call("--engine", "echo", "--swap-space", "4")
    assert (code, "`--swap-space`" in said, "--engine-arg swap_space=4" in said) == (2, True, True)
    code, said = call("--engine", "echo", "--max-quue=3")
    assert (code, "did you mean `--max-queue`" in said) == (2, True)


def test_every_limit_is_a_flag_with_its_default() -> None:
    from dataclasses import asdict

    from ochatctl.engine.load import LoadConfig
    from ochatctl.serve.config import LimitConfig

    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    params = {param.name: param for param in command.params}
    limits = asdict(LimitConfig()) | {"schema_timeout_seconds": LoadConfig().schema_timeout_seconds}
    assert len(limits) > 15
    assert {name: params[name].default for name in limits} == limits
    assert all(params[name].show_default for name in limits)


def test_a_preset_gives_way_to_what_is_typed(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text('command = "serve"\nengine = "echo"\nmax_model_len = 99\nport = 0\n')
    result = CliRunner().invoke(app, ["serve", "--preset", str(preset), "--dry-run", "--json"])
    assert (result.exit_code, json.loads(result.stdout)["context_tokens"]) == (0, 99), result.stderr
    result = CliRunner().invoke(app, ["serve", "--preset", str(preset), "--max-model-len", "77", "--dry-run"])
    assert "77 tokens of context" in result.stdout
    preset.write_text('command = "serve"\nmax_quue = 1\n')
    code, said = call("--preset", str(preset))
    assert (code, "did you mean `max_queue`" in said) == (3, True)
    assert call("--preset", "laptop")[0] == 3


def test_a_preset_whose_value_is_of_another_kind_is_named(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    for line, key in (('max_queue = "many"', "max_queue"), ("port = 70000", "port"), ('no_web = "x"', "no_web")):
        preset.write_text(f'command = "serve"\n{line}\n')
        code, said = call("--preset", str(preset))
        assert (code, "mine.toml" in said, f"`{key}`" in said) == (3, True, True), said


def test_what_could_not_serve_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    # The model is looked for last: were it reached, that would be the fault.
    model = ("--engine", "hf", "--model", "/nowhere/at-all", "--port", "0")
    for flags, code, words in (
        (("--log-file", f"{tmp_path}/none/x.log"), 5, "cannot be written"),
        (("--root-path", "llm"), 2, "`--root-path llm`"),
        (("--root-path", "/a?b"), 2, "--root-path /llm"),
        (("--api-keys-file", f"{tmp_path}/none.json"), 4, "ochatctl keys new --name alice"),
        (("--api-keys", "a\tb"), 3, "API key"),
        (("--api-keys", ""), 2, "`--api-keys` holds no key"),
        (("--api-keys", "--no-web"), 2, "ochatctl serve --no-auth"),
    ):
        assert (got := call(*model, *flags))[0] == code, got
        assert words in got[1]
    assert call(*model, "--root-path", "/llm/")[0] == 3


def test_the_presets_for_serving_are_flags() -> None:
    from ochatctl.presets import load_preset, names

    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    presets = [preset for preset in map(load_preset, names()) if preset.command == "serve"]
    assert presets
    for preset in presets:
        assert set(preset.table) <= {param.name for param in command.params}, preset.name


def test_a_dry_run_tells_the_memory_by_part_and_loads_nothing(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.zeros((1000, 10), np.float16)}, tmp_path / "model.safetensors")
    sizes = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"max_position_embeddings": 512, "model_type": "llama"}))
    from ochatctl.chat.byte_tokenizer import ByteTokenizer
    from ochatctl.chat.families import get_family
    from ochatctl.cli.serve_plan import describe_plan
    from ochatctl.engine.choose import Choice
    from ochatctl.engine.load import FoundModel, LoadConfig
    from ochatctl.serve.config import ServeConfig
    from ochatctl.serve.plan import make_plan

    family = get_family("chatml")
    tokenizer = ByteTokenizer(family.template.control_strings)
    choice = Choice(kind="vllm", reason="as asked")
    model = FoundModel(choice=choice, family=family, tokenizer=tokenizer, names=("x",), folder=tmp_path)
    plan = make_plan(ServeConfig(load=LoadConfig(model=str(tmp_path), max_model_len=100)), model)
    assert plan.need is not None
    assert [part.num_bytes for part in plan.need.parts] == [20_000, 2 * 2 * 4 * 16 * 2 * 100]
    assert (plan.context_tokens, plan.fits) == (100, True)
    said = describe_plan(plan)
    assert "KV cache of 100 tokens" in said
    assert said.startswith(f"engine: vllm on {plan.device}: as asked\n")


def test_a_certificate_that_cannot_be_used_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no PEM")
    for name in ("bad.pem", "none.pem"):
        code, said = call("--engine", "echo", "--port", "0", "--ssl-certfile", str(tmp_path / name))
        assert (code, name in said) == (5, True)
    assert call("--engine", "echo", "--port", "0", "--ssl-keyfile", str(tmp_path / "bad.pem"))[0] == 2


def test_other_machines_may_call_only_with_a_key_or_a_word() -> None:
    code, said = call("--engine", "echo", "--host", "0.0.0.0")
    assert code == 2
    assert "--no-auth" in said


def test_a_taken_port_is_said_with_a_free_one_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = call("--engine", "hf", "--model", "/nowhere/at-all", "--port", str(port))
        dry = CliRunner().invoke(app, ["serve", "--engine", "echo", "--port", str(port), "--dry-run"])
    assert code == 5
    assert f"port {port}" in said
    # An estimate does not need it.
    assert (dry.exit_code, f"port {port}" in dry.stderr) == (0, True), dry.stderr
    free = int(re.search(r"`--port (\d+)` is free", said)[1])  # type: ignore[index]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free))


@contextmanager
def process(*arguments: str, **env: str) -> Iterator[tuple["subprocess.Popen[str]", str, list[str]]]:
    """Start a server; give the process, its address and what it said up to then."""
    command = [sys.executable, "-m", "ochatctl", "serve", "--port", "0", *arguments]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **env}
    )
    said: list[str] = []
    try:
        assert server.stderr is not None
        url = ""
        while not url:
            line = server.stderr.readline()
            assert line, f"the server ended: {said}"
            said.append(line)
            url = line.removeprefix("ready: ").strip() if line.startswith("ready: ") else ""
        yield server, url, said
    finally:
        if server.poll() is None:
            server.kill()
        server.communicate()


BODY = {"model": "openchat_v3.2", "messages": [{"role": "user", "content": "secret words"}]}


def test_a_real_server_answers_logs_without_texts_drains_at_sigterm_and_ends_with_0(tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    keys = {"OCHATCTL_API_KEYS": "sk-1 sk-2"}
    flags = ("--log-file", str(log), "--served-model-name", "mine", "--forwarded-allow-ips", "10.0.0.5")
    with process("--engine", "echo", *flags, **keys) as (
        server,
        url,
        said,
    ):
        assert "2" in next(line for line in said if line.startswith("keys: "))
        assert httpx.post(f"{url}/chat/completions", json=BODY).status_code == 401
        # This client is not among the proxies that are believed.
        headers = {"authorization": "Bearer sk-2", "x-request-id": "abc", "x-forwarded-for": "6.6.6.6"}
        answer = httpx.post(f"{url}/chat/completions", json=BODY | {"model": "mine"}, headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == "secret words"
        assert answer.headers["x-request-id"] == "abc"
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
        assert server.stderr is not None
        printed = "".join(said) + server.stderr.read()
    written = log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert written.count("\n") == 2
    for text in (printed, written):
        assert '"request_id":"abc"' in text.replace(": ", ":")
        assert "sk-" not in text.replace("sk-YOUR", "")
        assert "secret" not in text
        assert "6.6.6.6" not in text


@pytest.mark.slow
def test_what_is_under_way_at_sigterm_is_finished_and_nothing_new_is_taken() -> None:
    import threading

    with process("--engine", "echo", "--disable-log-requests") as (server, url, _):
        client = httpx.Client(timeout=20)
        long = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "x" * 4_000}]}
        texts: list[str] = []

        def read() -> None:
            with client.stream("POST", f"{url}/chat/completions", json=long) as response:
                texts.extend(response.iter_text())

        thread = threading.Thread(target=read)
        thread.start()
        while not texts:
            time.sleep(0.001)
        server.send_signal(signal.SIGTERM)
        thread.join()
        assert "".join(texts).endswith("data: [DONE]\n\n")
        assert server.wait(timeout=60) == 0
        client.close()
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


@pytest.mark.slow
def test_a_second_signal_does_not_wait() -> None:
    with process("--engine", "echo") as (server, url, _):
        with socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))) as half:
            half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            half.sendall(b"Content-Length: 100\r\n\r\n")
            root = url.removesuffix("/v1")
            # The one that is half there, and the one that asks.
            wait_until(lambda: "ochatctl_requests_running 2.0" in httpx.get(root + "/metrics").text)
            server.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx.get(root + "/ready").status_code == 503)
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(timeout=0.5)
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
            assert time.monotonic() - began < 15  # a body is waited for longer
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()


def test_ctrl_c_ends_with_130() -> None:
    with process("--engine", "echo") as (server, _, _):
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 130
