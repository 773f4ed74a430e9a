"""Runs that are stopped, killed, starved of disk or fed with what is not a number: each ends as it is said to."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ports_for_tests import free_port
from training_for_tests import tiny_config, write_base, write_data
from waiting_for_tests import wait_until

from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.train.resume import last_whole

pytestmark = pytest.mark.slow
QUIET = {"OMP_NUM_THREADS": "1"}
LEARNT = {"step", "num_steps", "epoch", "loss", "lr", "grad_norm", "tokens", "accuracy", "class_losses"}


class Runs:
    """A base, data, and `ochatctl train` on them."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.out = folder / "out"
        self.base = write_base(folder / "base", config=tiny_config(**changes))
        self.prefix = write_data(folder / "chats", self.base, num_rows=40)

    def command(self, *flags: str, out: Path | None = None, gpus: int = 2, strategy: str = "fsdp") -> list[str]:
        words = ("--model", str(self.base), "--data", str(self.prefix), "--out", str(out or self.out), "--cpu")
        more = ("--gpus", str(gpus), "--strategy", strategy, "--batch-tokens", "100", "--lr", "3e-3")
        return [sys.executable, "-m", "ochatctl", "train", *words, *more, *flags]

    def run(
        self, *flags: str, limit_bytes: int | None = None, environment: dict[str, str] | None = None, **more: Any
    ) -> "subprocess.CompletedProcess[str]":
        def limit() -> None:
            if limit_bytes:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

        words = self.command(*flags, **more)
        env = {**os.environ, **QUIET, **(environment or {})}
        return subprocess.run(
            words, capture_output=True, text=True, timeout=600, env=env, preexec_fn=limit, check=False
        )

    @contextlib.contextmanager
    def started(self, *flags: str, steps: int = 3, **more: Any) -> Iterator["subprocess.Popen[str]"]:
        """Start a run, and wait until it has taken some more steps."""
        enough = self.num_steps() + steps
        with subprocess.Popen(
            self.command(*flags, **more), stderr=subprocess.PIPE, text=True, env={**os.environ, **QUIET}
        ) as parent:
            try:
                wait_until(lambda: self.num_steps() >= enough or parent.poll() is not None, seconds=300)
                assert parent.poll() is None, parent.communicate()[1]
                yield parent
            finally:
                parent.kill()

    def num_steps(self) -> int:
        metrics = self.out / "metrics.jsonl"
        return max(0, metrics.read_text(encoding="utf-8").count("\n") - 1) if metrics.is_file() else 0

    def steps(self, out: Path | None = None) -> list[dict[str, Any]]:
        lines = ((out or self.out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        return [{key: value for key, value in json.loads(line).items() if key in LEARNT} for line in lines]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def ranks_of(parent: int) -> list[int]:
    """The training processes below `parent`."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    children: dict[int, list[int]] = {}
    for pid, ppid, _ in rows:
        children.setdefault(int(ppid), []).append(int(pid))
    loops = {int(pid) for pid, _, args in rows if "ochatctl.train.loop" in args and "torch.distributed.run" not in args}
    below, todo = [], [parent]
    while todo:
        found = children.get(todo.pop(), [])
        below += found
        todo += found
    return [pid for pid in below if pid in loops]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout


def test_signals_save_and_the_same_command_goes_on_to_the_last_digit(tmp_path: Path) -> None:
    """With dropout, so that the random state of each rank counts."""
    runs = Runs(tmp_path, model_type="phi3", resid_pdrop=0.2, embd_pdrop=0.1)
    flags = ("--epochs", "80", "--save-every", "80", "--seed", "3")
    whole = tmp_path / "whole"
    assert runs.run(*flags, out=whole).returncode == 0
    num_steps = len(runs.steps(whole))

    with runs.started(*flags) as parent:
        parent.send_signal(signal.SIGTERM)
        _, stderr = parent.communicate(timeout=300)
    assert parent.returncode == 0, stderr
    assert "SIGTERM: saving after this step, within 120 s" in stderr
    stopped_at = runs.num_steps()
    assert 3 <= stopped_at < num_steps
    assert [path.name for path in (runs.out / "resume").iterdir()] == [f"step_{stopped_at}"]

    with runs.started(*flags) as parent:
        parent.send_signal(signal.SIGINT)
        _, stderr = parent.communicate(timeout=300)
    assert parent.returncode == 130, stderr
    assert f"going on after step {stopped_at}" in stderr
    assert "Ctrl-C again ends at once" in stderr
    assert stopped_at < runs.num_steps() < num_steps
    assert [path.name for path in (runs.out / "resume").iterdir()] == [f"step_{runs.num_steps()}"]

    done = runs.run(*flags)
    assert done.returncode == 0, done.stderr
    assert runs.steps() == runs.steps(whole)
    assert (runs.out / "ep_80/model.safetensors").read_bytes() == (whole / "ep_80/model.safetensors").read_bytes()

    before = (runs.out / "metrics.jsonl").read_bytes()
    again = runs.run(*flags)
    assert again.returncode == 0
    assert "holds this run, finished" in again.stderr
    assert (runs.out / "metrics.jsonl").read_bytes() == before


def test_a_killed_parent_leaves_no_rank_and_the_next_run_goes_on(runs: Runs) -> None:
    flags = ("--epochs", "3000", "--save-every", "3000,1step", "--keep", "2")
    with runs.started(*flags, steps=5) as parent:
        ranks = ranks_of(parent.pid)
        assert len(ranks) == 2
        held = runs.run(*flags, "--dry-run")
        assert held.returncode == 5, held.stderr
        assert f"is in use by process {parent.pid}" in held.stderr
        parent.kill()  # in the middle of a save as like as not: one follows every step
        parent.wait()
    wait_until(lambda: not any(alive(rank) for rank in ranks))
    point, _ = last_whole(runs.out)
    assert point is not None
    planned = runs.run(*flags, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert f"going on after step {point.manifest.progress.step} of" in planned.stderr


def test_a_killed_rank_ends_the_run_with_its_name(runs: Runs) -> None:
    with runs.started("--epochs", "3000", "--save-every", "3000") as parent:
        ranks = ranks_of(parent.pid)
        os.kill(ranks[1], signal.SIGKILL)
        _, stderr = parent.communicate(timeout=300)
    assert parent.returncode == 7, stderr
    assert re.search(r"error: training stopped: rank \d (was killed by signal 9|ended with)", stderr), stderr
    wait_until(lambda: not any(alive(rank) for rank in ranks))


def test_a_rank_that_hangs_is_given_up_and_killed(runs: Runs) -> None:
    with runs.started("--epochs", "3000", "--save-every", "3000", "--timeout", "4") as parent:
        ranks = ranks_of(parent.pid)
        os.kill(ranks[1], signal.SIGSTOP)
        _, stderr = parent.communicate(timeout=300)
    assert parent.returncode == 7, stderr
    assert "error: training stopped: rank" in stderr
    wait_until(lambda: not any(alive(rank) for rank in ranks))


def test_ranks_that_cannot_save_in_time_are_killed(runs: Runs) -> None:
    with runs.started("--epochs", "3000", "--save-every", "3000,1step", "--grace", "1", steps=5) as parent:
        ranks = ranks_of(parent.pid)
        for rank in ranks:
            os.kill(rank, signal.SIGSTOP)
        parent.send_signal(signal.SIGTERM)
        _, stderr = parent.communicate(timeout=300)
    assert parent.returncode == 7, stderr
    assert "could not save within the 1 s of `--grace` and were ended; the last whole checkpoint is" in stderr
    wait_until(lambda: not any(alive(rank) for rank in ranks))


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_a_step_that_is_not_finite_is_skipped_and_its_rows_are_written_down(strategy: str, runs: Runs) -> None:
    """The embedding of a token that one row has is infinite: that row's steps fail, and no others."""
    if strategy == "deepspeed":
        pytest.importorskip("deepspeed")
    write_data(runs.prefix, runs.base, num_rows=40, last="\u2603")
    dataset = open_dataset(split_path(runs.prefix, "train"))
    rows_of: dict[int, set[int]] = {}
    for index in range(len(dataset)):
        for token in set(dataset.row(index).input_ids.tolist()):
            rows_of.setdefault(token, set()).add(index)
    token, row = next((token, min(rows)) for token, rows in rows_of.items() if len(rows) == 1)
    spoil(runs.base, token)
    done = runs.run("--epochs", "2", strategy=strategy)
    assert done.returncode == 0, done.stderr
    lines = (runs.out / "bad_steps.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"format": "ochatctl-bad-steps", "version": 1}
    bad = [json.loads(line) for line in lines[1:]]
    assert [step["epoch"] for step in bad] == [1, 2]
    assert all(row in step["rows"] for step in bad)
    assert all(f"step {step['step']} is skipped" in done.stderr for step in bad)
    steps = runs.steps()
    assert sorted(step["step"] for step in steps + bad) == list(range(1, steps[0]["num_steps"] + 1))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5, "the other steps have taught it something"


def spoil(base: Path, token: int) -> None:
    from safetensors.torch import load_file, save_file

    path = base / "model.safetensors"
    weights = load_file(path)
    weights["model.embed_tokens.weight"][token] = torch.inf
    save_file(weights, path, metadata={"format": "pt"})


def test_too_many_steps_that_are_not_finite_end_the_run(runs: Runs) -> None:
    done = runs.run("--lr", "1e30", "--max-bad-steps", "2", gpus=1)
    assert done.returncode == 7, done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert re.match(r"error: step \d+: the loss is .*, 2 times in a row; rows \d+, ", error)
    assert hint.startswith("hint: lower `--lr`, or look at the rows that `")
    assert runs.steps(), "the first steps were fine"
    text = (runs.out / "metrics.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert not list(runs.out.glob("ep_*"))


# In every process of a run: the disk is full but for a little as soon as the first checkpoint is whole.
FILLING = """
import pathlib, shutil, sys

disk = pathlib.Path({disk!r})

def fill(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("resume/step_2"):
        (disk / "filler").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - 400_000)))

sys.addaudithook(fill)
"""


def test_a_full_disk_leaves_the_old_checkpoint_and_training_goes_on(runs: Runs, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2600k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a small disk here")
    try:
        out = disk / "out"
        flags = ("--epochs", "2", "--save-every", "2,2steps")
        filling = tmp_path / "filling"
        filling.mkdir()
        (filling / "sitecustomize.py").write_text(FILLING.format(disk=str(disk)))
        done = runs.run(*flags, out=out, environment={"PYTHONPATH": f"{filling}:{os.environ.get('PYTHONPATH', '')}"})
        assert done.returncode == 0, done.stderr
        assert "NOT SAVED: the resume checkpoint at step 4" in done.stderr
        assert "not saved: the resume checkpoint at step 4" in done.stdout
        assert [path.name for path in (out / "resume").iterdir()] == ["step_2"]
        assert (out / "ep_2" / "model.safetensors").is_file()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_write_that_fails_on_a_rank_leaves_no_rank_waiting(runs: Runs) -> None:
    """No file may grow beyond 200 kB, which a model here does not reach and the optimizer's state does."""
    pytest.importorskip("deepspeed")
    # DeepSpeed compiles its collectives in the first run on a machine, and the compiler's files are larger than that.
    first = runs.run("--epochs", "1", out=runs.out.with_name("first"), strategy="deepspeed")
    assert first.returncode == 0, first.stderr
    done = runs.run("--epochs", "2", "--save-every", "2,3steps", limit_bytes=200_000, strategy="deepspeed")
    assert done.returncode == 0, done.stderr
    assert "NOT SAVED: the resume checkpoint at step 3: rank" in done.stderr
    assert not list((runs.out / "resume").iterdir())
    assert (runs.out / "ep_2" / "model.safetensors").is_file()


def test_a_model_that_cannot_be_saved_ends_the_run_with_exit_7(runs: Runs) -> None:
    done = runs.run("--epochs", "2", "--save-every", "1", limit_bytes=120_000, gpus=1)
    assert done.returncode == 7, done.stderr
    assert "NOT SAVED: the model of epoch 1" in done.stderr
    assert "error: the trained model could not be saved" in done.stderr
    assert not list(runs.out.glob("*ep_*"))


def test_a_key_that_deepspeed_does_not_know_is_a_sentence_and_exit_3(runs: Runs, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    table = {"zero_optimization": {"stage": 2, "overlap_com": True, "reduce_bucket_size": "many"}}
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    done = runs.run("--deepspeed-config", str(path), gpus=1, strategy="deepspeed")
    assert done.returncode == 3, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "`zero_optimization.overlap_com` is `true`: an unknown key" in error
    assert '`zero_optimization.reduce_bucket_size` is `"many"`' in error
    assert "Traceback" not in done.stderr


def test_two_nodes_train_one_model_and_stop_together(runs: Runs) -> None:
    """Two parents and two launchers on this machine, one rank each; only the first writes."""
    port = free_port()
    flags = ("--epochs", "3000", "--save-every", "3000", "--nodes", "2", "--rdzv", f"localhost:{port}")
    second = subprocess.Popen(
        runs.command(*flags, "--node-rank", "1", gpus=1),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **QUIET},
    )
    try:
        with runs.started(*flags, "--node-rank", "0", gpus=1) as first:
            # Told on one node, both stop.
            second.send_signal(signal.SIGTERM)
            _, stderr = first.communicate(timeout=300)
            stdout, stderr_of_second = second.communicate(timeout=300)
    finally:
        second.kill()
    assert (first.returncode, second.returncode) == (0, 0), stderr + stderr_of_second
    stopped_at = runs.num_steps()
    assert f"stopped after step {stopped_at}" in stdout
    assert [path.name for path in (runs.out / "resume").iterdir()] == [f"step_{stopped_at}"]
    assert {"run.json", "run.node1.json", "train.log", "train.node1.log"} <= {path.name for path in runs.out.iterdir()}
    assert [step["step"] for step in runs.steps()] == list(range(1, stopped_at + 1))
