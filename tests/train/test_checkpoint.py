"""The saved folder: the base's dtype, the base's tokenizer, and nothing half-written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import FAMILY, VOCAB_SIZE, tiny_config, write_base

from ochatctl.chat.families import load_family
from ochatctl.train.checkpoint import save_checkpoint


def save(base: Path, target: Path, *, state: dict[str, torch.Tensor] | None = None) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    family, tokenizer = load_family(base)
    save_checkpoint(
        target,
        model=model,
        state=model.state_dict() if state is None else state,
        base_dir=base,
        family=family,
        tokenizer=tokenizer,
        conditions={"GPT4": 7},
    )
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_trained_in_float32_is_saved_in_its_bases_dtype(tied: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path / "base", config=tiny_config(tie_word_embeddings=tied))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}), encoding="utf-8")
    trained = save(base, tmp_path / "ep_1")
    weights = load_file(tmp_path / "ep_1" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert ("lm_head.weight" in weights) != tied
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ep_1", output_loading_info=True)
    assert again.dtype == torch.bfloat16
    assert not any(report.values())
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    torch.testing.assert_close(again.lm_head.weight, trained.lm_head.weight.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(("before", "after"), [(None, "eot"), (2, ["eot", 2]), ([2, 5], ["eot", 2, 5])])
def test_the_end_of_turn_token_ends_an_answer(before: Any, after: Any, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    family, tokenizer = load_family(base)
    eot = family.template.eot_id(tokenizer)
    # Llama 2's own, which transformers loads and refuses to save.
    published = {"temperature": 0.9, "top_p": 0.6, "do_sample": False, "eos_token_id": before}
    (base / "generation_config.json").write_text(json.dumps(published), encoding="utf-8")
    save(base, tmp_path / "ep_1")
    saved = json.loads((tmp_path / "ep_1" / "generation_config.json").read_text(encoding="utf-8"))
    wanted = [eot if end == "eot" else end for end in after] if isinstance(after, list) else eot
    assert saved == {**published, "eos_token_id": wanted}


def test_the_folder_says_its_family_and_the_conditions_that_were_trained(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    save(base, tmp_path / "ep_1")
    card = json.loads((tmp_path / "ep_1" / "openchat.json").read_text(encoding="utf-8"))
    assert card == {"model_type": FAMILY, "version": 1, "conditions": {"GPT4": 7}}
    assert json.loads((tmp_path / "ep_1" / "config.json").read_text(encoding="utf-8"))["vocab_size"] == VOCAB_SIZE


def test_a_save_that_fails_leaves_the_earlier_folder_and_nothing_else(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    save(base, tmp_path / "out" / "ep_1")
    before = (tmp_path / "out" / "ep_1" / "model.safetensors").read_bytes()
    (base / "generation_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(Exception, match="not valid JSON"):
        save(base, tmp_path / "out" / "ep_1")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ep_1"]
    assert (tmp_path / "out" / "ep_1" / "model.safetensors").read_bytes() == before
