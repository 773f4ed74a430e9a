"""The checks see what they are for: each kind of damage fails its own."""

import json
from pathlib import Path

import pytest
import torch
from base_folders_for_tests import read_tensors, write_llama, write_shards

from ochatctl.chat.families import get_family
from ochatctl.errors import ConfigError, OchatError, RunError
from ochatctl.vocab import add_eot
from ochatctl.vocab.matrices import find_matrices
from ochatctl.vocab.shards import open_weights
from ochatctl.vocab.verify import verify

FAMILY = get_family("openchat_v3.2")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("nothing", None, ""),
        ("an old row", RunError, "row 7 of `lm_head.weight` is not what it was"),
        ("the new row", RunError, "is not the mean"),
        ("a layer", RunError, "logits of old tokens changed"),
        ("the token", ConfigError, "id"),
        ("the eos", ConfigError, "takes `<|endoftext|>`"),
    ],
)
def test_each_check_sees_its_damage(damage: str, error: type[OchatError] | None, message: str, tmp_path: Path) -> None:
    source, out = write_llama(tmp_path / "base"), tmp_path / "out"
    done = add_eot(source, out, FAMILY)
    tensors = read_tensors(out)
    if damage == "an old row":
        tensors["lm_head.weight"][7, 0] = torch.nextafter(tensors["lm_head.weight"][7, 0], torch.tensor(9.0))
    elif damage == "the new row":
        tensors["lm_head.weight"][-1] *= 1.0001
    elif damage == "a layer":
        tensors["model.layers.1.mlp.up_proj.weight"] *= 1.1
    write_shards(out, tensors, 1)
    if damage == "the token":
        table = json.loads((out / "tokenizer.json").read_text())
        table["added_tokens"] = table["added_tokens"][:-1]
        (out / "tokenizer.json").write_text(json.dumps(table))
    elif damage == "the eos":
        table = json.loads((out / "tokenizer_config.json").read_text())
        (out / "tokenizer_config.json").write_text(json.dumps(table | {"eos_token": "<|endoftext|>"}))
    before = open_weights(source)

    def check() -> tuple[str, ...]:
        return verify(
            source, out, FAMILY, before=before, added=done.added, num_mean_rows=done.num_mean_rows,
            matrices=find_matrices(json.loads((source / "config.json").read_text()), before.tensors),
            filled=(done.num_rows - 1,), with_logits=True, must_compare_logits=True,
        )  # fmt: skip

    if error is None:
        assert len(check()) == 4
    else:
        with pytest.raises(error, match=message.replace("|", r"\|")):
            check()
