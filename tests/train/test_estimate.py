"""What a run is said to need, against what its ranks hold."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_for_tests import tiny_config, write_base

from ochatctl.config import write_run
from ochatctl.errors import EnvironmentProblem
from ochatctl.memory import Shape, Weights, count_weights, read_weights
from ochatctl.memory.training import Spread, state_parts, training_need
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.estimate import Device, Estimate, Model, check_memory, estimate, fits
from ochatctl.train.request import TrainRequest

SHAPE = Shape(
    num_layers=40, hidden_size=5120, num_heads=40, num_kv_heads=40, head_size=128, intermediate_size=13824,
    vocab_size=32000, context_tokens=4096,
)  # fmt: skip
THIRTEEN_B = Model(weights=count_weights(SHAPE), shape=SHAPE, is_counted=True)


def config_of(folder: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model_dir": folder / "base",
        "data_path": folder / "absent",
        "out_dir": folder,
        "family": None,
        "strategy": "fsdp",
        "device": "cpu",
        "dtype": "float32",
        "num_ranks": 1,
        "num_epochs": 5,
        "batch_tokens": 64,
        "optim": OptimConfig(lr=1e-3),
    }
    return TrainConfig(**(values | changes))


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "zero", "num_ranks"), [("fsdp", 2, 1), ("fsdp", 2, 2), ("deepspeed", 3, 2)])
def test_weights_gradients_and_optimizer_are_what_a_rank_holds(
    strategy: Any, zero: int, num_ranks: int, tmp_path: Path
) -> None:
    if strategy == "deepspeed":
        pytest.importorskip("deepspeed")
    base = write_base(tmp_path / "base", config=tiny_config(hidden_size=64, intermediate_size=256))
    config = config_of(tmp_path, strategy=strategy, zero_stage=zero, num_ranks=num_ranks)
    write_run(tmp_path / "run.json", config)
    launcher = ["-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
                "--local-addr=localhost", f"--nproc-per-node={num_ranks}"]  # fmt: skip
    script = str(Path(__file__).with_name("count_state.py"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *(launcher if num_ranks > 1 else ()), script, str(tmp_path / "run.json")],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("COUNTED ")] or [done.stderr]
    counted = json.loads(line.removeprefix("COUNTED "))
    spread = Spread(strategy=strategy, zero_stage=zero, num_ranks=num_ranks, is_half=False, on_cpu=True)
    expected = {part.name: part.num_bytes for part in state_parts(read_weights(base), spread)}
    if strategy == "deepspeed":
        # It keeps gradients in buffers of its own.
        del counted["gradients"], expected["gradients"]
    assert counted == {name: pytest.approx(size, rel=0.1) for name, size in expected.items()}


def known(device_gb: float | None, spread: Spread, *, is_here: bool = True, tokens: int = 32768) -> Estimate:
    total = None if device_gb is None else int(device_gb * 1e9)
    need = training_need(THIRTEEN_B.weights, SHAPE, num_tokens=tokens, spread=spread)
    return Estimate(
        model=THIRTEEN_B, device=Device(name="A100", total_bytes=total, is_here=is_here), memory=need,
        host=None, host_total_bytes=None, disk=(), disk_free_bytes=0, flops=0.0, hours=(),
    )  # fmt: skip


def test_openchats_run_fits_eight_gpus_of_80_gb_and_says_nothing() -> None:
    spread = Spread(num_ranks=8)
    notes: list[str] = []
    check_memory(TrainRequest(ac="full"), known(80, spread), spread, num_tokens=32768, longest=4096, notes=notes)
    check_memory(TrainRequest(), known(None, spread), spread, num_tokens=32768, longest=4096, notes=notes)
    assert notes == []


@pytest.mark.parametrize(
    ("device_gb", "ac", "advice"),
    [(80, "none", "--ac full"), (48, "full", "--zero 3"), (24, "full", "--zero 3 --offload all")],
)
def test_what_may_not_fit_is_said_with_a_command_that_does(device_gb: float, ac: Any, advice: str) -> None:
    spread = Spread(num_ranks=8, recompute=ac, zero_stage=2)
    notes: list[str] = []
    request = TrainRequest(model="m", ac=ac)
    check_memory(request, known(device_gb, spread, is_here=False), spread, num_tokens=32768, longest=4096, notes=notes)
    assert "memory may run out" in notes[0]
    assert f"ochatctl train --model m {advice}" in notes[0].replace("--zero 2 ", "") or advice in notes[0]


def test_what_would_fit_still_holds_the_longest_conversation() -> None:
    spread = Spread(num_ranks=8)
    advised = {}
    for longest in (4096, 12_000):
        notes: list[str] = []
        here = known(20, spread, is_here=False)
        check_memory(TrainRequest(ac="full"), here, spread, num_tokens=32768, longest=longest, notes=notes)
        advised[longest] = notes[0]
    assert advised[4096].endswith("--offload all --batch-tokens 8192 --ac full")
    assert advised[12_000].endswith("--offload all --batch-tokens 12000 --ac full")


def test_a_model_whose_state_alone_is_too_large_is_refused_with_what_would_fit() -> None:
    spread = Spread(num_ranks=1)
    with pytest.raises(EnvironmentProblem, match=r"alone take 208\.3 GB") as caught:
        check_memory(TrainRequest(ac="full"), known(80, spread), spread, num_tokens=32768, longest=4096, notes=[])
    assert "--offload" in caught.value.hint


def test_adapters_that_do_not_fit_are_advised_to_hold_the_frozen_weights_in_4_bits() -> None:
    spread = Spread(trained_params=60_000_000)
    here = known(25.8, spread, tokens=8192)
    request = TrainRequest(model="m", lora="r=16,alpha=32", ac="full")
    with pytest.raises(EnvironmentProblem) as refused:
        check_memory(request, here, spread, num_tokens=8192, longest=4096, notes=[])
    assert "--quantize nf4" in refused.value.hint
    assert not {"--zero", "--offload", "--strategy"} & set(refused.value.hint.split())
    in_4_bits = replace(spread, strategy="fsdp", is_4bit=True)
    notes: list[str] = []
    request = replace(request, quantize="nf4")
    too_small = known(18, in_4_bits, tokens=32768)
    check_memory(request, too_small, in_4_bits, num_tokens=32768, longest=1024, notes=notes)
    assert notes[0].startswith("memory may run out: ")
    assert "deepspeed" not in notes[0]
    assert not {"--zero", "--offload", "--strategy"} & set(notes[0].split()), "DeepSpeed would cast what is in 4 bits"


def test_what_does_not_fit_main_memory_either_is_not_advised() -> None:
    spread = Spread()
    hints = []
    for host_gb in (25, 600):
        here = replace(known(25.8, spread), host_total_bytes=int(host_gb * 1e9))
        with pytest.raises(EnvironmentProblem) as refused:
            check_memory(TrainRequest(model="m", ac="full"), here, spread, num_tokens=4096, longest=4096, notes=[])
        hints.append(refused.value.hint)
    assert hints[0] == "more GPUs, a smaller model, or `--preset lora`"
    assert "--offload all" in hints[1]


def test_what_is_chosen_leaves_room_for_what_the_driver_keeps() -> None:
    spread = Spread(num_ranks=8)
    need = training_need(THIRTEEN_B.weights, SHAPE, num_tokens=32768, spread=spread).num_bytes
    for ratio, does_fit in ((1.0, False), (1.1, True)):
        gpu = Device(name="A100", total_bytes=int(need * ratio), is_here=True)
        assert fits(THIRTEEN_B, spread, gpu, 32768) is does_fit


def test_disk_is_every_saved_model_and_one_resume_checkpoint_more_than_is_kept(tmp_path: Path) -> None:
    import numpy as np

    found = estimate(
        config_of(tmp_path, save_every_epochs=2, keep=2, num_ranks=8),
        model=Model(weights=Weights(num_params=1000, num_bytes=2000, dtypes={}), shape=SHAPE, is_counted=False),
        spread=Spread(num_ranks=8),
        device=Device(name="NVIDIA H200", total_bytes=141_000_000_000, is_here=True),
        lengths=np.array([10, 20]),
        saved_bytes=2000,
    )
    assert {part.name: part.num_bytes for part in found.disk} == {
        "ep_2": 2000, "ep_4": 2000, "ep_5": 2000, "resume checkpoints": 3 * 12_000,
    }  # fmt: skip
    assert found.disk_bytes == 42_000
    (hours,) = found.hours
    assert hours.hours == pytest.approx(found.flops / (8 * 989e12 * 0.38) / 3600)
    assert found.flops == pytest.approx(5 * (6 * 1000 * 30 + 6 * 40 * 5120 * 500))
