"""The check at start-up finds a model whose packed rows see each other, and lets the others pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from training_for_tests import tiny_config, write_base

from ochatctl.errors import RunError
from ochatctl.train.attention import packed_attention
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.model import load_model
from ochatctl.train.selfcheck import check_packing

CPU = torch.device("cpu")


def attends_to_all(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any,
    scaling: float | None = None, **other: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal over the whole bin: what a model does that knows nothing of rows."""
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


def forgets_the_window(*given: Any, **arguments: Any) -> tuple[torch.Tensor, None]:
    return packed_attention(*given, **{**arguments, "sliding_window": None})


def load(folder: Path, config: Any = None) -> Any:
    write_base(folder, config=config or tiny_config(), card=False)
    return load_model(
        TrainConfig(
            model_dir=folder, data_path=folder, out_dir=folder, family=None, strategy="fsdp", device="cpu",
            dtype="float32", num_ranks=1, num_epochs=1, batch_tokens=64, optim=OptimConfig(lr=1e-3),
        )
    )  # fmt: skip


def test_a_sound_model_passes_and_is_left_as_it_was(tmp_path: Path) -> None:
    model = load(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = check_packing(model, CPU)
    assert found.loss_difference < 1e-4
    assert found.gradient_difference is not None
    assert found.gradient_difference < 1e-3
    assert found.hidden_difference is not None
    assert found.hidden_difference < 1e-4
    assert model.training
    assert model.config._attn_implementation == "ochatctl_packed"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_output_layer_that_begins_at_zero_passes(tmp_path: Path) -> None:
    """Such a base, as `make-base` makes it, has no gradient yet: 0 of 0 is no fault."""
    model = load(tmp_path)
    inner = next(module for module in model.modules() if hasattr(module, "get_output_embeddings"))
    with torch.no_grad():
        inner.get_output_embeddings().weight.zero_()
    found = check_packing(model, CPU)
    assert (found.loss_difference, found.gradient_difference) == (pytest.approx(0.0, abs=1e-5), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_see_their_neighbours_are_found_where_the_output_layer_is_still_zero(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """Its loss is ln V whatever attention does, and its gradient zero."""
    from transformers import AttentionInterface

    model = load(tmp_path).to(dtype)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    assert check_packing(model, CPU).knows_nothing
    AttentionInterface.register("attends_to_all", attends_to_all)
    model.config._attn_implementation = "attends_to_all"
    with pytest.raises(RunError, match="the hidden states of a packed row are off by"):
        check_packing(model, CPU)


def test_rows_that_see_their_neighbours_end_the_run(tmp_path: Path) -> None:
    from transformers import AttentionInterface

    model = load(tmp_path)
    AttentionInterface.register("attends_to_all", attends_to_all)
    model.config._attn_implementation = "attends_to_all"
    with pytest.raises(RunError, match="this `llama` model does not keep packed rows apart: the loss of a packed row"):
        check_packing(model, CPU)
    assert model.config._attn_implementation == "attends_to_all"


def test_a_window_that_is_left_out_is_found_as_well(tmp_path: Path) -> None:
    from transformers import AttentionInterface

    model = load(tmp_path, tiny_config("mistral", sliding_window=6))
    check_packing(model, CPU)
    AttentionInterface.register("forgets_the_window", forgets_the_window)
    model.config._attn_implementation = "forgets_the_window"
    with pytest.raises(RunError, match="mistral"):
        check_packing(model, CPU)


def test_a_model_in_bfloat16_passes(tmp_path: Path) -> None:
    found = check_packing(load(tmp_path).bfloat16(), CPU)
    assert 1e-5 < found.loss_difference < 0.1


def test_a_loss_that_is_no_number_does_not_pass(tmp_path: Path) -> None:
    model = load(tmp_path)
    with torch.no_grad():
        model.get_output_embeddings().weight[7, 0] = float("nan")
    with pytest.raises(RunError, match="off by inf"):
        check_packing(model, CPU)
