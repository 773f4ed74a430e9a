"""Tokenizers that keep text and control tokens apart: no text that a user can send yields a control id.

Control ids are every added token marked special, every SentencePiece CONTROL piece, and every id that a family
inserts. A Llama-class `tokenizer.model` is read by SentencePiece itself, since that is what OpenChat was trained on;
transformers' LlamaTokenizer gives other ids for runs of spaces, indented code and emoji. Everything else goes through
`tokenizers`.
"""

import functools
import itertools
import json
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from ochatctl.chat.conversation import check_text
from ochatctl.chat.token_bytes import PieceBytes, longest_token_bytes, piece_bytes
from ochatctl.errors import ConfigError, DataError
from ochatctl.files import read_optional_table

# Files that hold a tokenizer; every model folder that we write copies those that exist, byte for byte.
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_CACHED_PREFIX_CHARS = 64
_CACHED_WORDS = 1 << 18
_CACHED_WORD_CHARS = 32
_WORD = re.compile(" *[^ ]+| +$")
_SPM_SPACE = "\u2581"
_SPACE_INSIDE = re.compile(f"[^{_SPM_SPACE}]{_SPM_SPACE}| ")
_SPM_CONTROL, _SPM_USER_DEFINED, _SPM_BPE = 3, 4, 2
_REPLACEMENT = "\ufffd"


class Tokenizer(Protocol):
    """What the trunk needs of a tokenizer. Implementations are immutable after construction and safe in threads."""

    bos_ids: tuple[int, ...]
    bos_token: str
    control_ids: frozenset[int]
    dummy_prefix: bool
    num_tokens: int
    # No token covers more bytes of a text; 0 where that is not known.
    longest_token_bytes: int

    def encode_text(self, text: str) -> list[int]:
        """Give the ids of a piece of text, never a control id.

        Raises:
            DataError: a lone surrogate, or a character that the vocabulary cannot spell.
        """
        ...

    def token_id(self, token: str) -> int | None:
        """Give the id of a string that the vocabulary holds as one token."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Give the text of ids, control tokens left out, unfinished characters as U+FFFD."""
        ...

    def token_text(self, token_id: int) -> str:
        """Give a token as the vocabulary spells it, for display."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Give what a token adds to a text, half a character included; a control token its string."""
        ...


class SentencePieceTokenizer:
    """A Llama-class SentencePiece BPE model with byte fallback."""

    def __init__(self, model_dir: Path, *, control_strings: Collection[str]) -> None:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        settings = read_optional_table(model_dir / "tokenizer_config.json")
        proto = sentencepiece_model_pb2.ModelProto.FromString((model_dir / "tokenizer.model").read_bytes())
        self._pieces = [piece.piece for piece in proto.pieces]
        self._added = _added_tokens(model_dir)
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        self._ids.update({text: index for text, (index, _) in self._added.items()})
        control = {index for index, special in self._added.values() if special}
        control |= {index for index, piece in enumerate(proto.pieces) if piece.type == _SPM_CONTROL}
        control |= {self._ids[text] for text in control_strings if text in self._ids}
        self.control_ids = frozenset(control)
        # SentencePiece matches USER_DEFINED pieces in any text, and CONTROL pieces in none.
        for index in control:
            if index < len(proto.pieces) and proto.pieces[index].type == _SPM_USER_DEFINED:
                proto.pieces[index].type = _SPM_CONTROL
        self._model = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.dummy_prefix = bool(proto.normalizer_spec.add_dummy_prefix)
        self._words = _WordEncoder(proto) if _WordEncoder.knows(proto) else None
        self.num_tokens = max(len(self._pieces), *(index + 1 for index, _ in self._added.values()), 0)
        bos = _token_string(settings.get("bos_token")) or self._pieces[self._model.bos_id()]
        puts_bos = settings.get("add_bos_token", True) is not False and bos in self._ids
        self.bos_token = bos if puts_bos else ""
        self.bos_ids: tuple[int, ...] = (self._ids[bos],) if puts_bos else ()
        self._text_of = {index: text for text, (index, _) in self._added.items()}
        # What is dropped before encoding, or becomes one unknown token, has no bound.
        is_plain = not (proto.normalizer_spec.precompiled_charsmap or proto.normalizer_spec.remove_extra_whitespaces)
        self.longest_token_bytes = (
            max(len(piece_bytes(piece)) for piece in self._ids) if is_plain and proto.trainer_spec.byte_fallback else 0
        )
        self._short = functools.lru_cache(maxsize=1024)(self._encode)

    def encode_text(self, text: str) -> list[int]:
        return list(self._short(text)) if len(text) <= _CACHED_PREFIX_CHARS else self._encode(text)

    def token_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def decode(self, token_ids: Sequence[int]) -> str:
        out: list[str] = []
        run: list[int] = []
        for token_id in [*token_ids, -1]:
            if 0 <= token_id < len(self._pieces) and token_id not in self.control_ids:
                run.append(token_id)
                continue
            if run:
                out.append(self._model.decode(run))
                run = []
            if token_id not in self.control_ids:
                out.append(self._text_of.get(token_id, ""))
        return "".join(out)

    def token_text(self, token_id: int) -> str:
        if token_id in self._text_of:
            return self._text_of[token_id]
        return self._pieces[token_id] if 0 <= token_id < len(self._pieces) else f"<unused {token_id}>"

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._text_of:
            return self._text_of[token_id].encode()
        return piece_bytes(self._pieces[token_id]) if 0 <= token_id < len(self._pieces) else b""

    def _encode(self, text: str) -> list[int]:
        check_text(text, "text")
        return _without_control(text, self._encode_part, self.control_ids)

    def _encode_part(self, text: str) -> list[int]:
        if self._words is not None and _SPM_SPACE not in text:
            return self._words.encode(text)
        return list(self._model.encode(text, out_type=int))


class FastTokenizer:
    """A `tokenizer.json`, as two immutable instances: one that knows the special tokens, one that sees only text."""

    def __init__(self, tokenizer_json: str, settings: dict[str, Any], *, control_strings: Collection[str]) -> None:
        from tokenizers import Tokenizer as Fast

        self._template = _plain_instance(Fast.from_str(tokenizer_json))
        table = json.loads(tokenizer_json)
        added = table.get("added_tokens") or []
        inserted = {self._template.token_to_id(text) for text in control_strings} - {None}
        control = inserted | {token["id"] for token in added if token.get("special")}
        self.control_ids = frozenset(control)
        for token in added:
            token["special"] = token["id"] in control
        self._content = _plain_instance(Fast.from_str(json.dumps(table)))
        self._content.encode_special_tokens = True
        vocabulary = self._template.get_vocab(with_added_tokens=True)
        self.num_tokens = max(vocabulary.values(), default=-1) + 1
        self._piece_bytes = PieceBytes(table)
        self._text_of = {token["id"]: str(token["content"]) for token in added}
        self.longest_token_bytes = longest_token_bytes(table, vocabulary)
        self.bos_ids = self._leading_ids(settings)
        self.bos_token = "".join(self._template.id_to_token(index) for index in self.bos_ids)
        first = self._content.encode_batch(["a"], add_special_tokens=False)[0].tokens
        self.dummy_prefix = bool(first) and first[0] != "a" and first[0][0] in "▁Ġ"
        self._short = functools.lru_cache(maxsize=1024)(self._encode)

    def encode_text(self, text: str) -> list[int]:
        return list(self._short(text)) if len(text) <= _CACHED_PREFIX_CHARS else self._encode(text)

    def token_id(self, token: str) -> int | None:
        index = self._template.token_to_id(token)
        return None if index is None else int(index)

    def decode(self, token_ids: Sequence[int]) -> str:
        shown = [index for index in token_ids if index not in self.control_ids]
        return str(self._template.decode(shown, skip_special_tokens=False))

    def token_text(self, token_id: int) -> str:
        return str(self._template.id_to_token(token_id) or f"<unused {token_id}>")

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._text_of:
            return self._text_of[token_id].encode()
        piece = self._template.id_to_token(token_id)
        spelled = None if piece is None else self._piece_bytes(piece)
        return self.decode([token_id]).encode() if spelled is None else spelled

    def _encode(self, text: str) -> list[int]:
        check_text(text, "text")
        return _without_control(text, self._encode_part, self.control_ids)

    def _encode_part(self, text: str) -> list[int]:
        # `encode` holds the GIL for as long as the text takes; `encode_batch` releases it.
        return list(self._content.encode_batch([text], add_special_tokens=False)[0].ids)

    def _leading_ids(self, settings: dict[str, Any]) -> tuple[int, ...]:
        bos = self._template.token_to_id(_token_string(settings.get("bos_token")))
        if settings.get("add_bos_token") is False:
            return ()
        if settings.get("add_bos_token") is True and bos is not None:
            return (bos,)
        encoding = self._template.encode("a", add_special_tokens=True)
        leading = encoding.special_tokens_mask.index(0)
        return tuple(encoding.ids[:leading])


class Detokenizer:
    """Turns a stream of ids into text that never splits a character: joined pieces equal the text decoded at once.

    `context_ids` come before the stream and give no text, so that a continued message keeps its leading space.
    """

    def __init__(self, tokenizer: Tokenizer, context_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(context_ids)
        # Only the ids from `_window` on are decoded again at each push; those up to `_read` have given their text.
        self._window = 0
        self._read = len(self._ids)

    def push(self, token_ids: Iterable[int]) -> str:
        """Give the text that these ids complete."""
        self._ids.extend(token_ids)
        new = self._new_text()
        if not new or new.endswith(_REPLACEMENT):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return new

    def flush(self) -> str:
        """Give what is left at the end of the stream, half a character included."""
        new = self._new_text()
        self._window, self._read = self._read, len(self._ids)
        return new

    def _new_text(self) -> str:
        shown = self._tokenizer.decode(self._ids[self._window : self._read])
        return self._tokenizer.decode(self._ids[self._window :])[len(shown) :]


def require_tokenizer(model_dir: Path) -> None:
    """Stop where a folder holds none: transformers would name packages that it does not lack.

    Raises:
        ConfigError: says so.
    """
    if not any((model_dir / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(
            f"`{model_dir}` holds no tokenizer", hint="a model folder has `tokenizer.json` or `tokenizer.model`"
        )


def not_loaded(model_dir: Path) -> ConfigError:
    """Give the error for a tokenizer that transformers cannot load: its own words name packages, over several lines."""
    return ConfigError(
        f"`{model_dir}`: its tokenizer cannot be loaded; a file of it is missing or damaged",
        hint="a model folder has `tokenizer.json` or `tokenizer.model`",
    )


def load_tokenizer(model_dir: Path, *, control_strings: Collection[str], trust_remote_code: bool = False) -> Tokenizer:
    """Load the tokenizer of a model folder; `control_strings` are those that any family inserts by id.

    Raises:
        ConfigError: the folder holds no tokenizer.
    """
    if (model_dir / "tokenizer.model").is_file() and _is_llama_class(model_dir):
        return SentencePieceTokenizer(model_dir, control_strings=control_strings)
    settings = read_optional_table(model_dir / "tokenizer_config.json")
    file = model_dir / "tokenizer.json"
    if file.is_file():
        return FastTokenizer(file.read_text(encoding="utf-8"), settings, control_strings=control_strings)
    require_tokenizer(model_dir)
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
        backend = slow.backend_tokenizer.to_str()
    except (OSError, ValueError, AttributeError) as error:
        raise not_loaded(model_dir) from error
    return FastTokenizer(backend, settings, control_strings=control_strings)


def copy_tokenizer(source_dir: Path, target_dir: Path) -> None:
    """Copy every tokenizer file byte for byte (transformers' `save_pretrained` drops `tokenizer.model`)."""
    for name in TOKENIZER_FILES:
        if (source_dir / name).is_file():
            shutil.copyfile(source_dir / name, target_dir / name)


def _without_control(text: str, encode: Any, control_ids: frozenset[int]) -> list[int]:
    """Encode a text; where a control id comes out, encode it in two halves."""
    token_ids: list[int] = encode(text)
    if control_ids.isdisjoint(token_ids):
        return token_ids
    if len(text) <= 1:
        raise DataError(f"the tokenizer has no ordinary token for U+{ord(text):04X}")
    middle = len(text) // 2
    left = _without_control(text[:middle], encode, control_ids)
    return left + _without_control(text[middle:], encode, control_ids)


class _WordEncoder:
    """Encodes a text to the ids that its model gives, common words from memory and the others in one call.

    BPE joins two neighbours only where the vocabulary holds them as one piece. Where none holds a space after anything
    else (Llama 2's and Mistral's do not), nothing is joined across the start of a word, so a word has the same ids in
    any company, and a token tells by itself whether it begins one. On ShareGPT chats this is 1.3 times as fast, and the
    more so the more of the words were there before.
    """

    def __init__(self, proto: Any) -> None:
        import sentencepiece

        bare = type(proto).FromString(proto.SerializeToString())
        bare.normalizer_spec.add_dummy_prefix = False
        self._model = sentencepiece.SentencePieceProcessor(model_proto=bare.SerializeToString())
        pieces = [piece.piece for piece in proto.pieces]
        self._begins = frozenset(index for index, piece in enumerate(pieces) if piece.startswith(_SPM_SPACE))
        self._spaces = frozenset(index for index in self._begins if pieces[index].endswith(_SPM_SPACE))
        self._known: dict[str, list[int]] = {}

    @staticmethod
    def knows(proto: Any) -> bool:
        """Tell whether words of this model stand for themselves."""
        normalizer = proto.normalizer_spec
        is_plain = not normalizer.precompiled_charsmap and not normalizer.remove_extra_whitespaces
        has_spaces = normalizer.escape_whitespaces and normalizer.add_dummy_prefix
        if not (is_plain and has_spaces) or proto.trainer_spec.treat_whitespace_as_suffix:
            return False
        return not any(_SPACE_INSIDE.search(piece.piece) for piece in proto.pieces)

    def encode(self, text: str) -> list[int]:
        # The model puts its dummy prefix, a space, before each text.
        words = _WORD.findall(f" {text}" if text else "")
        known = self._known
        found = list(map(known.get, words))
        if None in found:
            gaps = [index for index, ids in enumerate(found) if ids is None]
            missing = list(dict.fromkeys([words[index] for index in gaps]))
            fresh = dict(zip(missing, self._encode_apart(missing), strict=True))
            for index in gaps:
                found[index] = fresh[words[index]]
            if len(known) > _CACHED_WORDS:
                known.clear()
            known.update([(word, ids) for word, ids in fresh.items() if len(word) <= _CACHED_WORD_CHARS])
        return list(itertools.chain.from_iterable(cast("list[list[int]]", found)))

    def _encode_apart(self, words: list[str]) -> list[list[int]]:
        # Each begins with a space; a word of spaces alone ends its text, and stands last here too.
        token_ids = self._model.encode("".join(words), out_type=int)
        begins, spaces = self._begins, self._spaces
        starts = [
            index
            for index, (before, token_id) in enumerate(itertools.pairwise(token_ids), start=1)
            if token_id in begins and before not in spaces
        ]
        return [token_ids[start:end] for start, end in itertools.pairwise([0, *starts, len(token_ids)])]


def _plain_instance(fast: Any) -> Any:
    fast.no_truncation()
    fast.no_padding()
    return fast


def _is_llama_class(model_dir: Path) -> bool:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString((model_dir / "tokenizer.model").read_bytes())
    except DecodeError as error:
        if (model_dir / "tokenizer.json").is_file():
            return False  # such as a tiktoken file under the same name
        raise ConfigError(f"{model_dir / 'tokenizer.model'}: not a SentencePiece model: {error}") from error
    if proto.trainer_spec.model_type != _SPM_BPE or not proto.trainer_spec.byte_fallback:
        return False
    name = str(read_optional_table(model_dir / "tokenizer_config.json").get("tokenizer_class") or "").removesuffix(
        "Fast"
    )
    if name in ("LlamaTokenizer", "CodeLlamaTokenizer"):
        return True
    model_type = str(read_optional_table(model_dir / "config.json").get("model_type") or "llama")
    # Names that transformers writes for any backend; the model then says what kind it is.
    return name in ("", "PreTrainedTokenizer", "TokenizersBackend", "SentencePieceBackend") and model_type in (
        "llama",
        "mistral",
        "mixtral",
    )


def _added_tokens(model_dir: Path) -> dict[str, tuple[int, bool]]:
    """Give text -> (id, special) from every file in which Hugging Face records added tokens."""
    out: dict[str, tuple[int, bool]] = {}
    for token in read_optional_table(model_dir / "tokenizer.json").get("added_tokens") or []:
        out[token["content"]] = (token["id"], bool(token.get("special")))
    settings = read_optional_table(model_dir / "tokenizer_config.json")
    for index, token in (settings.get("added_tokens_decoder") or {}).items():
        out[token["content"]] = (int(index), bool(token.get("special")))
    for text, index in read_optional_table(model_dir / "added_tokens.json").items():
        out.setdefault(text, (index, True))
    return out


def _token_string(value: Any) -> str:
    return str(value.get("content") or "") if isinstance(value, dict) else str(value or "")
