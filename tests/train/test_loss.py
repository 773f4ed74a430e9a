"""The law of padding-free training: a packed batch has the loss and the gradient of its conversations one by one."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_for_tests import VOCAB_SIZE, tiny_config, write_base

from ochatctl.data.encode import Row
from ochatctl.data.packing import PackedBatch, pack
from ochatctl.errors import ConfigError
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.linear_loss import plain_cross_entropy
from ochatctl.train.loss import batch_loss
from ochatctl.train.model import load_model

CPU = torch.device("cpu")
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 6},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 6, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
               "query_pre_attn_scalar": 8, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma3_text": {"sliding_window": 6, "query_pre_attn_scalar": 8,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
}  # fmt: skip


def random_rows(seed: int, lengths: tuple[int, ...] = (9, 3, 14, 1)) -> list[Row]:
    draw = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        weights = draw.choice([0.0, 0.1, 1.0], size=length).astype(np.float32)
        labels = np.where(weights > 0, draw.integers(3, VOCAB_SIZE, length), -100).astype(np.int32)
        ids = draw.integers(3, VOCAB_SIZE, length).astype(np.int32)
        rows.append(Row(input_ids=ids, labels=labels, loss_weights=weights))
    return rows


def total_weight(rows: list[Row]) -> float:
    return float(sum(row.loss_weights.sum(dtype=np.float64) for row in rows))


def one_by_one(model: Any, rows: list[Row]) -> torch.Tensor:
    """The loss as a reader of the paper would write it: no packing, no selection, one row after another."""
    losses = []
    for row in rows:
        logits = model(input_ids=torch.from_numpy(row.input_ids).long()[None], use_cache=False).logits[0]
        cross_entropy = F.cross_entropy(
            logits, torch.from_numpy(row.labels).long(), reduction="none", ignore_index=-100
        )
        losses.append((cross_entropy * torch.from_numpy(row.loss_weights)).sum())
    return torch.stack(losses).sum() / total_weight(rows)


def value(scalar: torch.Tensor) -> float:
    return scalar.detach().item()


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=False))


def config_for(model_dir: Any, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model_dir": model_dir, "data_path": model_dir, "out_dir": model_dir, "family": None, "strategy": "fsdp",
        "device": "cpu", "dtype": "float32", "num_ranks": 1, "num_epochs": 1, "batch_tokens": 64,
        "optim": OptimConfig(lr=1e-3),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


@pytest.mark.parametrize(("kind", "checkpointing"), [*((kind, False) for kind in MODELS), ("llama", True)])
def test_packed_equals_the_conversations_one_by_one(kind: str, checkpointing: bool, tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = tiny_config(kind, **MODELS[kind])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    ours = load_model(config_for(tmp_path, gradient_checkpointing=checkpointing))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").train()
    rows = random_rows(0)
    assert max(len(row.input_ids) for row in rows) > 2 * (MODELS[kind].get("sliding_window") or 0)

    batch = pack(rows, step_loss_weight=total_weight(rows))
    packed = batch_loss(ours, batch, CPU)
    expected = one_by_one(theirs, rows)
    torch.testing.assert_close(packed, expected, rtol=1e-6, atol=1e-6)
    for mine, reference in zip(gradients(ours, packed), gradients(theirs, expected), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)

    # Were the boundaries lost, the loss would show it.
    merged = PackedBatch(
        input_ids_T=batch.input_ids_T,
        position_ids_T=batch.position_ids_T,
        labels_T=batch.labels_T,
        loss_weights_T=batch.loss_weights_T,
        cu_seqlens=np.array([0, len(batch.input_ids_T)], dtype=np.int32),
        max_seqlen=len(batch.input_ids_T),
        step_loss_weight=batch.step_loss_weight,
    )
    assert abs(value(batch_loss(ours, merged, CPU)) - value(expected)) > 1e-3


def test_shares_of_a_step_add_up_to_its_loss(tmp_path: Any) -> None:
    model = load_model(config_for(write_base(tmp_path)))
    rows = random_rows(1)
    weight = total_weight(rows)
    whole = value(batch_loss(model, pack(rows, step_loss_weight=weight), CPU))
    shares = [value(batch_loss(model, pack([row], step_loss_weight=weight), CPU)) for row in rows]
    assert len({round(share, 3) for share in shares}) > 2
    assert sum(shares) == pytest.approx(whole, rel=1e-6)


def test_a_batch_without_a_label_reaches_every_weight_with_a_zero(tmp_path: Any) -> None:
    model = load_model(config_for(write_base(tmp_path)))
    loss = batch_loss(model, pack([], step_loss_weight=3.0), CPU)
    assert value(loss) == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(model, loss))


def test_the_loss_is_taken_in_float32() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 50, generator=draw, dtype=torch.bfloat16)
    labels, weights = torch.randint(50, (64,), generator=draw), torch.full((64,), 0.1)
    got = plain_cross_entropy(logits, labels, weights).weighted_sum
    wanted = (F.cross_entropy(logits.double(), labels, reduction="none") * 0.1).sum()
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(float(wanted), rel=1e-6)
    in_half = (F.cross_entropy(logits, labels, reduction="none") * weights.bfloat16()).sum()
    assert abs(float(in_half) - float(wanted)) > 1e-4 * float(wanted)


def test_a_model_that_would_mix_rows_is_refused(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    config = tiny_config("lfm2", layer_types=["conv", "full_attention"])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="conv"):
        load_model(config_for(tmp_path))
