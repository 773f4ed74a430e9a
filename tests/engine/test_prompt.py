"""How a conversation fits a context, and which tokens end its answer."""

from pathlib import Path

from endpoint_stub_for_tests import chat
from serving_for_tests import byte_tokenizer

from ochatctl.chat.families import get_family
from ochatctl.engine.prompt import fit_prompt, stop_token_ids

FAMILY = get_family("openchat_v3.2")
TOKENIZER = byte_tokenizer(FAMILY)


def test_a_continued_message_hands_its_last_tokens_to_the_engine() -> None:
    prompt = fit_prompt(chat("Hi", "Say no"), family=FAMILY, tokenizer=TOKENIZER, context_tokens=100)
    assert bytes(prompt.context_ids) == b"Say no"
    assert prompt.max_tokens == 100 - len(prompt.token_ids)
    assert fit_prompt(chat("Hi"), family=FAMILY, tokenizer=TOKENIZER, context_tokens=100).context_ids == ()


def test_an_answer_ends_at_the_familys_token_and_at_the_folders_own(tmp_path: Path) -> None:
    eot = TOKENIZER.token_id("<|end_of_turn|>")
    assert stop_token_ids(FAMILY, TOKENIZER) == (eot,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 999999]}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "Z"}}')
    assert stop_token_ids(FAMILY, TOKENIZER, tmp_path) == (eot, 2, ord("Z"))
