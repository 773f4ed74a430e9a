"""What rows cost to train on: tokens, and the attention's share, which grows with the square of a row's length.

in: a model's `config.json` as a table, out: parameters, the cost of a squared token, and the time of an epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ochatctl.errors import ConfigError

# OpenChat's headline run, 13B on 8 A100, comes to 42 % of the peak.
ASSUMED_MFU = 0.4
# Peak of dense bf16, in TFLOP/s, by NVIDIA's data sheets.
GPU_TFLOPS: Mapping[str, float] = {"A100": 312, "H100": 989, "H200": 989, "L40S": 362, "RTX 4090": 165}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCost:
    """The sizes of a model that its cost depends on; of a mixture of experts, the parameters that a token uses."""

    num_parameters: int
    hidden_size: int
    num_layers: int

    @property
    def per_squared_token(self) -> float:
        """The cost of a squared token, where a token costs 1.

        A token takes 6 FLOP a parameter, forward and backward; causal attention 6 x hidden size x layers a squared one.
        """
        return self.hidden_size * self.num_layers / self.num_parameters

    def epoch_seconds(
        self, lengths: npt.NDArray[np.integer], *, num_gpus: int, tflops: float, mfu: float = ASSUMED_MFU
    ) -> float:
        """Give the time to train on all rows once, at a share `mfu` of each GPU's peak."""
        tokens = lengths.astype(np.float64)
        cost = float(tokens.sum() + self.per_squared_token * (tokens**2).sum())
        return 6 * self.num_parameters * cost / (num_gpus * tflops * 1e12 * mfu)


def model_cost(config: Mapping[str, Any], *, where: str = "config.json") -> ModelCost:
    """Count the parameters of a decoder with gated feed-forward layers, from its `config.json`.

    Raises:
        ConfigError: a size is missing, or is no number.
    """
    table = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert table is not None

    def size(key: str, default: int | None = None) -> int:
        value = table.get(key) if table.get(key) is not None else default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{where}: `{key}` is {'missing' if value is None else 'no size'}")
        return value

    hidden, layers, heads = size("hidden_size"), size("num_hidden_layers"), size("num_attention_heads")
    head = size("head_dim", max(1, hidden // heads))
    experts = size("num_experts_per_tok", 1)
    inner = size("moe_intermediate_size", size("intermediate_size")) if experts > 1 else size("intermediate_size")
    attention = 2 * hidden * head * (heads + size("num_key_value_heads", heads))
    matrices = 1 if table.get("tie_word_embeddings") else 2
    return ModelCost(
        num_parameters=layers * (attention + 3 * hidden * inner * experts + 2 * hidden)
        + matrices * size("vocab_size") * hidden
        + hidden,
        hidden_size=hidden,
        num_layers=layers,
    )
