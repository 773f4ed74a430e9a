"""How a conversation fits a context, and which tokens end its answer."""

from pathlib import Path

import pytest
from endpoint_stub_for_tests import chat
from serving_for_tests import byte_tokenizer

from ochatctl.chat.families import get_family
from ochatctl.engine.prompt import fit_prompt, stop_token_ids
from ochatctl.errors import DataError

FAMILY = get_family("openchat_v3.2")
TOKENIZER = byte_tokenizer(FAMILY)


def test_a_continued_message_hands_its_last_tokens_to_the_engine() -> None:
    prompt = fit_prompt(chat("Hi", "Say no"), family=FAMILY, tokenizer=TOKENIZER, context_tokens=100)
    assert bytes(prompt.context_ids) == b"Say no"
    assert prompt.max_tokens == 100 - len(prompt.token_ids)
    assert fit_prompt(chat("Hi"), family=FAMILY, tokenizer=TOKENIZER, context_tokens=100).context_ids == ()


def test_a_condition_that_the_family_has_no_place_for_is_not_dropped() -> None:
    family = get_family("chatml")
    with pytest.raises(DataError, match="`chatml` takes no condition"):
        fit_prompt(chat("Hi", condition="GPT4"), family=family, tokenizer=byte_tokenizer(family), context_tokens=100)


def test_an_answer_ends_at_the_familys_token_and_at_the_folders_own(tmp_path: Path) -> None:
    eot = TOKENIZER.token_id("<|end_of_turn|>")
    assert stop_token_ids(FAMILY, TOKENIZER) == (eot,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 999999]}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "Z"}}')
    assert stop_token_ids(FAMILY, TOKENIZER, tmp_path) == (eot, 2, ord("Z"))
