"""`ochatctl data download` and `data sources`: what a user reads, and what a hub and a kill do to it."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from download_stub_for_tests import COMMIT, Stub, download_stub
from typer.testing import CliRunner
from waiting_for_tests import wait_until

from ochatctl.cli.app import app
from ochatctl.cli.commands import register

register(app)
CHATS = json.dumps(
    [{"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]
).encode()


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_sources_are_listed_with_size_and_licence() -> None:
    text = run("data", "sources").stdout
    assert "openchat/openchat_sharegpt_v3" in text
    assert "MIT" in text
    table = json.loads(run("data", "sources", "--json").stdout)
    assert table["openchat_sharegpt_v3"]["licence"] == "MIT"
    assert set(table["openchat_sharegpt_v3"]) == {"repo", "about", "licence", "size", "include"}


def test_a_local_file_is_copied_verified_and_the_next_command_cleans_it(tmp_path: Path) -> None:
    (tmp_path / "chats.json").write_bytes(CHATS)
    args = ("data", "download", tmp_path / "chats.json", "--out", tmp_path / "raw")
    assert "chats.json" in run(*args, "--dry-run").stdout
    assert not (tmp_path / "raw").exists()
    result = run(*args)
    assert "1 file, " in result.stderr
    command = result.stdout.splitlines()[-1].removeprefix("next: ochatctl ")
    assert command == f"data clean {tmp_path / 'raw' / 'chats.json'} --out clean.jsonl"
    assert "already whole, verified" in run(*args).stdout
    report = json.loads(run(*args, "--json").stdout)
    assert report["files"] == [{"path": "chats.json", "bytes": len(CHATS), "sha256": hashlib.sha256(CHATS).hexdigest()}]
    assert report["num_new"] == 0
    run(*command.replace("clean.jsonl", str(tmp_path / "clean.jsonl")).split())
    assert json.loads((tmp_path / "clean.jsonl").read_text())["messages"][1]["content"] == "Hello"


def test_what_is_there_and_what_is_unknown_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "chats.json").write_bytes(CHATS)
    assert "--yes" in run("data", "download", tmp_path / "chats.json", "--out", Path(__file__).parent, code=2).stderr
    assert "data sources" in run("data", "download", "nothing", "--out", tmp_path / "x", code=3).stderr
    assert not (tmp_path / "x").exists()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with download_stub() as server:
        yield server


def environment(stub: Stub, tmp_path: Path, **more: str) -> dict[str, str]:
    env = {"HF_ENDPOINT": stub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return {key: value for key, value in os.environ.items() if key != "HF_TOKEN"} | env | more


def call(stub: Stub, tmp_path: Path, *args: str, **more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ochatctl", "data", "download", *args]
    env = environment(stub, tmp_path, **more)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("lfs", [True, False], ids=["lfs", "git"])
def test_a_hub_data_set_is_pinned_checked_and_chosen_from(stub: Stub, tmp_path: Path, lfs: bool) -> None:
    stub.lfs = lfs
    stub.files = {"/cdn/data/chats.json": CHATS, "/cdn/README.md": b"# Chats", "/cdn/empty.json": b""}
    stub.faults["/api/datasets/owner/chats"] = ["503"]
    out = tmp_path / "raw"
    done = call(stub, tmp_path, "owner/chats@main", "--out", str(out), "--include", "data/*", HF_TOKEN="hf_mine")
    assert done.returncode == 0, done.stderr
    assert f"owner/chats@main at {COMMIT}: 1 file that match data/*" in done.stderr
    assert (out / "data" / "chats.json").read_bytes() == CHATS
    assert not (out / "README.md").exists()
    manifest = json.loads((out / "download.json").read_text())
    assert manifest["revision"] == COMMIT
    assert manifest["files"][0]["sha256"] == hashlib.sha256(CHATS).hexdigest()
    assert COMMIT in manifest["files"][0]["url"]
    assert {seen.token for seen in stub.seen if "resolve" in seen.path} == {"Bearer hf_mine"}

    stub.seen.clear()
    again = call(stub, tmp_path, "owner/chats@main", "--out", str(out), "--include", "data/*", HF_HUB_OFFLINE="1")
    assert "already whole, verified" in again.stdout
    assert not stub.seen

    whole = call(stub, tmp_path, "owner/chats", "--out", str(tmp_path / "all"))
    assert whole.returncode == 0, whole.stderr
    assert (tmp_path / "all" / "empty.json").read_bytes() == b""
    assert (tmp_path / "all" / "README.md").read_bytes() == b"# Chats"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "settings", "message", "hint"),
    [
        ("owner/chats", {"gated": True}, "does not let you in", "/datasets/owner/chats, then `hf auth login`"),
        ("owner/none", {}, "no dataset `owner/none` on the hub", "hf auth login"),
        ("owner/chats@v9", {}, "has no revision `v9`", "leave `@revision` out"),
        ("owner/chats", {"wrong_sha256": True}, "its SHA-256 is", "run the command again"),
        ("owner/chats", {"faults": {"/api/datasets/owner/chats": ["500"] * 3}}, "the hub failed", "try again"),
        ("owner/chats", {"offline": True}, "the hub cannot be reached", "`HF_HUB_OFFLINE` unset"),
        ("owner/chats", {"nobody": True}, "the hub cannot be reached", "check the network"),
    ],
    ids=["gated", "unknown", "revision", "checksum", "overloaded", "offline", "nobody"],
)
def test_what_the_hub_refuses_is_exit_6_with_what_helps(
    stub: Stub, tmp_path: Path, source: str, settings: dict[str, Any], message: str, hint: str
) -> None:
    more = {"HF_HUB_OFFLINE": "1"} if settings.pop("offline", False) else {}
    more |= {"HF_ENDPOINT": "http://127.0.0.1:9"} if settings.pop("nobody", False) else {}
    stub.files = {"/cdn/chats.json": CHATS}
    for name, value in settings.items():
        setattr(stub, name, value)
    done = call(stub, tmp_path, source, "--out", str(tmp_path / "raw"), **more)
    assert done.returncode == 6, done.stderr
    error, hinted = done.stderr.splitlines()[-2:]
    assert message in error
    assert hint in hinted
    assert not list(tmp_path.glob("raw/[!.]*"))


def wait_for_bytes(part: Path, least: int, process: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: process.poll() is not None or (part.exists() and part.stat().st_size > least))
    assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hub", "url"])
def test_a_killed_download_is_resumed_and_nothing_partial_ever_has_its_name(
    stub: Stub, tmp_path: Path, kind: str
) -> None:
    data = random.Random(0).randbytes(3_000_000)
    stub.files = {"/cdn/a.json": CHATS, "/cdn/chats.json": data}
    stub.most_bytes = 600_000
    out = tmp_path / "raw"
    source = "owner/chats" if kind == "hub" else f"{stub.url}/cdn/chats.json"
    part, seen_bytes = out / ".chats.json.part", 0
    for _ in range(3):
        command = [sys.executable, "-m", "ochatctl", "data", "download", source, "--out", str(out)]
        with subprocess.Popen(command, env=environment(stub, tmp_path), stderr=subprocess.DEVNULL) as process:
            wait_for_bytes(part, seen_bytes + 300_000, process)
            process.send_signal(signal.SIGKILL)
        assert part.stat().st_size > seen_bytes
        seen_bytes = part.stat().st_size
        assert not (out / "chats.json").exists()
        assert not (out / "download.json").exists()
    stub.most_bytes = None
    before = len(stub.seen)
    done = call(stub, tmp_path, source, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert (out / "chats.json").read_bytes() == data
    names = {path.name for path in out.iterdir()}
    assert names == ({"a.json"} if kind == "hub" else set()) | {"chats.json", "download.json"}
    # Nothing that was on disk is asked for again, neither the file that was whole nor the bytes of the other one.
    asked = [(seen.path, seen.range) for seen in stub.seen[before:] if seen.path.startswith("/cdn/")]
    assert asked == [("/cdn/chats.json", f"bytes={seen_bytes}-")]
    manifest = json.loads((out / "download.json").read_text())
    assert manifest["files"][-1]["sha256"] == hashlib.sha256(data).hexdigest()
