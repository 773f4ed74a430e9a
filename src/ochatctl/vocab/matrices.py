"""Find the matrices that have a row for each token: a table of names, and a vocabulary-sized shape.

No model class is loaded, so a model that transformers does not know works as well, as long as its names are known. What
is ambiguous or quantised is refused with the candidates named: a wrong guess would ruin a model in silence.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ochatctl.errors import ConfigError
from ochatctl.vocab.shards import Tensor

# The last parts of the names under which Hugging Face checkpoints keep them.
INPUT_NAMES = (
    "embed_tokens.weight",  # Llama, Mistral, Qwen, Gemma, Phi, OPT and most since
    "wte.weight",  # GPT-2, GPT-J, MPT
    "embed_in.weight",  # GPT-NeoX, Pythia
    "word_embeddings.weight",  # Falcon, BLOOM, ChatGLM
    "tok_embeddings.weight",  # InternLM2
    "backbone.embeddings.weight",  # Mamba
)
OUTPUT_NAMES = (
    "lm_head.weight",
    "embed_out.weight",  # GPT-NeoX, Pythia
    "output_layer.weight",  # ChatGLM
    "ff_out.weight",  # the first OLMo
    "output.weight",  # InternLM2
)
_FLOATS = ("F64", "F32", "F16", "BF16")
_QUANTISED = re.compile(r"\.(qweight|qzeros|SCB|absmax|quant_state\..*|weight_packed|weight_scale(_inv)?)$")
# What stands in a numbered layer belongs to that layer.
_IN_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrices:
    """The names of the tensors that get rows."""

    input_name: str
    # None where the head is the input embedding.
    output_name: str | None
    bias_name: str | None
    num_rows: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.input_name, self.output_name, self.bias_name) if name)


def tables_with_vocabulary(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give `config` and each table in it that states a vocabulary size; the first one holds the truth."""
    if isinstance(config.get("vocab_size"), int):
        yield config
    for value in config.values():
        if isinstance(value, dict) and isinstance(value.get("vocab_size"), int):
            yield value


def vocabulary_size(config: dict[str, Any]) -> int:
    """Give the vocabulary size of a language model's config, which may stand in its `text_config`.

    Raises:
        ConfigError: none.
    """
    text = config.get("text_config")
    tables = [text] if isinstance(text, dict) else []
    for table in (*tables, config, *tables_with_vocabulary(config)):
        if isinstance(table.get("vocab_size"), int):
            return int(table["vocab_size"])
    raise ConfigError("config.json states no `vocab_size`", hint="is this the folder of a language model?")


def find_matrices(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Matrices:
    """Find the input embedding, the output embedding unless it is tied, and the head's bias.

    Raises:
        ConfigError: quantised, ambiguous or not found; names the candidates.
    """
    _refuse_quantised(config, tensors)
    size = vocabulary_size(config)
    input_name = _only(INPUT_NAMES, tensors, size, what="input embedding")
    if input_name is None:
        raise _not_found("input embedding", INPUT_NAMES, tensors, size)
    output_name = _only(OUTPUT_NAMES, tensors, size, what="output embedding")
    if output_name is None and _says_untied(config):
        raise _not_found("output embedding", OUTPUT_NAMES, tensors, size)
    bias_name = None
    heads = OUTPUT_NAMES if output_name is None else (output_name,)
    for head in heads:
        name = head.removesuffix("weight") + "bias"
        found = [key for key in tensors if key == name or (not output_name and key.endswith("." + name))]
        bias_name = next((key for key in found if tensors[key].shape == (size,)), bias_name)
    known: set[str | None] = {input_name, output_name, bias_name}
    strange = [
        tensor for name, tensor in tensors.items()
        if name not in known and len(tensor.shape) > 1 and size in tensor.shape and not _IN_LAYER.search(name)
    ]  # fmt: skip
    if strange:
        raise ConfigError(
            f"these tensors are as large as the vocabulary, and it is not known whether they need rows: "
            f"{_listed(strange)}; known are {', '.join(f'`{name}`' for name in known if name)}",
            hint="resize this model with its own tools",
        )
    for tensor in (tensors[found] for found in known if found):
        if tensor.dtype not in _FLOATS:
            raise ConfigError(f"{_listed([tensor])} is quantised: `{tensor.dtype}`", hint="start from float weights")
    return Matrices(input_name=input_name, output_name=output_name, bias_name=bias_name, num_rows=size)


def _only(names: tuple[str, ...], tensors: Mapping[str, Tensor], size: int, *, what: str) -> str | None:
    named = [tensor for key, tensor in tensors.items() if key in names or key.endswith(tuple("." + n for n in names))]
    # A name alone decides nothing: `output.weight` is also a part of attention in many a model.
    found = [tensor for tensor in named if len(tensor.shape) == 2 and tensor.shape[0] == size]
    if len(found) > 1:
        raise ConfigError(
            f"more than one tensor may be the {what}: {_listed(found)}", hint="resize this model with its own tools"
        )
    return found[0].name if found else None


def _not_found(what: str, names: tuple[str, ...], tensors: Mapping[str, Tensor], size: int) -> ConfigError:
    near = [
        tensor for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and not _IN_LAYER.search(name) and (name.endswith(names) or size in tensor.shape)
    ]  # fmt: skip
    return ConfigError(
        f"no tensor is known as the {what} with {size} rows (config.json's `vocab_size`); "
        f"candidates: {_listed(near) or 'none'}",
        hint="check `vocab_size` and `tie_word_embeddings` in config.json",
    )


def _says_untied(config: dict[str, Any]) -> bool:
    text = config.get("text_config")
    nested = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return config.get("tie_word_embeddings", nested) is False and nested is not True


def _refuse_quantised(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    text = config.get("text_config")
    for table in (config, text if isinstance(text, dict) else {}):
        if table.get("quantization_config"):
            method = table["quantization_config"].get("quant_method", "unknown")
            raise ConfigError(
                f"the weights are quantised (`quantization_config`, method `{method}`)",
                hint="start from the float weights, and quantise the trained model",
            )
    quantised = [tensor for name, tensor in tensors.items() if _QUANTISED.search(name)]
    if quantised:
        raise ConfigError(
            f"the weights are quantised: {_listed(quantised[:4])}",
            hint="start from the float weights, and quantise the trained model",
        )


def _listed(tensors: list[Tensor]) -> str:
    return ", ".join(f"`{tensor.name}` {list(tensor.shape)}" for tensor in tensors)
