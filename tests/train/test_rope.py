"""Extended contexts: the rotation is transformers' own, and longer rows train and are served."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import tiny_config, write_base, write_data

from ochatctl.chat.families import load_family
from ochatctl.errors import ConfigError
from ochatctl.train.checkpoint import save_checkpoint
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.model import load_model
from ochatctl.train.prepare import RunPlan, prepare
from ochatctl.train.rope import extend_context
from ochatctl.train.settings import read_request
from ochatctl.train.spec import RopeScaling, read_rope_scaling

POSITIONS = 24


def rotation(config: Any, num_tokens: int) -> torch.Tensor:
    """Give the cosines of a rotary embedding that transformers makes of a config, at a row of so many tokens."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    with torch.no_grad():
        cosines: torch.Tensor = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(num_tokens)[None])[0][0]
    return cosines


@pytest.mark.parametrize("text", ["linear:2", "yarn:4", "dynamic:4"])
def test_the_rotation_is_that_of_transformers_at_the_new_context(text: str) -> None:
    scaling = read_rope_scaling(text)
    assert scaling.factor is not None
    ours, plain = tiny_config(max_position_embeddings=POSITIONS), tiny_config(max_position_embeddings=POSITIONS)
    extend_context(ours, scaling)
    long = int(POSITIONS * scaling.factor)
    assert ours.max_position_embeddings == long
    theirs = tiny_config(
        # To transformers' own dynamic scaling the old context is the model's; to the others the new one.
        max_position_embeddings=POSITIONS if scaling.kind == "dynamic" else long,
        rope_parameters={
            **plain.rope_parameters,
            "rope_type": scaling.kind,
            "factor": scaling.factor,
            **({"original_max_position_embeddings": POSITIONS} if scaling.kind == "yarn" else {}),
        },
    )
    torch.testing.assert_close(rotation(ours, long), rotation(theirs, long), rtol=1e-4, atol=1e-5)
    assert (rotation(ours, long) - rotation(plain, long)).abs().max() > 0.1, "the scaling made no difference"


def test_of_layers_that_rotate_by_kind_those_that_see_all_are_scaled() -> None:
    config = tiny_config("gemma3_text", sliding_window=8, layer_types=["sliding_attention", "full_attention"])
    before = json.loads(json.dumps(config.rope_parameters))
    extend_context(config, RopeScaling(kind="linear", factor=2.0))
    assert config.rope_parameters["sliding_attention"] == before["sliding_attention"]
    assert config.rope_parameters["full_attention"]["rope_type"] == "linear"


def test_what_is_scaled_already_or_has_no_rotation_is_refused() -> None:
    config = tiny_config()
    extend_context(config, RopeScaling(kind="linear", factor=2.0))
    with pytest.raises(ConfigError, match="scaled already, `linear`"):
        extend_context(config, RopeScaling(kind="linear", factor=2.0))
    from transformers import GPT2Config

    with pytest.raises(ConfigError, match="`gpt2` has no rotary positions"):
        extend_context(GPT2Config(), RopeScaling(kind="linear", factor=2.0))


def plan(tmp_path: Path, **flags: Any) -> RunPlan:
    names = {"model": str(tmp_path / "base"), "data": str(tmp_path / "chats"), "out": tmp_path / "out"}
    return prepare(read_request(flags=names | {"cpu": True, "strategy": "fsdp"} | flags), is_dry_run=True)


def test_longer_rows_are_taken_where_the_context_is_extended_and_the_saved_model_says_so(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path / "base", config=tiny_config(max_position_embeddings=POSITIONS))
    write_data(tmp_path / "chats", base)
    with pytest.raises(ConfigError, match="the model takes 24") as caught:
        plan(tmp_path)
    assert "--rope-scaling linear:" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="the model takes 36"):
        plan(tmp_path, rope_scaling="linear:1.5")
    made = plan(tmp_path, rope_scaling="dynamic")
    longest = int(made.notes[[note.startswith("context 24 ->") for note in made.notes].index(True)].split()[-1])
    assert made.config.rope_scaling == f"dynamic:{-(-longest // POSITIONS)}"

    config = TrainConfig(
        model_dir=base, data_path=base, out_dir=tmp_path, family=None, strategy="fsdp", device="cpu", dtype="float32",
        num_ranks=1, num_epochs=1, batch_tokens=64, optim=OptimConfig(lr=1e-3), rope_scaling="yarn:4",
    )  # fmt: skip
    model: Any = load_model(config)
    family, tokenizer = load_family(base)
    save_checkpoint(
        tmp_path / "ep_1", model=model, state=model.state_dict(), base_dir=base, family=family, tokenizer=tokenizer,
        conditions={},
    )  # fmt: skip
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ep_1", attn_implementation="eager")
    assert again.config.max_position_embeddings == 4 * POSITIONS
    expected = tiny_config(max_position_embeddings=4 * POSITIONS, attn_implementation="eager").rope_parameters | {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": POSITIONS,
    }  # fmt: skip
    assert again.config.rope_parameters == expected
    ids = torch.arange(3, 83)[None]
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        ours = type(model).forward(model.eval(), ids, use_cache=False).logits
        torch.testing.assert_close(ours, again(ids, use_cache=False).logits, rtol=1e-5, atol=1e-5)
