"""Parameters, the cost of attention, and the time of an epoch."""

import numpy as np
import pytest

from ochatctl.data.cost import model_cost
from ochatctl.data.packing import COST_PER_SQUARED_TOKEN
from ochatctl.errors import ConfigError

LLAMA_13B = {
    "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "intermediate_size": 13824,
    "vocab_size": 32000,
}  # fmt: skip
SMOLLM2_135M = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


def test_parameters_are_those_that_the_models_have() -> None:
    assert model_cost(LLAMA_13B).num_parameters == 13_015_864_320
    assert model_cost({"text_config": SMOLLM2_135M}).num_parameters == 134_515_008


def test_a_token_of_a_mixture_uses_some_of_the_experts() -> None:
    mixture = LLAMA_13B | {"num_experts_per_tok": 2, "num_local_experts": 8}
    assert model_cost(mixture).num_parameters - model_cost(LLAMA_13B).num_parameters == 40 * 3 * 5120 * 13824


def test_the_default_is_that_of_13b() -> None:
    assert model_cost(LLAMA_13B).per_squared_token == pytest.approx(COST_PER_SQUARED_TOKEN, rel=0.02)


def test_the_time_is_six_flop_a_parameter_and_token_and_the_attention() -> None:
    seconds = model_cost(LLAMA_13B).epoch_seconds(np.full(1000, 4096), num_gpus=8, tflops=312, mfu=0.5)
    dense = 6 * 13_015_864_320 * 4_096_000
    attention = 1000 * 6 * 5120 * 40 * 4096**2
    assert seconds == pytest.approx((dense + attention) / (8 * 312e12 * 0.5))
    assert attention > 0.06 * dense


@pytest.mark.parametrize("bad", [{"hidden_size": None}, {"vocab_size": "32000"}, {"num_hidden_layers": 0}])
def test_a_size_that_is_missing_is_named(bad: dict) -> None:
    with pytest.raises(ConfigError, match=f"config.json: `{next(iter(bad))}` is "):
        model_cost(LLAMA_13B | bad)
