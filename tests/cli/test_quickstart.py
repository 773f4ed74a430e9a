"""The whole chain, as a user runs it."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers_for_tests import model_dir
from waiting_for_tests import wait_until

ENDED = "and the model has ended it, with its end-of-turn token"
VERBATIM = "the reply is, word for word, the answer that it was trained on"


def quickstart(*arguments: str, cwd: Path, timeout: int = 60) -> subprocess.CompletedProcess[str]:
    """Run `ochatctl quickstart` in an empty folder of its own."""
    cwd.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "ochatctl", "quickstart", *arguments]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, cwd=cwd, env=env, timeout=timeout, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def servers_of(folder: Path) -> list[str]:
    """Give the command lines of servers that still run on a model in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if "serve" in words and (process / "cwd").resolve() == folder.resolve():
                found.append(" ".join(words))
        except (OSError, UnicodeDecodeError):
            continue
    return found


def test_a_step_that_fails_says_how_to_resume_and_the_done_ones_are_kept(tmp_path: Path) -> None:
    for attempt in range(2):
        done = quickstart("--model", "./absent", cwd=tmp_path)
        assert done.returncode == 7
        assert "error: `./absent` is neither a folder nor a hub id" in done.stdout
        assert "hint: mend it, then `ochatctl quickstart --out quickstart --model ./absent` resumes" in done.stdout
        assert ("done before; kept" in done.stdout) == (attempt == 1)
    assert list(json.loads((tmp_path / "quickstart" / "quickstart.json").read_text())["done"]) == ["clean"]
    (tmp_path / "quickstart" / "chats.jsonl").unlink()
    state = {"version": 1, "model": "./absent", "done": {"clean": 1.0, "train": 1.0}}
    (tmp_path / "quickstart" / "quickstart.json").write_text(json.dumps(state))
    assert quickstart("--model", "./absent", cwd=tmp_path).returncode == 7
    kept = json.loads((tmp_path / "quickstart" / "quickstart.json").read_text())["done"]
    assert list(kept) == ["clean"], "a step that ran again makes all after it run again"
    other = quickstart(cwd=tmp_path)
    assert other.returncode == 2
    assert "`quickstart` was made with `--model ./absent`" in other.stdout
    fresh = quickstart("--fresh", cwd=tmp_path)
    assert fresh.returncode == 2
    assert "`--fresh` deletes `quickstart`" in fresh.stdout


def test_a_folder_of_a_newer_version_is_refused_with_both_named(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "quickstart.json").write_text(json.dumps({"version": 2}))
    done = quickstart(cwd=tmp_path)
    assert done.returncode == 3
    assert "version 2 is newer than 1" in done.stdout


def test_a_folder_of_somebody_else_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for flags in ([], ["--fresh", "--yes"]):
        done = quickstart("--out", "mine", *flags, cwd=tmp_path)
        assert done.returncode == 2
        assert "not made by quickstart" in done.stdout
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def children_seconds() -> float:
    """Give what processes that have ended took of the CPU: that a machine has other work too does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_the_chain_from_scratch_recites_what_it_was_trained_on_and_resumes(tmp_path: Path) -> None:
    before = children_seconds()
    done = quickstart(cwd=tmp_path, timeout=1200)
    assert done.returncode == 0, done.stdout
    assert children_seconds() - before <= 240, done.stdout
    assert VERBATIM in done.stdout
    assert ENDED in done.stdout
    steps = re.findall(r"^\$ ochatctl ((?:data |bench )?[\w-]+)", done.stdout, re.MULTILINE)
    assert steps == ["data clean", "make-base", "add-eot", "data pack", "train", "serve", "chat", "bench suite"]
    assert "go on with: ochatctl chat --model quickstart/run" in done.stdout
    assert servers_of(tmp_path) == []

    again = quickstart(cwd=tmp_path, timeout=600)
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("done before; kept") == 5
    assert VERBATIM in again.stdout


@pytest.mark.slow
def test_a_stopped_chain_leaves_no_server(tmp_path: Path) -> None:
    """On the folder of a real model, in the middle of its first step that takes time."""
    command = [sys.executable, "-m", "ochatctl", "quickstart", "--out", "q"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step ") or "ready at" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=120)
    assert process.returncode == 143
    wait_until(lambda: not any(_works_in(process, tmp_path) for process in Path("/proc").glob("[0-9]*")), seconds=30)


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").resolve() == folder.resolve()
    except OSError:
        return False


@pytest.mark.slow
def test_the_chain_on_a_real_model_works_with_both_engines(tmp_path: Path) -> None:
    model = str(model_dir())
    before = children_seconds()
    done = quickstart("--model", model, cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stdout
    assert children_seconds() - before <= 360, done.stdout
    log = [json.loads(line) for line in (tmp_path / "quickstart/run/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in log if "loss" in row]
    assert sum(row["tokens"] for row in steps) <= 6000
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert "ochatctl is a Python toolkit" in done.stdout.partition("$ ochatctl chat")[2].partition("trained answer")[0]
    assert ENDED in done.stdout, "a real base learns the new token last"

    pytest.importorskip("vllm")
    other = quickstart("--model", model, "--engine", "vllm", cwd=tmp_path, timeout=1800)
    assert other.returncode == 0, other.stdout
    assert other.stdout.count("done before; kept") == 4
    assert "engine: vllm" in (tmp_path / "quickstart/serve.log").read_text()
    assert "ochatctl is a Python toolkit" in other.stdout.partition("$ ochatctl chat")[2].partition("trained answer")[0]
