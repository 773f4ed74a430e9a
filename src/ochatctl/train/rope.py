"""Extending a model's context by scaling its rotary positions: what to write into its config. No torch.

`linear` and `yarn` are transformers' own. `dynamic` raises the base of the rotation as transformers' dynamic NTK does
for a row as long as the whole new context, and does so for all rows: transformers goes by the longest row of a batch,
with which packed rows would depend on their neighbours, and vLLM, too, takes the whole context.
"""

import math
from typing import Any

from ochatctl.errors import ConfigError
from ochatctl.train.spec import RopeScaling


def extended_context(scaling: RopeScaling | None, positions: int) -> int:
    """Give how many positions a model of so many takes when it is scaled."""
    return positions if scaling is None or scaling.factor is None else int(positions * scaling.factor)


def extend_context(config: Any, scaling: RopeScaling) -> None:
    """Change a transformers config: the rotation's parameters, and how many positions there are.

    Raises:
        ConfigError: it has no rotary positions, or they are scaled already.
    """
    config = config.get_text_config()
    given = getattr(config, "rope_parameters", None)
    positions = getattr(config, "max_position_embeddings", None)
    if not given or not positions or scaling.factor is None:
        raise ConfigError(f"`rope_scaling`: a model of type `{config.model_type}` has no rotary positions to scale")
    # Some models rotate by kind of layer; windowed layers see no further in a longer context.
    layers = {key: value for key, value in given.items() if isinstance(value, dict)}
    table = dict(layers.get("full_attention", given))
    kind = table.get("rope_type", "default")
    if kind != "default":
        raise ConfigError(
            f"`rope_scaling`: the model's positions are scaled already, `{kind}`, for {positions} tokens",
            hint="leave `--rope-scaling` out",
        )
    table |= _scaled(config, table, scaling, positions)
    config.rope_parameters = {**given, "full_attention": table} if layers else table
    config.max_position_embeddings = extended_context(scaling, positions)


def _scaled(config: Any, table: dict[str, Any], scaling: RopeScaling, positions: int) -> dict[str, Any]:
    factor = scaling.factor
    assert factor is not None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if scaling.kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": positions}
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = int(head_size * table.get("partial_rotary_factor", 1.0))
    return {"rope_theta": table["rope_theta"] * (factor * factor - (factor - 1)) ** (size / (size - 2))}


def chosen_scaling(scaling: RopeScaling, *, longest: int, positions: int) -> RopeScaling:
    """Give the scaling with its factor: where `dynamic` came without one, the least whole one that holds `longest`.

    Raises:
        ConfigError: nothing needs extending.
    """
    if scaling.factor is not None:
        return scaling
    factor = math.ceil(longest / positions)
    if factor < 2:
        raise ConfigError(
            f"`rope_scaling = dynamic`: the longest row has {longest} tokens, and the model takes {positions}",
            hint="`ochatctl data pack --context N` packs longer rows; `dynamic:2` sets the factor",
        )
    return RopeScaling(kind=scaling.kind, factor=float(factor))
