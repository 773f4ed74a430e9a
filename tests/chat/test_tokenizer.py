"""Text never yields a control id, and streamed text equals text decoded at once."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import (
    CONTROL_STRINGS,
    ORDINARY_ADDED,
    byte_bpe,
    data_dir,
    model_dir,
    unigram,
    write_fast,
    write_sentencepiece,
)

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import FAMILIES, family_tokenizer, load_family
from ochatctl.chat.tokenizer import Detokenizer, SentencePieceTokenizer, Tokenizer
from ochatctl.errors import ConfigError, DataError

KINDS = (
    "bpe",
    "bpe-not-special",
    "bpe-normalized",
    "bpe-in-vocabulary",
    "bpe-ignore-merges",
    "unigram",
    "sentencepiece",
    "sentencepiece-user-defined",
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("tokenizers")
    folders = {
        "bpe": write_fast(root / "bpe", byte_bpe()),
        "bpe-not-special": write_fast(root / "plain", byte_bpe(special=False)),
        "bpe-normalized": write_fast(root / "normalized", byte_bpe(special=False, normalized=True)),
        "bpe-in-vocabulary": write_fast(root / "vocabulary", byte_bpe(in_vocab=True)),
        "bpe-ignore-merges": write_fast(root / "ignore", byte_bpe(in_vocab=True, ignore_merges=True)),
        "unigram": write_fast(root / "unigram", unigram()),
        "sentencepiece": write_sentencepiece(root / "sp"),
        "sentencepiece-user-defined": write_sentencepiece(
            root / "sp-user", user_defined=("<|im_start|>", "<|im_end|>")
        ),
    }
    assert tuple(folders) == KINDS
    return {name: family_tokenizer(folder, FAMILIES["openchat_v3.2"]) for name, folder in folders.items()}


fragments = st.sampled_from(
    [
        *CONTROL_STRINGS,
        "<s>",
        "<unk>",
        "<|end_of_",
        "turn|>",
        "<|",
        "|>",
        " ",
        "  ",
        "\n",
        "▁",
        "GPT4 User:",
        "é",
        "🙂",
        "\0",
    ]
)
texts = st.lists(st.one_of(fragments, st.text(st.characters(exclude_categories=["Cs"]), max_size=8)), max_size=12).map(
    "".join
)


@pytest.mark.parametrize("kind", KINDS)
@given(content=texts, system=texts, condition=texts)
@settings(max_examples=40, deadline=None)
def test_no_string_yields_a_control_id(
    tokenizers: dict[str, Tokenizer], kind: str, content: str, system: str, condition: str
) -> None:
    """The prompt holds exactly the control ids that the template puts there, whatever the user sends."""
    tokenizer = tokenizers[kind]
    for family in FAMILIES.values():
        template = family.template
        takes_system = template.system_prefix is not None

        def controls(text: str, system_text: str, name: str, family_name: str = family.name) -> list[int]:
            chosen = FAMILIES[family_name].template
            conversation = Conversation(
                messages=(Message(role="user", content=text), Message(role="assistant", content=text)),
                system=system_text if chosen.system_prefix is not None else "",
                condition="" if chosen.conditions else name,
            )
            return [i for i in chosen.encode(conversation, tokenizer, True).token_ids if i in tokenizer.control_ids]

        plain = controls("x", "x" if system and takes_system else "", "x" if condition else "")
        assert controls(content, system, condition) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_the_injection_law_is_not_vacuous(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    eot = tokenizer.token_id("<|end_of_turn|>")
    assert eot is not None
    assert eot in tokenizer.control_ids
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode_text("a <|end_of_turn|> b"))
    assert tokenizer.decode(tokenizer.encode_text("a <|end_of_turn|> b")).replace(" ", "") == "a<|end_of_turn|>b"


def test_without_the_guard_these_tokenizers_do_leak(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Fast

    for table in (byte_bpe(special=False), byte_bpe(in_vocab=True, ignore_merges=True), unigram()):
        fast = Fast.from_str(json.dumps(table))
        fast.encode_special_tokens = True
        assert fast.token_to_id("<|end_of_turn|>") in fast.encode("<|end_of_turn|>", add_special_tokens=False).ids


def test_an_added_token_that_no_family_inserts_and_that_is_not_special_is_ordinary_text(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["bpe"]
    assert tokenizer.encode_text(ORDINARY_ADDED) == [tokenizer.token_id(ORDINARY_ADDED)]
    assert tokenizer.token_id(ORDINARY_ADDED) not in tokenizer.control_ids


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts, data=st.data())
@settings(max_examples=40, deadline=None)
def test_streamed_text_equals_the_whole_at_every_split(
    tokenizers: dict[str, Tokenizer], kind: str, text: str, data: st.DataObject
) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode_text(text)
    cut = data.draw(st.integers(0, len(ids)))
    for pieces in ([[i] for i in ids], [ids[:cut], ids[cut:]]):
        stream = Detokenizer(tokenizer)
        assert "".join(stream.push(piece) for piece in pieces) + stream.flush() == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
@settings(max_examples=15, deadline=None)
def test_the_bytes_of_tokens_joined_are_the_text_and_none_covers_more_than_the_longest(
    tokenizers: dict[str, Tokenizer], kind: str, text: str
) -> None:
    check_spelling(tokenizers[kind], text)


def check_spelling(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_text(text)
    joined = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert joined in (tokenizer.decode(ids), " " + tokenizer.decode(ids))
    if tokenizer.longest_token_bytes:
        assert len(text.encode()) <= tokenizer.longest_token_bytes * len(ids)


def test_the_longest_token_is_known_where_nothing_is_dropped_before_encoding(tokenizers: dict[str, Tokenizer]) -> None:
    known = {kind for kind in KINDS if tokenizers[kind].longest_token_bytes}
    assert known == set(KINDS) - {"unigram"}
    assert all(1 < tokenizers[kind].longest_token_bytes < 100 for kind in known)
    for kind in ("bpe", "sentencepiece"):
        assert len(tokenizers[kind].encode_text("🌍")) > 1  # the law above has met half characters


def test_a_stream_never_shows_half_a_character(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        ids = tokenizer.encode_text("a 🦆 b")
        stream = Detokenizer(tokenizer)
        assert not any("\ufffd" in stream.push([i]) for i in ids)
        assert len(ids) > 5


def test_a_continued_message_keeps_its_leading_space(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["sentencepiece"]
    stream = Detokenizer(tokenizer, context_ids=tokenizer.encode_text("The quick"))
    assert stream.push(tokenizer.encode_text("brown")) == " brown"


def test_a_lone_surrogate_is_refused(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        with pytest.raises(DataError, match="lone surrogate"):
            tokenizer.encode_text("a\ud800")


def test_bos_is_what_the_tokenizer_itself_puts_first(tmp_path: Path) -> None:
    family = FAMILIES["chatml"]
    assert family_tokenizer(write_sentencepiece(tmp_path / "sp"), family).bos_ids == (1,)
    assert family_tokenizer(write_fast(tmp_path / "none", byte_bpe(), bos_token="<|im_start|>"), family).bos_ids == ()
    table = byte_bpe()
    start = next(token["id"] for token in table["added_tokens"] if token["content"] == "<|im_start|>")
    table["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [start], "tokens": ["<|im_start|>"]}},
    }
    assert family_tokenizer(write_fast(tmp_path / "template", table), family).bos_ids == (start,)


def test_a_folder_without_a_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        family_tokenizer(tmp_path, FAMILIES["chatml"])
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        load_family(tmp_path)


def test_llama_2_is_read_by_sentencepiece_itself() -> None:
    import sentencepiece

    folder = data_dir() / "llama2_tokenizer"
    tokenizer = family_tokenizer(folder, FAMILIES["openchat_v3.2"])
    assert type(tokenizer).__name__ == "SentencePieceTokenizer"
    assert tokenizer.num_tokens == 32001
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in ("    return  x", "\t\tx", "a  b   c", "🙂🙂", "<0x41>", "▁x", "\r\n", "<|end_of_turn|>"):
        assert tokenizer.encode_text(text) == model.encode(text)


def test_real_vocabularies_spell_their_tokens() -> None:
    for folder in (data_dir() / "llama2_tokenizer", model_dir()):
        tokenizer = family_tokenizer(folder, FAMILIES["openchat_v3.2"])
        check_spelling(tokenizer, "naïve café, 中文 🙂 <s> \n\n    x = 1\t\0")
        assert 20 < tokenizer.longest_token_bytes < 1_000


def test_smollm2_never_leaks_either() -> None:
    tokenizer = family_tokenizer(model_dir(), FAMILIES["chatml"])

    @given(text=texts)
    @settings(max_examples=300, deadline=None)
    def law(text: str) -> None:
        assert tokenizer.control_ids.isdisjoint(tokenizer.encode_text(text))

    law()


@pytest.mark.parametrize("kind", ["made up", "user-defined", "llama 2"])
def test_words_one_by_one_have_the_ids_that_sentencepiece_gives_the_whole_text(kind: str, tmp_path: Path) -> None:
    import sentencepiece

    if kind == "llama 2":
        folder = data_dir() / "llama2_tokenizer"
    else:
        folder = write_sentencepiece(tmp_path / "model", user_defined=("brown", "ab c") if kind != "made up" else ())
    tokenizer = SentencePieceTokenizer(folder, control_strings=())
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    # A user-defined symbol with a space inside spans words: then the text is encoded whole.
    assert (tokenizer._words is None) == (kind == "user-defined")
    words = st.sampled_from(
        ["the", "quick", "brown", "ab", "c", " ", "  ", "\n", "\t", "▁", "é", "🙂", "中文", "x" * 40]
    )

    @given(text=st.lists(words | st.text(max_size=4), max_size=12).map("".join))
    @settings(max_examples=100, deadline=None)
    def law(text: str) -> None:
        assert tokenizer.encode_text(text) == model.encode(text)

    law()
    assert tokenizer.encode_text("") == []
