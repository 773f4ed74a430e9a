"""Whole runs with adapters: N ranks == 1 rank, resumed == uninterrupted, and the frozen weights as they were."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from training_for_tests import tiny_config, write_base, write_data

from ochatctl.train.launch import train as launch
from ochatctl.train.prepare import prepare
from ochatctl.train.resume import open_checkpoint
from ochatctl.train.settings import read_request

pytestmark = pytest.mark.slow
FLAGS: dict[str, Any] = {
    "cpu": True, "batch_tokens": 160, "epochs": 1, "lr": 1e-2, "save_every": "1epoch,2steps", "keep": 9,
    "train_embeddings": True, "lora": "r=4,alpha=8",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters")
    write_base(out / "base", config=tiny_config(tie_word_embeddings=True))
    write_data(out / "chats", out / "base", num_rows=40)
    return out


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def train(folder: Path, out: str, **flags: Any) -> list[dict[str, Any]]:
    """Run, and give the steps without their times."""
    names = {"model": str(folder / "base"), "data": str(folder / "chats"), "out": folder / out}
    launch(prepare(read_request(flags=names | FLAGS | flags)), on_record=lambda record: None)
    lines = [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()[1:]]
    return [{key: step[key] for key in ("step", "loss", "lr", "grad_norm")} for step in lines if "grad_norm" in step]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[dict[str, Any]]:
    return train(folder, "alone", strategy="fsdp", gpus=1, accumulation=2)


@pytest.mark.parametrize("strategy", [{"strategy": "fsdp"}, {"strategy": "deepspeed", "zero": 2}])
def test_two_ranks_equal_one_and_resumed_equals_uninterrupted(
    strategy: dict[str, Any], folder: Path, alone: list[dict[str, Any]]
) -> None:
    if strategy["strategy"] == "deepspeed":
        pytest.importorskip("deepspeed")
    name, flags = strategy["strategy"], {**strategy, "gpus": 2}
    steps = train(folder, name, **flags)
    assert len(steps) >= 4
    assert steps[-1]["loss"] < steps[0]["loss"]
    for ours, theirs in zip(steps, alone, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    saved = tensors(folder / name / "ep_1" / "adapter_model.safetensors")
    reference = tensors(folder / "alone" / "ep_1" / "adapter_model.safetensors")
    assert saved.keys() == reference.keys()
    assert all(value.abs().sum() > 0 for value in saved.values())
    for key, value in saved.items():
        torch.testing.assert_close(value, reference[key], rtol=1e-3, atol=2e-4)

    again = folder / f"{name}_again"
    shutil.copytree(folder / name, again)
    shutil.rmtree(again / "ep_1")
    for path in (again / "resume").iterdir():
        if path.name != "step_2":
            shutil.rmtree(path)
    assert train(folder, again.name, **flags) == steps
    assert (again / "ep_1" / "adapter_model.safetensors").read_bytes() == (
        folder / name / "ep_1" / "adapter_model.safetensors"
    ).read_bytes()


def test_resume_checkpoints_hold_what_is_trained_and_frozen_weights_stay(folder: Path) -> None:
    lora = {"lora": "r=2,alpha=8,targets=q_proj", "lora_save": "merged", "train_embeddings": False}
    train(folder, "merged", strategy="fsdp", gpus=1, **lora)
    before, after = (tensors(path / "model.safetensors") for path in (folder / "base", folder / "merged" / "ep_1"))
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if name.endswith("q_proj.weight")}
    assert len(changed) == 2
    point = open_checkpoint(folder / "merged" / "resume" / "step_2")
    held = set(FileSystemReader(point.path / "shards").read_metadata().state_dict_metadata)
    weights = {name for name in held if name.startswith("model.")}
    # torch keeps the second name of the tied table, frozen or not.
    assert len(weights - {"model.lm_head.weight"}) == 4
    assert all(".lora_" in name for name in weights - {"model.lm_head.weight"})
