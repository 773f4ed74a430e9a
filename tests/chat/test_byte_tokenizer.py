"""The tokenizer without a file keeps text and control tokens apart, as every tokenizer must."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.errors import DataError

TOKENIZER = ByteTokenizer(["<|end_of_turn|>", "<s>"])


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_text_comes_back_and_yields_no_control_id(text: str) -> None:
    for each in (text, f"{text}<|end_of_turn|>{text}"):
        token_ids = TOKENIZER.encode_text(each)
        assert TOKENIZER.control_ids.isdisjoint(token_ids)
        assert TOKENIZER.decode(token_ids) == each


def test_control_tokens_have_ids_of_their_own_and_no_text() -> None:
    eot = TOKENIZER.token_id("<|end_of_turn|>")
    assert eot is not None
    assert eot in TOKENIZER.control_ids
    assert TOKENIZER.decode([72, eot, 105]) == "Hi"
    assert TOKENIZER.token_text(eot) == "<|end_of_turn|>"
    assert TOKENIZER.num_tokens == 258
    assert TOKENIZER.token_id("nowhere") is None
    assert TOKENIZER.token_id("H") == 72


def test_half_a_character_and_half_a_pair() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode_text("é")[:1]) == "\ufffd"
    with pytest.raises(DataError, match="surrogate"):
        TOKENIZER.encode_text("\ud800")
