"""The first step on a GPU: what stands before it leaves no trace, and one rank takes it without a launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_for_tests import write_base, write_data

from ochatctl.config import write_run
from ochatctl.train.config import OptimConfig, TrainConfig

pytestmark = pytest.mark.slow


def measured(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """Run each strategy on one CPU process, in the precision of a GPU, with a probe and without."""
    values: dict[str, Any] = {
        "model_dir": folder / "base", "data_path": folder / "chats.train.parquet", "out_dir": folder, "family": None,
        "device": "cpu", "dtype": "bfloat16", "num_ranks": 1, "num_epochs": 1, "batch_tokens": 160,
        "accumulation_steps": 2, "optim": OptimConfig(lr=1e-2),
    }  # fmt: skip
    write_run(folder / "run.json", TrainConfig(**(values | changes)))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("rehearse_probe.py")), str(folder / "run.json")],
        env={**environment, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = [line.removeprefix("MEASURED ") for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    return [json.loads(line) for line in found]


def test_the_probe_leaves_no_trace_and_the_first_step_is_the_same_everywhere(tmp_path: Path) -> None:
    write_data(tmp_path / "chats", write_base(tmp_path / "base"), num_rows=8)
    every = measured(tmp_path, strategy="fsdp")
    pytest.importorskip("deepspeed")
    every += measured(tmp_path, strategy="deepspeed")
    assert [line["stage"] for line in every] == [2, 2, 0, 0, 2, 2, 3, 3]
    first = every[0]
    for line in every:
        assert line["changed_by_probe"] == 0
        assert line["norm"] == pytest.approx(first["norm"], rel=1e-2)
        assert line["step"] == pytest.approx(first["step"], rel=0.03)
        if line["probes"]:
            assert line["held_bytes"] == line["made_bytes"] > 0, "memory would run out later"
