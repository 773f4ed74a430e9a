"""Weights in 4 bits and the optimizer's state in 8, through bitsandbytes, which has both on CPU as on CUDA."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import tiny_config, write_base, write_data

from ochatctl.errors import ConfigError
from ochatctl.train.launch import train as launch
from ochatctl.train.prepare import prepare
from ochatctl.train.settings import read_request

pytestmark = pytest.mark.slow
FLAGS: dict[str, Any] = {
    "cpu": True, "strategy": "fsdp", "gpus": 1, "batch_tokens": 320, "epochs": 1, "lr": 1e-2,
    "save_every": "1epoch,2steps", "keep": 9,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes")
    out = tmp_path_factory.mktemp("quant")
    # Blocks of 64 values are quantised together.
    write_base(out / "base", config=tiny_config(hidden_size=128, intermediate_size=128, head_dim=32))
    write_data(out / "chats", out / "base", num_rows=40)
    return out


def train(folder: Path, out: str, *, sets: tuple[str, ...] = (), **flags: Any) -> list[dict[str, Any]]:
    """Run, and give the steps without their times."""
    names = {"model": str(folder / "base"), "data": str(folder / "chats"), "out": folder / out}
    launch(prepare(read_request(sets=sets, flags=names | FLAGS | flags)), on_record=lambda record: None)
    lines = [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()[1:]]
    return [{key: step[key] for key in ("step", "loss", "grad_norm")} for step in lines if "grad_norm" in step]


def test_an_optimizer_in_8_bits_learns_as_the_whole_one_and_goes_on_where_it_stopped(folder: Path) -> None:
    eight = ("optim.optimizer=adamw8bit",)
    whole, steps = train(folder, "whole"), train(folder, "eight", sets=eight)
    assert len(steps) >= 4
    assert steps[0] == whole[0]
    assert steps[-1]["loss"] != whole[-1]["loss"], "nothing was quantised"
    assert steps[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=0.05)
    shutil.copytree(folder / "eight", folder / "again")
    shutil.rmtree(folder / "again" / "ep_1")
    for path in (folder / "again" / "resume").iterdir():
        if path.name != "step_2":
            shutil.rmtree(path)
    assert train(folder, "again", sets=eight) == steps
    weights = "ep_1/model.safetensors"
    assert (folder / "again" / weights).read_bytes() == (folder / "eight" / weights).read_bytes()


def test_adapters_are_trained_beside_weights_in_4_bits(folder: Path) -> None:
    from safetensors.torch import load_file

    whole = train(folder, "lora", lora="r=4,alpha=8")
    steps = train(folder, "qlora", lora="r=4,alpha=8", quantize="nf4", sets=("optim.optimizer=adamw8bit",))
    assert steps[0]["loss"] != whole[0]["loss"], "nothing was quantised"
    assert steps[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.1)
    assert steps[-1]["loss"] < steps[0]["loss"]
    saved = load_file(folder / "qlora" / "ep_1" / "adapter_model.safetensors")
    assert saved.keys() == load_file(folder / "lora" / "ep_1" / "adapter_model.safetensors").keys()
    assert all(value.is_floating_point() and torch.isfinite(value).all() for value in saved.values())


def test_what_does_not_go_with_4_bits_is_refused(folder: Path) -> None:
    for flags, message in (
        ({"strategy": "deepspeed"}, "goes with FSDP2"),
        ({"lora_save": "merged"}, "held in 4 bits"),
        ({"lora": None}, "of use with `lora` alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(folder, "none", **{"lora": "r=4,alpha=8", "quantize": "nf4", **flags})
