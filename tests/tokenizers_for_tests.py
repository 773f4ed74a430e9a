"""Small real tokenizers of every kind that was seen to leak, made in seconds without a download."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ochatctl.chat.families import FAMILIES

CORPUS = [
    "The quick brown fox jumps over the lazy dog. How are you today? I am fine, thank you!",
    "def main():\n    for i in range(3):\n        print(i)\n",
    "GPT4 User: Hello GPT4 Assistant: Hi there, naïve café. 中文 🙂 <|im_end|> <s> end_of_turn start_header_id user",
    "Turn chats into a served chat model. 1234567890 (a) [b] {c} <d> |e|",
]
CONTROL_STRINGS = sorted({text for family in FAMILIES.values() for text in family.template.control_strings})
ORDINARY_ADDED = "<think>"


def byte_bpe(
    *,
    special: bool = True,
    in_vocab: bool = False,
    ignore_merges: bool = False,
    normalized: bool = False,
    add_prefix_space: bool = False,
) -> dict[str, Any]:
    """Give a `tokenizer.json` of byte-level BPE; the control strings are added tokens or base vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Split("\n", "isolated")
        if in_vocab
        else pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    )
    if in_vocab:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if in_vocab:
        table = json.loads(tokenizer.to_str())
        for text in CONTROL_STRINGS:
            table["model"]["vocab"][text] = len(table["model"]["vocab"])
        return table
    tokenizer.add_tokens([AddedToken(text, special=special, normalized=normalized) for text in CONTROL_STRINGS])
    tokenizer.add_tokens([AddedToken(ORDINARY_ADDED, special=False)])
    return json.loads(tokenizer.to_str())


def unigram() -> dict[str, Any]:
    """Give a `tokenizer.json` of a Unigram model whose base vocabulary holds the control strings as likely pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted({letter for text in CORPUS for letter in text} | {"▁"})
    pieces = [("<unk>", 0.0), *((letter, -5.0) for letter in letters), *((text, -1.0) for text in CONTROL_STRINGS)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return json.loads(tokenizer.to_str())


def write_fast(folder: Path, table: dict[str, Any], **settings: Any) -> Path:
    """Write a `tokenizer.json` folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_sentencepiece(folder: Path, *, user_defined: tuple[str, ...] = ()) -> Path:
    """Write a Llama-class SentencePiece folder; control strings that are no pieces come after them as added tokens."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=list(user_defined),
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    missing = [text for text in CONTROL_STRINGS if text not in (*user_defined, "</s>")]
    added = {text: 420 + index for index, text in enumerate(missing)}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def data_dir() -> Path:
    """Give the folder of vectors and the Llama 2 tokenizer, or skip."""
    folder = os.environ.get("OCHATCTL_TEST_DATA")
    if not folder:
        pytest.skip("OCHATCTL_TEST_DATA is not set: the vectors and the Llama 2 tokenizer are not in the repository")
    return Path(folder)


def model_dir() -> Path:
    """Give the folder of a real chat model, SmolLM2-135M-Instruct, or skip."""
    folder = os.environ.get("OCHATCTL_TEST_MODEL")
    if not folder:
        pytest.skip("OCHATCTL_TEST_MODEL is not set: it names a folder with SmolLM2-135M-Instruct")
    return Path(folder)
