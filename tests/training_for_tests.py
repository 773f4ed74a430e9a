"""Small real bases and packed data for the tests of training, made in a second."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers_for_tests import write_sentencepiece

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import load_family, write_chat_files
from ochatctl.data.dataset import DatasetInfo, Split, split_path, write_dataset
from ochatctl.data.encode import to_row

FAMILY = "openchat_v3.2"
VOCAB_SIZE = 448
_WORDS = ("fox", "dog", "lazy", "quick", "thank", "fine", "today", "chats", "served", "café", "user", "print")


def tiny_config(model_type: str = "llama", **changes: Any) -> Any:
    """Give a config of two layers with twice as many query heads as key-value heads."""
    from transformers import AutoConfig

    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    return AutoConfig.for_model(model_type, **(values | changes))


def write_base(folder: Path, *, card: bool = True, eot: bool = True, config: Any = None) -> Path:
    """Write a random model with a SentencePiece tokenizer; without `eot` it is a plain base."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config or tiny_config()).save_pretrained(folder)
    write_sentencepiece(folder)
    if not eot:
        (folder / "added_tokens.json").unlink()
    if card and eot:
        family, tokenizer = load_family(folder, FAMILY)
        write_chat_files(folder, family, tokenizer, conditions={})
    return folder


def write_data(
    prefix: Path, model_dir: Path, *, num_rows: int = 24, seed: int = 0, last: str = "", split: Split = "train"
) -> Path:
    """Pack random conversations of two classes, the lesser one at weight 0.1; `last` is asked in the last one."""
    draw = random.Random(seed)
    family, tokenizer = load_family(model_dir, FAMILY)
    conditions = {"GPT4": 0, "GPT3": 0}
    with write_dataset(split_path(prefix, split)) as writer:
        for index in range(num_rows):
            condition, weight = ("GPT3", 0.1) if index % 3 == 0 else ("GPT4", 1.0)
            asked = last if index == num_rows - 1 else ""
            messages = [
                Message(role="user", content=" ".join(draw.choices(_WORDS, k=draw.randint(1, 6))) + asked),
                Message(role="assistant", content=" ".join(draw.choices(_WORDS, k=draw.randint(1, 9))), weight=weight),
            ]
            row = to_row(family.template.encode(Conversation(messages=tuple(messages), condition=condition), tokenizer))
            conditions[condition] += int((row.loss_weights != 0).sum())
            writer.add(row)
        writer.finish(DatasetInfo(model_type=FAMILY, conditions=conditions, num_tokens=VOCAB_SIZE))
    return prefix
