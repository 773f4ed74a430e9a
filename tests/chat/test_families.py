"""Families by name, by file, by `openchat.json` and by the folder's own chat template."""

import json
from pathlib import Path

import pytest
from tokenizers_for_tests import byte_bpe, write_fast, write_sentencepiece

from ochatctl.chat.families import (
    CARD_VERSION,
    FAMILIES,
    family_tokenizer,
    get_family,
    load_family,
    missing_tokens,
    read_card,
    write_card,
    write_chat_files,
)
from ochatctl.config import to_table, to_toml
from ochatctl.errors import ConfigError


def test_every_name_and_alias_is_one_family() -> None:
    names = [name for family in FAMILIES.values() for name in family.names]
    assert len(names) == len(set(names))
    assert get_family("openchat_v3.2_super") is FAMILIES["openchat_v3.2"]
    assert get_family("openchat_3.5") is FAMILIES["openchat_v3.2_mistral"]


def test_a_misspelt_family_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean `openchat_v3\.2`"):
        get_family("openchat_v32")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_printed_as_toml_reads_back_equal(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(to_table(FAMILIES[name])), encoding="utf-8")
    assert get_family(str(path)) == FAMILIES[name]


def test_a_typo_in_a_family_file_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = to_toml(to_table(FAMILIES["chatml"])).replace("user_prefix", "user_prefx")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown key `user_prefx`; did you mean `user_prefix`"):
        get_family(str(path))


def test_the_card_records_the_family_and_the_trained_conditions(tmp_path: Path) -> None:
    folder = write_fast(tmp_path, byte_bpe())
    write_card(folder, FAMILIES["openchat_v3.2"], conditions={"GPT4": 12, "GPT3": 3})
    card = read_card(folder)
    assert card is not None
    assert (card.model_type, card.version, card.conditions) == ("openchat_v3.2", CARD_VERSION, {"GPT4": 12, "GPT3": 3})
    family, _ = load_family(folder)
    assert family is FAMILIES["openchat_v3.2"]


def test_a_user_s_own_family_travels_in_the_card(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(to_table(FAMILIES["chatml"])).replace('"chatml"', '"mine"'), encoding="utf-8")
    folder = write_fast(tmp_path / "model", byte_bpe())
    mine = get_family(str(path))
    write_card(folder, mine, conditions={})
    assert load_family(folder)[0] == mine


def test_openchat_s_own_card_is_read(tmp_path: Path) -> None:
    folder = write_fast(tmp_path, byte_bpe())
    arguments = {"model_type": "openchat_v3.2_super", "epochs": 5, "version": "3.2.2", "lr": 6e-5, "epoch": 3}
    (folder / "openchat.json").write_text(json.dumps(arguments))
    assert load_family(folder)[0] is FAMILIES["openchat_v3.2"]


def test_a_newer_card_is_refused_with_both_versions(tmp_path: Path) -> None:
    (tmp_path / "openchat.json").write_text(json.dumps({"model_type": "chatml", "version": CARD_VERSION + 1}))
    with pytest.raises(ConfigError, match=f"version {CARD_VERSION + 1} is newer than {CARD_VERSION}"):
        read_card(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_without_a_card_is_recognised_by_its_chat_template(name: str, tmp_path: Path) -> None:
    folder = write_fast(tmp_path, byte_bpe())
    family = FAMILIES[name]
    write_chat_files(folder, family, family_tokenizer(folder, family), conditions={})
    (folder / "openchat.json").unlink()
    assert load_family(folder)[0].template == family.template


# As published on the hub.
OPENCHAT_3_5 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] in ['user', 'assistant'] %}"
    "{% set content = 'GPT4 Correct ' + message['role'].title() + ': ' + message['content'] + '<|end_of_turn|>' %}"
    "{% elif message['role'] == 'system' %}{% set content = message['content'] + '<|end_of_turn|>' %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
)
ADDS_A_SYSTEM_MESSAGE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_published_templates_are_recognised_or_refused_with_the_list(tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path / "openchat")
    (folder / "chat_template.jinja").write_text(OPENCHAT_3_5)
    assert load_family(folder)[0].name == "openchat_v3.2_mistral"
    other = write_fast(tmp_path / "other", byte_bpe())
    (other / "chat_template.jinja").write_text(ADDS_A_SYSTEM_MESSAGE)
    with pytest.raises(ConfigError, match="fits no known family; nearest is `chatml`, which adds no system") as caught:
        load_family(other)
    assert "`--family chatml`; the families are openchat_v3.2, " in caught.value.hint
    assert load_family(other, "chatml")[0] is FAMILIES["chatml"]
    (other / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    with pytest.raises(ConfigError, match=r"fits no known family; the families are .*chatml") as caught:
        load_family(other)
    assert caught.value.hint == "add `--family NAME`"


def test_a_tokenizer_that_cannot_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for name in (None, "chatml"):
        with pytest.raises(ConfigError, match="cannot be loaded; a file of it is missing or damaged") as caught:
            load_family(tmp_path, name)
        assert "\n" not in caught.value.message


def test_a_base_without_the_end_of_turn_token_gets_the_exact_line(tmp_path: Path) -> None:
    table = byte_bpe()
    table["added_tokens"] = []
    folder = write_fast(tmp_path / "base", table)
    with pytest.raises(ConfigError, match="has no `<\\|end_of_turn\\|>`") as caught:
        load_family(folder, "openchat_v3.2")
    assert caught.value.hint == f"ochatctl add-eot {folder} --out {folder}-eot --family openchat_v3.2"
    cached = write_fast(tmp_path / "models--owner--base" / "snapshots" / "0a1b", table)
    with pytest.raises(ConfigError) as caught:
        load_family(cached, "openchat_v3.2")
    assert caught.value.hint == "ochatctl add-eot owner/base --out base-eot --family openchat_v3.2"
    tokenizer = family_tokenizer(folder, FAMILIES["chatml"])
    assert missing_tokens(FAMILIES["chatml"], tokenizer) == ("<|im_end|>", "<|im_start|>")
    assert missing_tokens(FAMILIES["zephyr"], tokenizer) == ("</s>",)
