"""Record added tokens and the end-of-turn token in a folder's JSON files, as Hugging Face does.

The files are edited, not saved again through transformers: its `save_pretrained` drops `tokenizer.model` and rewrites
much that nobody asked for. What is not ours to change keeps its value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ochatctl.errors import ConfigError
from ochatctl.files import read_json, write_json
from ochatctl.vocab.matrices import tables_with_vocabulary, vocabulary_size

_FAST, _SETTINGS, _ADDED, _SPECIAL = (
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
_SPM_UNKNOWN, _SPM_CONTROL = 2, 3


def next_ids(model_dir: Path, tokens: tuple[str, ...], *, first_free: int) -> dict[str, int]:
    """Give the id that the tokenizer itself gives each new token.

    Raises:
        ConfigError: the tokenizer's numbering has holes, so that an id is taken.
    """
    path = model_dir / _FAST
    if not path.is_file():
        return {token: first_free + index for index, token in enumerate(tokens)}
    from tokenizers import AddedToken, Tokenizer

    fast = Tokenizer.from_file(str(path))
    taken = {index: token for token, index in fast.get_vocab(with_added_tokens=True).items()}
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    ids = fast.get_vocab(with_added_tokens=True)
    out = {token: int(ids[token]) for token in tokens}
    for token, index in out.items():
        if index in taken:
            raise ConfigError(f"{path}: would give `{token}` the id {index}, which is `{taken[index]}`'s")
    return out


def record_tokens(out_dir: Path, added: Mapping[str, int], *, eot: str) -> None:
    """Write added tokens, and the end-of-turn token as `eos_token`, into a folder's tokenizer files."""
    if added and (out_dir / _FAST).is_file():
        table = _object(out_dir / _FAST)
        entries = table.get("added_tokens") or []
        table["added_tokens"] = entries + [{"id": index, **_entry(token)} for token, index in added.items()]
        write_json(out_dir / _FAST, table)
    settings = _object(out_dir / _SETTINGS) if (out_dir / _SETTINGS).is_file() else {}
    # SentencePiece, and a tokenizer without `tokenizer.json`, know added tokens from these two only.
    outside = (out_dir / "tokenizer.model").is_file() or not (out_dir / _FAST).is_file()
    if added and (outside or (out_dir / _ADDED).is_file()):
        known = _object(out_dir / _ADDED) if (out_dir / _ADDED).is_file() else {}
        write_json(out_dir / _ADDED, {**known, **added})
    decoder = settings.get("added_tokens_decoder")
    if added and (outside or isinstance(decoder, dict)):
        old: dict[str, Any] = decoder if isinstance(decoder, dict) else _decoder(out_dir)
        settings["added_tokens_decoder"] = old | {str(index): _entry(token) for token, index in added.items()}
    settings["eos_token"] = eot
    # The template stands in chat_template.jinja; a second copy here would be the older one.
    settings.pop("chat_template", None)
    write_json(out_dir / _SETTINGS, settings)
    if (out_dir / _SPECIAL).is_file():
        write_json(out_dir / _SPECIAL, {**_object(out_dir / _SPECIAL), "eos_token": eot})


def record_sizes(out_dir: Path, *, num_rows: int, eot_id: int) -> None:
    """Write the number of rows and the end-of-turn id into `config.json` and `generation_config.json`."""
    config = _object(out_dir / "config.json")
    old_size, text = vocabulary_size(config), config.get("text_config")
    for table in tables_with_vocabulary(config):
        # A part with a vocabulary of its own, such as an audio decoder's, keeps it.
        if table["vocab_size"] == old_size:
            table["vocab_size"] = num_rows
    config["eos_token_id"] = eot_id
    if isinstance(text, dict) and "eos_token_id" in text:
        text["eos_token_id"] = eot_id
    write_json(out_dir / "config.json", config)
    path = out_dir / "generation_config.json"
    generation = _object(path) if path.is_file() else {}
    if not path.is_file() and isinstance(config.get("bos_token_id"), int):
        generation["bos_token_id"] = config["bos_token_id"]
    write_json(path, {**generation, "eos_token_id": eot_id})


def read_config(model_dir: Path) -> dict[str, Any]:
    """Give a model folder's `config.json`.

    Raises:
        ConfigError: there is none.
    """
    if not (model_dir / "config.json").is_file():
        raise ConfigError(f"`{model_dir}` has no `config.json`", hint="give the folder of a Hugging Face model")
    return _object(model_dir / "config.json")


def _entry(token: str) -> dict[str, Any]:
    return {
        "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True,
    }  # fmt: skip


def _decoder(out_dir: Path) -> dict[str, Any]:
    """Give the `added_tokens_decoder` that a folder without one implies.

    transformers reads `added_tokens.json` only where the settings have no decoder, so what stands there goes in too.
    """
    if (out_dir / _FAST).is_file():
        tokens = sorted(_object(out_dir / _FAST).get("added_tokens") or [], key=lambda token: int(token["id"]))
        return {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in tokens}
    entries: dict[int, str] = {}
    if (out_dir / "tokenizer.model").is_file():
        from sentencepiece import sentencepiece_model_pb2

        proto = sentencepiece_model_pb2.ModelProto.FromString((out_dir / "tokenizer.model").read_bytes())
        special = (_SPM_UNKNOWN, _SPM_CONTROL)
        entries = {index: piece.piece for index, piece in enumerate(proto.pieces) if piece.type in special}
    if (out_dir / _ADDED).is_file():
        entries |= {index: token for token, index in _object(out_dir / _ADDED).items()}
    return {str(index): _entry(entries[index]) for index in sorted(entries)}


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, found `{type(value).__name__}`")
    return value
