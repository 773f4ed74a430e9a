"""Small random base models in every shape that `add-eot` meets, made without a download."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers_for_tests import byte_bpe, write_fast, write_sentencepiece


def write_tokenizer(folder: Path, kind: str) -> int:
    """Write a tokenizer without any family's tokens; give the number of its tokens."""
    if kind == "sentencepiece":
        write_sentencepiece(folder)
        (folder / "added_tokens.json").unlink()
        return 420
    table = byte_bpe()
    size = len(table["model"]["vocab"])
    entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    table["added_tokens"] = [{"id": size, "content": "<|endoftext|>", **entry}]
    write_fast(folder, table, eos_token="<|endoftext|>", chat_template="{{ 'old' }}")
    return size + 1


def llama_tensors(*, rows: int, hidden: int, tied: bool, dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """Give the weights of a Llama with two layers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.2 + 0.05).to(dtype)

    out = {"model.embed_tokens.weight": draw(rows, hidden)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        out |= {f"{prefix}.self_attn.{name}_proj.weight": draw(hidden, hidden) for name in "qkvo"}
        out |= {f"{prefix}.mlp.{name}_proj.weight": draw(2 * hidden, hidden) for name in ("gate", "up")}
        out[f"{prefix}.mlp.down_proj.weight"] = draw(hidden, 2 * hidden)
        out |= {f"{prefix}.{name}_layernorm.weight": draw(hidden) for name in ("input", "post_attention")}
    out["model.norm.weight"] = draw(hidden)
    return out if tied else out | {"lm_head.weight": draw(rows, hidden)}


def write_llama(
    folder: Path,
    *,
    tokenizer: str = "fast",
    padding: int = 0,
    hidden: int = 16,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    num_shards: int = 1,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a random Llama with a row for each token of its tokenizer, and `padding` more."""
    folder.mkdir(parents=True)
    rows = write_tokenizer(folder, tokenizer) + padding
    write_config(folder, vocab_size=rows, hidden_size=hidden, tie_word_embeddings=tied, **config)
    tensors = llama_tensors(rows=rows, hidden=hidden, tied=tied, dtype=dtype, seed=seed)
    write_shards(folder, tensors, num_shards)
    return folder


def write_config(folder: Path, **changes: Any) -> None:
    """Write a Llama's `config.json`."""
    hidden = changes.get("hidden_size", 16)
    table = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(table | changes))


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], num_shards: int) -> None:
    """Write weights in one file, or in several with an index."""
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(num_shards):
        file = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::num_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Give all weights of a folder, as safetensors itself reads them."""
    out: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        out |= load_file(file)
    return out
