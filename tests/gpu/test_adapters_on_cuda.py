"""Adapters, weights in 4 bits and the optimizer's state in 8 on a GPU, against the same on CPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import tiny_config, write_base, write_data

from ochatctl.train.launch import train as launch
from ochatctl.train.prepare import prepare
from ochatctl.train.settings import read_request

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU is here")
    out: Path = tmp_path_factory.mktemp("cuda")
    # Heads and blocks as large as the kernels want them.
    config = tiny_config(hidden_size=128, intermediate_size=128, head_dim=32)
    write_data(out / "chats", write_base(out / "base", config=config), num_rows=40)
    return out


def train(folder: Path, out: str, *, sets: tuple[str, ...] = (), **flags: Any) -> list[dict[str, Any]]:
    names = {"model": str(folder / "base"), "data": str(folder / "chats"), "out": folder / out}
    fixed = {"strategy": "fsdp", "gpus": 1, "batch_tokens": 320, "epochs": 1, "lr": 1e-2}
    launch(prepare(read_request(sets=sets, flags=names | fixed | flags)), on_record=lambda record: None)
    lines = [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()[1:]]
    return [line for line in lines if "grad_norm" in line]


@pytest.mark.parametrize("strategy", [{"strategy": "fsdp"}, {"strategy": "deepspeed", "zero": 2}])
def test_a_lora_step_on_cuda_is_the_cpus(folder: Path, strategy: dict[str, Any]) -> None:
    pytest.importorskip("peft")
    if strategy["strategy"] == "deepspeed":
        pytest.importorskip("deepspeed")
    on_cpu = train(folder, f"cpu_{strategy['strategy']}", cpu=True, lora="r=4,alpha=8")
    on_cuda = train(folder, f"cuda_{strategy['strategy']}", lora="r=4,alpha=8", **strategy)
    assert len(on_cuda) == len(on_cpu) >= 2
    assert on_cuda[0]["loss"] == pytest.approx(on_cpu[0]["loss"], rel=2e-2)
    assert on_cuda[0]["grad_norm"] == pytest.approx(on_cpu[0]["grad_norm"], rel=1e-1)
    assert on_cuda[1]["loss"] == pytest.approx(on_cpu[1]["loss"], rel=5e-2)


def test_weights_in_4_bits_are_loaded_and_learnt_beside(folder: Path) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    whole = train(folder, "lora", lora="r=4,alpha=8")
    steps = train(folder, "qlora", lora="r=4,alpha=8", quantize="nf4")
    assert steps[0]["loss"] != whole[0]["loss"], "nothing was quantised"
    assert steps[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.1)
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_an_optimizer_in_8_bits_learns_as_the_whole_one(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    whole, eight = train(folder, "whole"), train(folder, "eight", sets=("optim.optimizer=adamw8bit",))
    assert eight[0]["loss"] == pytest.approx(whole[0]["loss"], rel=1e-3)
    assert eight[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=0.05)


@pytest.mark.parametrize("strategy", [{"strategy": "fsdp"}, {"strategy": "deepspeed", "zero": 2}])
def test_float16_learns_as_float32(folder: Path, strategy: dict[str, Any]) -> None:
    if strategy["strategy"] == "deepspeed":
        pytest.importorskip("deepspeed")
    name = strategy["strategy"]
    whole = train(folder, f"single_{name}", precision="float32", lr=1e-3, **strategy)
    half = train(folder, f"half_{name}", precision="float16", lr=1e-3, **strategy)
    # A step may be skipped while the scale is looked for.
    assert half[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=0.05)
