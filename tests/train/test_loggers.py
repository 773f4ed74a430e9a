"""Who else hears of a run: what is asked for is read strictly, and arrives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_for_tests import write_base, write_data

from ochatctl.errors import ConfigError
from ochatctl.train.loggers import numbers_of, read_loggers
from ochatctl.train.records import Evaluated, Stepped

STEP = Stepped(
    step=3, num_steps=9, epoch=1, num_epochs=1, loss=1.5, lr=1e-3, grad_norm=2.0, tokens=7, tokens_per_second=70.0,
    seconds=0.1, class_losses={"GPT4": 1.0},
)  # fmt: skip
EVALUATED = Evaluated(
    step=3, epoch=1, num_epochs=5, eval_loss=None, eval_accuracy=0.5, class_losses={}, class_accuracies={"GPT3": 0.25},
    tokens=9, seconds=2.0,
)  # fmt: skip


def test_metrics_jsonl_is_always_written() -> None:
    assert read_loggers("jsonl") == read_loggers("") == ("jsonl",)
    assert read_loggers(" wandb,tensorboard") == ("jsonl", "tensorboard", "wandb")
    with pytest.raises(ConfigError, match="did you mean `tensorboard`"):
        read_loggers("tensorbord")


def test_numbers_have_names_by_room_and_class_and_what_is_not_known_has_none() -> None:
    step, evaluated = numbers_of(STEP), numbers_of(EVALUATED)
    assert step["train/loss"] == 1.5
    assert step["train/class_losses/GPT4"] == 1.0
    assert "train/mfu" not in step
    assert evaluated["eval/accuracy"] == 0.5
    assert evaluated["eval/class_accuracies/GPT3"] == 0.25
    assert "eval/loss" not in evaluated
    assert not any(name.endswith("/step") for name in (*step, *evaluated))


# An offline file is LevelDB's log: blocks of 32 KiB, records in them behind a checksum, a length and a type, which says
# whether it goes on in the next. In a process of its own, since wandb warns when it is imported.
_READ_WANDB = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2
data, at, whole = open(sys.argv[1], "rb").read(), 7, b""
while at + 7 <= len(data):
    left = 32768 - at % 32768
    length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
    if left < 7 or kind == 0:
        at += left
        continue
    whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
    if kind in (1, 4):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(whole)
        whole = b""
        if record.HasField("run"):
            print(json.dumps({"id": record.run.run_id}))
        if record.HasField("history"):
            items = record.history.item
            print(json.dumps({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}))
"""


@pytest.mark.slow
def test_two_ranks_with_fewer_rows_than_ranks_log_to_tensorboard_and_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    base = write_base(tmp_path / "base")
    prefix = write_data(tmp_path / "chats", base, num_rows=16)
    write_data(prefix, base, num_rows=1, split="eval")
    out = tmp_path / "out"
    flags = (
        *("--gpus", "2", "--strategy", "fsdp", "--batch-tokens", "80", "--save-every", "9epochs,2steps"),
        *("--logger", "tensorboard,wandb", "--cpu", "--json", "--no-selfcheck"),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    words = ["--model", str(base), "--data", str(prefix), "--out", str(out), *flags]
    results = []
    for epochs in ("1", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "ochatctl", "train", *words, "--epochs", epochs],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
        if len(results) == 1:
            # As after a kill behind the last resume checkpoint.
            for path in out.glob("ep_*"):
                path.rename(tmp_path / path.name)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    # Every number of `metrics.jsonl`, by name and step: the learning rate, the losses by class, the evaluations.
    wanted: dict[str, dict[int, float]] = {}
    for line in lines:
        record = Stepped(**line) if "loss" in line else Evaluated(**line)
        for name, value in numbers_of(record).items():
            wanted.setdefault(name, {})[line["step"]] = value
    assert len(set(wanted["train/lr"].values())) > 2, "a learning rate that stands still proves little"
    assert {"train/class_losses/GPT4", "train/grad_norm", "eval/loss", "eval/accuracy"} <= set(wanted)
    evals = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert results[0]["eval_loss"] == results[1]["eval_loss"] == evals[len(losses)], "one row, two ranks"

    scalars = read_tensorboard(out / "tensorboard")
    assert set(scalars) == set(wanted)
    for name, values in wanted.items():
        assert scalars[name] == pytest.approx(values, rel=1e-6), name  # an event file holds float32

    (run_id,) = (out / "wandb_id").read_text(encoding="utf-8").split()
    files = sorted(out.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2, "one for each time it ran"
    logged: dict[str, dict[int, float]] = {}
    for file in files:
        assert run_id in file.name
        read = subprocess.run(
            [sys.executable, "-c", _READ_WANDB, str(file)], capture_output=True, text=True, check=True
        )
        records: list[dict[str, Any]] = [json.loads(line) for line in read.stdout.splitlines()]
        assert {record["id"] for record in records if "id" in record} == {run_id}
        for record in records:
            for name in set(record) & set(wanted):
                logged.setdefault(name, {})[record["step"]] = record[name]
    assert logged == wanted


def read_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    """Give each scalar by step, a later event in the place of an earlier one."""
    code = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print(json.dumps({tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {tag: {int(step): value for step, value in values.items()} for tag, values in found.items()}
