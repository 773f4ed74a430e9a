"""Splitting: each piece fits, and every supervised token is in exactly one piece."""

import dataclasses
import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import FAMILIES
from ochatctl.chat.template import Encoded, encode_document
from ochatctl.data.split import Pieces, split, split_document, truncate

CONTROL_STRINGS = sorted({text for family in FAMILIES.values() for text in family.template.control_strings})
TOKENIZER = ByteTokenizer(CONTROL_STRINGS)
FAMILY_NAMES = ["openchat_v3.2", "openchat_v3.1_llama2", "openchat_3.6", "chatml", "zephyr", "gemma_it"]


def supervised(pieces: list[Encoded]) -> list[tuple[int, float]]:
    pairs = [zip(piece.token_ids, piece.loss_weights, strict=True) for piece in pieces]
    return [(token_id, weight) for pair in pairs for token_id, weight in pair if weight]


def chat(*texts: str, system: str = "") -> Conversation:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[index % 2], content=text) for index, text in enumerate(texts))
    return Conversation(messages=messages, system=system)


def exchanges(turns: tuple[Message, ...]) -> list[tuple[Message, ...]]:
    found: list[list[Message]] = [[]]
    for turn in turns:
        if turn.role == "user" and found[-1] and found[-1][-1].role == "assistant":
            found.append([])
        found[-1].append(turn)
    return [tuple(exchange) for exchange in found]


messages = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["user", "assistant"]),
        content=st.text(st.sampled_from("ab. \né"), max_size=120),
        weight=st.sampled_from([None, None, None, 0.0, 0.5, 1.0]),
    ),
    min_size=1,
    max_size=8,
).map(tuple)


@given(
    messages,
    st.sampled_from(["", "Be brief.", "x" * 150]),
    st.sampled_from(FAMILY_NAMES),
    st.integers(16, 300),
    st.sampled_from([0, 0, 1, 3]),
)
@settings(deadline=None, max_examples=80)
def test_every_supervised_token_is_in_exactly_one_piece_that_fits(
    turns: tuple[Message, ...], system: str, family: str, context_tokens: int, carry_turns: int
) -> None:
    template = FAMILIES[family].template
    conversation = Conversation(messages=turns, system=system if template.system_prefix is not None else "")
    whole = template.encode(conversation, TOKENIZER)
    result = split(conversation, template, TOKENIZER, context_tokens=context_tokens, carry_turns=carry_turns)
    pieces = result.encoded
    assert pieces
    assert all(1 <= len(piece.token_ids) == len(piece.loss_weights) <= context_tokens for piece in pieces)
    assert supervised(pieces) == supervised([whole])
    # The first token of a row has nothing before it that could predict it.
    assert not any(piece.loss_weights[0] for piece in pieces)
    if len(whole.token_ids) <= context_tokens:
        assert pieces == [whole]
    # A piece that begins and ends between messages has the ids that those messages encode to.
    if all(len(template.encode(dataclasses.replace(conversation, messages=e), TOKENIZER).token_ids) <= context_tokens
           for e in exchanges(turns)):  # fmt: skip
        runs = [turns[first:end] for first in range(len(turns)) for end in range(first + 1, len(turns) + 1)]
        encodings = [template.encode(dataclasses.replace(conversation, messages=run), TOKENIZER) for run in runs]
        assert all(piece.token_ids in [encoding.token_ids for encoding in encodings] for piece in pieces)


@pytest.mark.parametrize("family", ["openchat_v3.2", "chatml"])
def test_it_is_split_between_exchanges_and_each_piece_begins_with_the_system_message(family: str) -> None:
    template = FAMILIES[family].template
    turns = [text * 20 for text in "abcdefgh"]
    conversation = chat(*turns, system="Be brief.")
    two = template.encode(chat(*turns[:4], system="Be brief."), TOKENIZER)
    pieces = split(conversation, template, TOKENIZER, context_tokens=len(two.token_ids))
    rest = template.encode(chat(*turns[4:], system="Be brief."), TOKENIZER)
    assert pieces == Pieces(encoded=[two, rest], num_cut_prompts=0)


def test_a_long_answer_is_cut_after_a_sentence_and_each_part_repeats_the_prompt() -> None:
    template = FAMILIES["openchat_v3.2"].template
    sentence = "It rains in the hills. "
    conversation = chat("Tell me of rain.", sentence * 30)
    result = split(conversation, template, TOKENIZER, context_tokens=200)
    pieces = result.encoded
    prompt = template.encode(chat("Tell me of rain."), TOKENIZER, inference=True).token_ids
    eot = template.eot_id(TOKENIZER)
    assert len(pieces) > 3
    assert result.num_cut_prompts == 0
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        assert piece.token_ids[: len(prompt)] == prompt
        assert (piece.token_ids[-1] == eot) == last
        assert last or TOKENIZER.decode(piece.token_ids).endswith("hills.")
        if number:  # the end of the part before, as context
            assert piece.loss_weights[len(prompt) : len(prompt) + 25] == [0.0] * 25


def test_a_prompt_longer_than_the_context_keeps_its_end_and_the_system_message_and_is_counted() -> None:
    template = FAMILIES["openchat_v3.2"].template
    conversation = chat("x" * 500 + " the question", "The answer.", system="Brief.")
    result = split(conversation, template, TOKENIZER, context_tokens=100)
    assert result.num_cut_prompts == 1
    (piece,) = result.encoded
    text = TOKENIZER.decode(piece.token_ids)
    assert text.startswith("Brief.")
    assert "the question" in text
    assert text.endswith("The answer.")


def test_truncating_keeps_the_first_tokens() -> None:
    encoded = Encoded(token_ids=[1, 2, 3], loss_weights=[0.0, 1.0, 1.0])
    assert truncate(encoded, context_tokens=2) == Encoded(token_ids=[1, 2], loss_weights=[0.0, 1.0])


@pytest.mark.parametrize(
    ("carry_turns", "expected"),
    [(0, ["ab", "cd", "ef"]), (1, ["ab", "bc", "cd", "de", "ef"]), (9, ["ab", "bc", "cd", "de", "ef"])],
)
def test_carried_turns_are_repeated_unsupervised_where_they_fit(carry_turns: int, expected: list[str]) -> None:
    template = FAMILIES["openchat_v3.2"].template
    conversation = chat(*(text for letter in "abcdef" for text in (letter, letter * 30)))
    two = len(template.encode(chat("a", "a" * 30, "b", "b" * 30), TOKENIZER).token_ids)
    pieces = split(conversation, template, TOKENIZER, context_tokens=two + 5, carry_turns=carry_turns).encoded
    shown = ["".join(letter for letter in "abcdef" if letter * 30 in TOKENIZER.decode(p.token_ids)) for p in pieces]
    assert shown == expected
    learnt = ["".join(letter for letter in "abcdef" if (ord(letter), 1.0) in supervised([p])) for p in pieces]
    assert "".join(learnt) == "abcdef"
    assert supervised(pieces) == supervised([template.encode(conversation, TOKENIZER)])


def test_what_is_carried_takes_at_most_half_of_the_context() -> None:
    template = FAMILIES["openchat_v3.2"].template
    conversation = chat("a", "a" * 90, "b", "b" * 20, "c", "c" * 90)
    pieces = split(conversation, template, TOKENIZER, context_tokens=220, carry_turns=2).encoded
    assert len(pieces) == 2
    assert "b" * 20 in TOKENIZER.decode(pieces[1].token_ids)
    assert "aaa" not in TOKENIZER.decode(pieces[1].token_ids)


@pytest.mark.parametrize(
    "roles",
    ["a", "aaaa", "uuuu", "auau", "uaua", "uuaauuaa", "uaaaaaaa", "uuuuuuua"],
)
def test_any_order_of_roles_can_be_split(roles: str) -> None:
    template = FAMILIES["chatml"].template
    names = {"u": "user", "a": "assistant"}
    turns = tuple(Message(role=names[role], content=f"{number} It is. " * 9) for number, role in enumerate(roles))
    conversation = Conversation(messages=turns)
    whole = template.encode(conversation, TOKENIZER)
    for context_tokens in (60, 150, 400):
        pieces = split(conversation, template, TOKENIZER, context_tokens=context_tokens, carry_turns=1).encoded
        assert all(len(piece.token_ids) <= context_tokens for piece in pieces)
        assert supervised(pieces) == supervised([whole])
        assert bool(supervised(pieces)) == ("a" in roles)


def test_ten_thousand_turns_and_a_megabyte_are_split_in_linear_time() -> None:
    template = FAMILIES["openchat_v3.2"].template

    class Counting(ByteTokenizer):
        num_chars = 0

        def encode_text(self, text: str) -> list[int]:
            self.num_chars += len(text)
            return super().encode_text(text)

    for texts in (["Why? ", "So. "] * 5_000, ["Why?", "So it is. " * 50_000]):
        counting = Counting(CONTROL_STRINGS)
        conversation = chat(*texts)
        began = time.monotonic()
        pieces = split(conversation, template, counting, context_tokens=1024, carry_turns=1).encoded
        assert time.monotonic() - began < 10
        assert len(pieces) > 150
        # Every text is encoded once, the prefixes of roles once a turn.
        assert counting.num_chars < sum(map(len, texts)) + 40 * (len(texts) + 10)


documents = st.text(st.sampled_from("ab. \né"), max_size=400)


@given(documents, st.integers(16, 100), st.booleans())
@settings(deadline=None, max_examples=100)
def test_every_token_of_a_document_but_the_first_is_supervised_once(text: str, context_tokens: int, bos: bool) -> None:
    tokenizer = ByteTokenizer(CONTROL_STRINGS)
    if bos:
        tokenizer.bos_ids = (tokenizer.token_id(CONTROL_STRINGS[0]) or 0,)
    whole = encode_document(text, tokenizer)
    pieces = split_document(whole, tokenizer, context_tokens=context_tokens)
    assert all(len(piece.token_ids) == len(piece.loss_weights) <= context_tokens for piece in pieces)
    ids = list(text.encode())
    assert [token_id for token_id, _ in supervised(pieces)] == (ids if bos else ids[1:])
    assert not any(piece.loss_weights[0] for piece in pieces if piece.loss_weights)
    for before, piece in itertools.pairwise(pieces):
        # What predicts the first new token is the last one of the piece before.
        num_head = len(tokenizer.bos_ids) + 1
        assert piece.token_ids[:num_head] == [*tokenizer.bos_ids, before.token_ids[-1]]
        assert piece.loss_weights[: num_head + 1] == [0.0] * num_head + [1.0]


def test_a_document_is_cut_after_a_sentence_and_never_ends_a_turn() -> None:
    text = "It rains in the hills. " * 30 + CONTROL_STRINGS[0]
    whole = encode_document(text, TOKENIZER)
    assert TOKENIZER.control_ids.isdisjoint(whole.token_ids)
    pieces = split_document(whole, TOKENIZER, context_tokens=100)
    assert len(pieces) > 5
    assert all(TOKENIZER.decode(piece.token_ids).endswith("hills.") for piece in pieces[:-1])
