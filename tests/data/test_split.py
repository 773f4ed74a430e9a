"""Splitting: each piece fits, and every supervised token is in exactly one piece."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import FAMILIES
from ochatctl.chat.template import Encoded
from ochatctl.data.split import Pieces, split, truncate

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


@given(messages, st.sampled_from(["", "Be brief.", "x" * 150]), st.sampled_from(FAMILY_NAMES), st.integers(16, 300))
@settings(deadline=None, max_examples=200)
def test_every_supervised_token_is_in_exactly_one_piece_that_fits(
    turns: tuple[Message, ...], system: str, family: str, context_tokens: int
) -> None:
    template = FAMILIES[family].template
    conversation = Conversation(messages=turns, system=system if template.system_prefix is not None else "")
    whole = template.encode(conversation, TOKENIZER)
    pieces = split(conversation, template, TOKENIZER, context_tokens=context_tokens).encoded
    assert pieces
    assert all(1 <= len(piece.token_ids) == len(piece.loss_weights) <= context_tokens for piece in pieces)
    assert supervised(pieces) == supervised([whole])
    # The first token of a row has nothing before it that could predict it.
    assert not any(piece.loss_weights[0] for piece in pieces)
    if len(whole.token_ids) <= context_tokens:
        assert pieces == [whole]


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
