"""Make a small Llama base from scratch: a SentencePiece tokenizer trained on conversations, and random weights.

In: conversation JSONL. Out: a Hugging Face folder that `add-eot`, `train`, transformers and vLLM take. It is made to be
trained in about a minute on two cores until it recites its few dozen kilobytes, so the defaults are what memorises them
in the least CPU time; see `BaseConfig` for what was measured.
"""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ochatctl.chat.conversation import Conversation, read_conversations
from ochatctl.errors import ConfigError, DataError
from ochatctl.files import atomic_dir, refuse_existing, require_disk, write_json

HEAD_SIZE = 64
_NUM_SPECIAL = 3  # <unk> <s> </s>, as Llama's
_NUM_BYTES = 256
_CONTEXT_TOKENS = 8192
_MAX_VOCAB_SIZE = 65_536
_LEAST_COVERAGE = 0.98  # SentencePiece takes no less


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """How large the base is.

    The defaults recite 40 KB of chats (18,000 tokens) after 30 epochs, in about 70 s on two cores; measured with AdamW,
    a peak rate of 4e-3 and 2 x 1024 tokens a step: 45 of 46 answers word for word. After as many epochs, two layers, or
    a vocabulary of 512 or of 1536, recite fewer; at a rate of 1e-2 the loss stays above 4.
    """

    vocab_size: int = 1024
    hidden_size: int = 128
    num_layers: int = 3
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """What was made."""

    out: Path
    num_conversations: int
    num_chars: int
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_parameters: int
    notices: tuple[str, ...]


def make_base(chats: Path, out: Path, config: BaseConfig, *, yes: bool = False, dry_run: bool = False) -> BaseModel:
    """Write a base model folder for the conversations of a JSONL file.

    Guarantees:
        the same conversations and config give the same bytes.

    Raises:
        UsageProblem: `out` exists.
        ConfigError: sizes that cannot be.
        DataError: malformed conversations, or too little text for any vocabulary.
    """
    _check(config)
    refuse_existing(out, yes=yes)
    conversations = list(read_conversations(chats))
    texts = _texts(conversations)
    notices: list[str] = []
    pieces, vocab_size = _train_tokenizer(texts, config.vocab_size, notices, where=str(chats))
    table = _llama_config(vocab_size, config)
    num_parameters = sum(_size(shape) for shape in _shapes(table).values())
    require_disk(out, need_bytes=4 * num_parameters + (16 << 20))
    if not dry_run:
        with atomic_dir(out) as part:
            (part / "tokenizer.model").write_bytes(pieces)
            _write_tokenizer_files(part)
            write_json(part / "config.json", table)
            ids = {"bos_token_id": 1, "eos_token_id": 2}
            write_json(part / "generation_config.json", {"do_sample": False, **ids})
            _write_weights(part, table, config.seed)
    return BaseModel(
        out=out,
        num_conversations=len(conversations),
        num_chars=sum(len(text) for text in texts),
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_parameters=num_parameters,
        notices=tuple(notices),
    )


def _check(config: BaseConfig) -> None:
    smallest = _NUM_SPECIAL + _NUM_BYTES + 1
    if not smallest <= config.vocab_size <= _MAX_VOCAB_SIZE:
        raise ConfigError(
            f"a vocabulary of {config.vocab_size} is not between {smallest} (256 bytes, 3 special tokens and a letter) "
            f"and {_MAX_VOCAB_SIZE}"
        )
    if config.hidden_size < HEAD_SIZE or config.hidden_size % HEAD_SIZE:
        raise ConfigError(f"a hidden size of {config.hidden_size} is not a multiple of the head size, {HEAD_SIZE}")
    if config.num_layers < 1:
        raise ConfigError(f"{config.num_layers} layers are too few")


def _texts(conversations: Iterable[Conversation]) -> list[str]:
    texts = []
    for conversation in conversations:
        texts += [conversation.system, *(message.content for message in conversation.messages)]
    return [text for text in texts if text.strip()]


def _train_tokenizer(texts: list[str], vocab_size: int, notices: list[str], *, where: str) -> tuple[bytes, int]:
    """Give a SentencePiece model like Llama's, and its size, which is smaller where the text has too few pieces."""
    if not texts:
        raise DataError(f"{where}: no text to train a tokenizer on", hint="give conversations with some text in them")
    try:
        return _sentencepiece(texts, vocab_size), vocab_size
    except _TooManyPieces as error:
        notices.append(f"the text has pieces for a vocabulary of {error.size}, not of {vocab_size}")
        return _sentencepiece(texts, error.size), error.size
    except _TooManyLetters:
        notices.append(f"a vocabulary of {vocab_size} has no room for every letter; rare ones are spelled in bytes")
    try:
        return _sentencepiece(texts, vocab_size, coverage=_LEAST_COVERAGE), vocab_size
    except _TooManyLetters as error:
        raise ConfigError(
            f"{where}: a vocabulary of {vocab_size} has no room for the text's letters",
            hint=f"add `--vocab-size {error.size}` or more",
        ) from error


class _TooManyPieces(Exception):
    """The text has fewer pieces than were asked for; `size` is the largest vocabulary."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _TooManyLetters(Exception):
    """The vocabulary has no room for the letters; `size` is the smallest one."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _sentencepiece(texts: list[str], vocab_size: int, *, coverage: float = 1.0) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            character_coverage=coverage,
            max_sentence_length=1 << 20,
            # One thread: pieces of equal frequency must not depend on a race.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        # SentencePiece tells these two apart in its message only.
        if match := re.search(r"value <= (\d+)", str(error)):
            raise _TooManyPieces(int(match[1])) from error
        if match := re.search(r"required_chars. \d+ vs (\d+)", str(error)):
            raise _TooManyLetters(int(match[1])) from error
        raise
    return model.getvalue()


def _write_tokenizer_files(part: Path) -> None:
    """Write what transformers and vLLM read: they take `tokenizer.json` where there is one."""
    from transformers import LlamaTokenizer

    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
        "model_max_length": _CONTEXT_TOKENS,
        "clean_up_tokenization_spaces": False,
    }
    write_json(part / "tokenizer_config.json", settings)
    fast = LlamaTokenizer.from_pretrained(part)
    fast.backend_tokenizer.save(str(part / "tokenizer.json"))


def _llama_config(vocab_size: int, config: BaseConfig) -> dict[str, Any]:
    heads = config.hidden_size // HEAD_SIZE
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        # 8/3 of the hidden size, as Llama's, rounded up to 64.
        "intermediate_size": -(-config.hidden_size * 8 // (3 * 64)) * 64,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": _CONTEXT_TOKENS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "initializer_range": 0.02,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": True,
    }


def _shapes(table: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Give the tensors of a Llama without biases, as Hugging Face names them."""
    hidden, inner, vocab = table["hidden_size"], table["intermediate_size"], table["vocab_size"]
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(table["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        out |= {f"{prefix}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        out |= {f"{prefix}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        out[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
        out |= {f"{prefix}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    return out | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def _write_weights(part: Path, table: dict[str, Any], seed: int) -> None:
    """Draw weights that start to learn at once.

    Embeddings have unit variance, matrices keep the variance of what goes in, those that write to the residual stream
    are smaller by sqrt(2 x layers), and the head is zero, so that the first loss is ln(vocabulary) exactly. With
    Llama's own 0.02 for everything, the same run was at a loss of 4.9 where this one recited every answer.
    """
    from safetensors.torch import save

    generator = torch.Generator().manual_seed(seed)
    residual = (2 * table["num_hidden_layers"]) ** -0.5
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in _shapes(table).items():
        if len(shape) == 1:
            tensors[name] = torch.ones(shape)
        elif name == "lm_head.weight":
            tensors[name] = torch.zeros(shape)
        else:
            scale = 1.0 if name == "model.embed_tokens.weight" else shape[1] ** -0.5
            scale *= residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            tensors[name] = torch.randn(shape, generator=generator) * scale
    # `save_file` would make a file that only its owner can read.
    (part / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
