"""A base from scratch: a tokenizer that loses no text, a folder that others load, and the same bytes for a seed."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.base_model import BaseConfig, make_base
from ochatctl.chat.families import family_tokenizer, get_family, load_family
from ochatctl.chat.tokenizer import SentencePieceTokenizer
from ochatctl.errors import ConfigError, DataError, UsageProblem
from ochatctl.files import digest
from ochatctl.vocab import add_eot

FAMILY = get_family("openchat_v3.2")
WORDS = ["the", "capital", "of", "France", "is", "Paris", "and", "a", "model", "learns", "what", "it", "reads", "1789"]
WORDS += ["naïve", "café", "中文", "🙂"]


def write_chats(path: Path, *, num: int = 60) -> Path:
    """Write conversations whose words come in many an order."""
    rows = []
    for index in range(num):
        text = " ".join(WORDS[(index * k + k) % len(WORDS)] + chr(97 + (index * k) % 26) for k in range(1, 14))
        messages = [{"role": "user", "content": f"{text}?"}, {"role": "assistant", "content": f"{text}.\n    {index}"}]
        rows.append({"messages": messages, "system": "Be brief." if index % 9 == 0 else ""})
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    made = make_base(write_chats(folder / "chats.jsonl"), folder / "out", BaseConfig(vocab_size=500))
    assert made.vocab_size == 500
    assert made.notices == ()
    return folder / "out"


def test_it_is_a_llama_with_heads_of_64_that_transformers_loads(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.head_dim == 64
    assert model.config.vocab_size == 500
    ids = torch.tensor([[1, 300, 301]])
    logits = model(ids).logits
    # The head is zero: nothing is known, and the first loss is ln(vocabulary).
    assert bool((logits == 0).all())
    assert bool((model.model(ids).last_hidden_state.abs() > 0).any())
    names = {name for name, _ in model.named_parameters()}
    assert names == {name for name, _ in model.state_dict().items()}


def test_its_tokenizer_is_llama_s(base: Path) -> None:
    tokenizer = family_tokenizer(base, FAMILY)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert [tokenizer.token_id(token) for token in ("<unk>", "<s>", "</s>", "<0x00>", "<0xFF>")] == [0, 1, 2, 3, 258]
    assert tokenizer.bos_ids == (1,)
    assert tokenizer.dummy_prefix
    assert not any(len(tokenizer.token_text(index).strip("▁")) > 1 and tokenizer.token_text(index).strip("▁").isdigit()
                   for index in range(259, 500))  # fmt: skip


def test_transformers_gives_the_same_ids(base: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(base), family_tokenizer(base, FAMILY)
    for text in ("the capital of France?", "1789 naïve café", "never seen: Ω ☃"):
        assert theirs.encode(text) == [1, *ours.encode_text(text)]
        assert theirs.decode(theirs.encode(text), skip_special_tokens=True) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_is_lost(base: Path, text: str) -> None:
    tokenizer = family_tokenizer(base, FAMILY) if not TOKENIZER else TOKENIZER[0]
    TOKENIZER[:] = [tokenizer]
    assert tokenizer.decode(tokenizer.encode_text(text)) == text.replace("▁", " ")


TOKENIZER: list[object] = []


def test_add_eot_takes_it(base: Path, tmp_path: Path) -> None:
    done = add_eot(base, tmp_path / "eot", FAMILY)
    assert done.added == {"<|end_of_turn|>": 500}
    _, tokenizer = load_family(tmp_path / "eot", "openchat_v3.2")
    assert tokenizer.num_tokens == 501


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(base: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl")
    for seed in (0, 1):
        make_base(chats, tmp_path / str(seed), BaseConfig(vocab_size=500, seed=seed))
    files = {path.name for path in base.iterdir()}
    assert files == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert all(digest(base / name) == digest(tmp_path / "0" / name) for name in files)
    assert {name for name in files if digest(base / name) != digest(tmp_path / "1" / name)} == {"model.safetensors"}


def test_a_vocabulary_that_the_text_cannot_fill_shrinks_aloud(tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl", num=3)
    made = make_base(chats, tmp_path / "out", BaseConfig(vocab_size=4096))
    assert 300 < made.vocab_size < 4096
    assert f"a vocabulary of {made.vocab_size}, not of 4096" in made.notices[0]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == made.vocab_size
    assert family_tokenizer(tmp_path / "out", FAMILY).num_tokens == made.vocab_size


def test_letters_without_room_are_spelled_in_bytes(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    text = "a model learns what it reads. " * 400 + "αβγδ абвг"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": text}]}))
    made = make_base(chats, tmp_path / "out", BaseConfig(vocab_size=280))
    assert made.vocab_size == 280
    assert "spelled in bytes" in made.notices[0]
    tokenizer = family_tokenizer(tmp_path / "out", FAMILY)
    assert tokenizer.decode(tokenizer.encode_text("a βγ в")) == "a βγ в"
    with pytest.raises(ConfigError, match="no room") as caught:
        make_base(chats, tmp_path / "small", BaseConfig(vocab_size=262))
    assert "--vocab-size" in caught.value.hint


def test_a_letter_alone_is_enough_and_no_text_is_not(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "a"}]}')
    made = make_base(chats, tmp_path / "out", BaseConfig())
    assert made.vocab_size < 270
    for text in ("", '{"messages": [{"role": "user", "content": "  "}]}'):
        chats.write_text(text)
        with pytest.raises(DataError, match="no text"):
            make_base(chats, tmp_path / "none", BaseConfig())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("config", [BaseConfig(hidden_size=100), BaseConfig(vocab_size=100), BaseConfig(num_layers=0)])
def test_sizes_that_cannot_be_are_refused(config: BaseConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        make_base(tmp_path / "none.jsonl", tmp_path / "out", config)


def test_dry_run_writes_nothing_and_an_existing_folder_is_kept(tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl")
    made = make_base(chats, tmp_path / "out", BaseConfig(vocab_size=400), dry_run=True)
    assert made.num_parameters > 100_000
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageProblem, match="exists"):
        make_base(chats, tmp_path / "out", BaseConfig(vocab_size=400))
