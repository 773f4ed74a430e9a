"""Each family packed in bfloat16 by a GPU's own kernels, against the same weights in float32 on CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_for_tests import VOCAB_SIZE, tiny_config

from ochatctl.data.encode import Row
from ochatctl.data.packing import pack
from ochatctl.train.attention import way_of
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.loss import batch_loss
from ochatctl.train.model import load_model
from ochatctl.train.selfcheck import check_packing

# What torch itself warns of as it compiles is no fault of ours.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
DEVICE = torch.device("cuda")
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "initializer_range": 0.05}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "heads that the kernel does not take": ("llama", {"head_dim": 20}),
    "mistral": ("mistral", {"sliding_window": 16}),
    "qwen3": ("qwen3", {}),
    "gemma2": (
        "gemma2",
        {"sliding_window": 16, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
         "query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh"},
    ),
    "gemma3": (
        "gemma3_text",
        {"sliding_window": 16, "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi3": ("phi3", {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
}  # fmt: skip
HOW: tuple[dict[str, Any], ...] = ({"recompute": "full"}, {"recompute": "selective"}, {"compile": True})


def rows() -> list[Row]:
    draw, out = np.random.default_rng(0), []
    for length in (90, 3, 140, 1, 33):
        weights = draw.choice([0.0, 0.1, 1.0], size=length).astype(np.float32)
        labels = np.where(weights > 0, draw.integers(3, VOCAB_SIZE, length), -100).astype(np.int32)
        ids = draw.integers(3, VOCAB_SIZE, length).astype(np.int32)
        out.append(Row(input_ids=ids, labels=labels, loss_weights=weights))
    return out


@pytest.mark.parametrize(
    ("name", "how"), [*((name, {}) for name in FAMILIES), *((name, how) for name in ("llama", "gemma2") for how in HOW)]
)
def test_loss_and_gradient_are_those_of_the_cpu(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU is here")
    kind, changes = FAMILIES[name]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config(kind, **(SIZES | changes))).save_pretrained(tmp_path)
    batch = pack(rows(), step_loss_weight=100.0)
    found = []
    for device, dtype, more in ((torch.device("cpu"), "float32", {}), (DEVICE, "bfloat16", how)):
        values: dict[str, Any] = {
            "model_dir": tmp_path, "data_path": tmp_path, "out_dir": tmp_path, "family": None, "device": "cpu",
            "strategy": "deepspeed", "dtype": dtype, "num_ranks": 1, "num_epochs": 1, "batch_tokens": 300,
            "optim": OptimConfig(lr=1e-3),
        }  # fmt: skip
        model = load_model(TrainConfig(**(values | more))).to(device)
        if device.type == "cuda":
            way = way_of(model, device, getattr(torch, dtype)).name
            assert way == ("flex" if kind == "gemma2" else "varlen")
        check_packing(model, device)
        loss = batch_loss(model, batch, device)
        torch.autograd.backward(loss)
        gradient = torch.cat([p.grad.float().cpu().flatten() for p in model.parameters() if p.grad is not None])
        found.append((loss.detach().item(), gradient))
    (want, wanted), (got, gradient) = found
    assert got == pytest.approx(want, rel=1e-2)
    assert gradient.shape == wanted.shape
    assert float((gradient - wanted).norm() / wanted.norm()) < 0.1
