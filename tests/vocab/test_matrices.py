"""The matrices are found by name and shape in every architecture, and a guess is never made."""

import json
from pathlib import Path

import pytest
import torch
from base_folders_for_tests import read_tensors, write_llama, write_shards, write_tokenizer

from ochatctl.chat.families import get_family
from ochatctl.errors import ConfigError
from ochatctl.vocab import add_eot
from ochatctl.vocab.matrices import find_matrices
from ochatctl.vocab.shards import Tensor

FAMILY = get_family("openchat_v3.2")
ROWS = 77
SMALL = {
    "vocab_size": ROWS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 24, "n_embd": 16, "n_layer": 1, "n_head": 2, "d_model": 16, "n_heads": 2, "n_layers": 1,
    "max_position_embeddings": 40, "n_positions": 40, "max_seq_len": 40, "word_embed_proj_dim": 16, "ffn_dim": 24,
    "rotary_dim": 4, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
ARCHITECTURES = [
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "phi", "phi3", "gpt2", "gptj", "gpt_neox", "falcon", "opt",
    "bloom", "mpt", "olmo2", "stablelm", "mamba",
]  # fmt: skip


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_table_of_names_fits_the_architectures_of_transformers(model_type: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **SMALL)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = bool(config.tie_word_embeddings)
    names = {id(tensor): name for name, tensor in reversed(list(model.named_parameters(remove_duplicate=False)))}
    tensors = {
        name: Tensor(name=name, dtype="F32", shape=tuple(tensor.shape), num_bytes=4 * tensor.numel())
        for name, tensor in model.named_parameters(remove_duplicate=not tied)
        if not (tied and tensor is model.get_output_embeddings().weight and "head" in name)
    }
    found = find_matrices(json.loads(config.to_json_string(use_diff=False)), tensors)
    assert found.num_rows == ROWS
    assert found.input_name == names[id(model.get_input_embeddings().weight)] or tied
    assert (found.output_name is None) == tied
    head = model.get_output_embeddings()
    if not tied:
        assert found.output_name == names[id(head.weight)]
    if getattr(head, "bias", None) is not None:
        assert found.bias_name is not None
        assert found.bias_name.endswith("head.bias")


def test_a_head_s_bias_gets_its_mean(tmp_path: Path) -> None:
    from transformers import PhiConfig, PhiForCausalLM

    source = tmp_path / "base"
    source.mkdir()
    rows = write_tokenizer(source, "fast")
    model = PhiForCausalLM(PhiConfig(**(SMALL | {"vocab_size": rows, "num_key_value_heads": 2})))
    torch.nn.init.normal_(model.lm_head.bias)
    (source / "config.json").write_text(json.dumps(model.config.to_dict()))
    write_shards(source, {name: value.clone() for name, value in model.state_dict().items()}, 1)
    done = add_eot(source, tmp_path / "out", FAMILY, check_logits=True)
    assert done.matrices == ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
    old, new = read_tensors(source)["lm_head.bias"], read_tensors(tmp_path / "out")["lm_head.bias"]
    assert torch.equal(new[:-1], old)
    assert torch.equal(new[-1], old.double().mean().float())


def changed(tmp_path: Path, *, rename: dict[str, str] | None = None, **config: object) -> Path:
    """Give a Llama folder with tensors copied under other names, and other keys in its config."""
    source = write_llama(tmp_path / "base")
    tensors = read_tensors(source)
    for old, new in (rename or {}).items():
        tensors[new] = tensors[old].clone()
        if new.startswith("instead."):
            del tensors[old]
    write_shards(source, tensors, 1)
    table = json.loads((source / "config.json").read_text()) | config
    (source / "config.json").write_text(json.dumps(table))
    return source


INPUT, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize(
    ("rename", "config", "named"),
    [
        ({INPUT: "model.encoder.embed_tokens.weight"}, {}, [INPUT, "model.encoder.embed_tokens.weight"]),
        ({INPUT: "model.per_token_gate.weight"}, {}, ["model.per_token_gate.weight", INPUT]),
        ({INPUT: "instead.of.weight"}, {}, ["instead.of.weight"]),
        ({OUTPUT: "instead.of.weight"}, {}, ["instead.of.weight", "output embedding"]),
        ({}, {"vocab_size": 5}, [INPUT, "5 rows"]),
        ({}, {"vocab_size": None}, ["vocab_size"]),
        ({}, {"quantization_config": {"quant_method": "gptq"}}, ["quantised", "gptq"]),
        ({OUTPUT: "model.layers.0.mlp.up_proj.qweight"}, {}, ["quantised", "up_proj.qweight"]),
    ],
)  # fmt: skip
def test_what_is_ambiguous_or_quantised_is_refused_with_the_candidates(
    rename: dict[str, str], config: dict[str, object], named: list[str], tmp_path: Path
) -> None:
    source = changed(tmp_path, rename=rename, **config)
    with pytest.raises(ConfigError) as caught:
        add_eot(source, tmp_path / "out", FAMILY)
    assert caught.value.exit_code == 3
    for text in named:
        assert text in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_matrix_of_eight_bit_numbers_is_quantised(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", dtype=torch.float8_e4m3fn)
    with pytest.raises(ConfigError, match="F8_E4M3"):
        add_eot(source, tmp_path / "out", FAMILY)


def test_a_layer_as_wide_as_the_vocabulary_is_not_taken_for_one() -> None:
    shapes = {INPUT: (64, 8), OUTPUT: (64, 8), "model.layers.0.mlp.up_proj.weight": (64, 8), "model.norm.weight": (64,)}
    tensors = {name: Tensor(name=name, dtype="F32", shape=shape, num_bytes=0) for name, shape in shapes.items()}
    assert find_matrices({"vocab_size": 64}, tensors).names == (INPUT, OUTPUT)
