"""A trained model -> the hub. The hub is a stub that answers over HTTP as the real one does."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from training_for_tests import write_base

from ochatctl.errors import ConfigError, UsageProblem
from ochatctl.files import write_json
from ochatctl.train.push import prepare_push


def write_run(tmp_path: Path, **run: Any) -> Path:
    base = write_base(tmp_path / "run" / "ep_2")
    write_json(tmp_path / "run" / "run.json", {"model_dir": str(tmp_path / "base"), "num_epochs": 2} | run)
    return base.parent


def test_a_run_s_last_model_is_sent_and_the_card_names_no_path_of_this_machine(tmp_path: Path) -> None:
    run = write_run(tmp_path, data_path=str(tmp_path / "packed" / "chats.train.parquet"))
    plan = prepare_push(run, "me/name")
    assert plan.private
    assert plan.model_dir == run / "ep_2"
    assert {"config.json", "model.safetensors", "openchat.json"} <= {path.name for path in plan.files}
    assert plan.card is not None
    assert str(tmp_path) not in plan.card
    assert "chats.train.parquet" in plan.card
    assert "license" not in plan.card
    assert any("licence is not known" in note for note in plan.notes)


def test_base_and_licence_come_from_the_hub_s_snapshot(tmp_path: Path) -> None:
    base = tmp_path / "models--owner--base" / "snapshots" / "abc"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: llama2\n---\nA base.\n", encoding="utf-8")
    plan = prepare_push(write_run(tmp_path, model_dir=str(base)), "me/name")
    assert plan.card is not None
    assert plan.card.startswith("---\nlicense: llama2\nbase_model: owner/base\n")
    assert plan.notes == ()


def test_a_card_of_one_s_own_is_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / "ep_2" / "README.md").write_text("mine", encoding="utf-8")
    plan = prepare_push(run, "me/name")
    assert plan.card is None
    assert run / "ep_2" / "README.md" in plan.files


def test_what_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="not a name on the hub"):
        prepare_push(write_run(tmp_path), "a/b/c")
    with pytest.raises(UsageProblem, match="is no folder"):
        prepare_push(tmp_path / "absent", "me/name")
    with pytest.raises(ConfigError, match="holds no model"):
        prepare_push(tmp_path, "me/name")


class Hub(ThreadingHTTPServer):
    """The routes that an upload takes; `files` is what the repository holds after it. Nothing is sent as LFS."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(
            {"id": "me/name", "private": self.server.private, "siblings": [{"rfilename": n} for n in self.server.files]}
        )

    def do_POST(self) -> None:
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer({"error": "Invalid credentials"}, status=401)
            return
        content, url = self.content(), f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            if self.server.private is None:
                table = json.loads(content)
                self.server.private = table["visibility"] == "private" if "visibility" in table else table["private"]
            self.answer({"url": f"{url}/me/name", "id": "1"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(content)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self.answer({"files": modes})
        elif self.path.endswith("/commit/main"):
            self.commit(content.decode())
            self.answer({"success": True, "commitUrl": f"{url}/me/name/commit/1", "commitOid": "1", "hookOutput": ""})
        else:
            self.answer({"error": f"no route {self.path}"}, status=404)

    def commit(self, lines: str) -> None:
        for line in map(json.loads, lines.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])

    def content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, table: dict[str, Any], *, status: int = 200) -> None:
        body = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def push(hub: Hub, tmp_path: Path, *arguments: str, token: str = "hf_right") -> "subprocess.CompletedProcess[str]":
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    env = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-m", "ochatctl", "push", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_a_folder_is_sent_whole_and_private_and_nothing_is_overwritten_unasked(hub: Hub, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    done = push(hub, tmp_path, str(run), "me/name")
    assert done.returncode == 0, done.stderr
    assert "(private)" in done.stdout
    assert hub.private is True
    sent = {path.name: path.read_bytes() for path in (run / "ep_2").iterdir()}
    assert {name: hub.files[name] for name in sent} == sent
    assert b"base_model" not in hub.files.pop("README.md")

    again = push(hub, tmp_path, str(run), "me/name")
    assert again.returncode == 2
    assert f"holds {len(sent)} files already" in again.stderr
    assert push(hub, tmp_path, str(run), "me/name", "--yes").returncode == 0

    hub.private = False
    public = push(hub, tmp_path, str(run), "me/name", "--yes")
    assert public.returncode == 2
    assert "`me/name` is public" in public.stderr

    refused = push(hub, tmp_path, str(run), "me/name", token="hf_wrong")
    assert refused.returncode == 6
    assert "hf auth login" in refused.stderr
