"""New rows are the mean of the old ones, old rows do not change, and nothing half-made gets a name."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from base_folders_for_tests import read_tensors, write_llama, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import data_dir, model_dir

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import family_tokenizer, get_family, load_family, read_card
from ochatctl.errors import ConfigError, DataError, EnvironmentProblem, UsageProblem
from ochatctl.vocab import AddedTokens, add_eot

FAMILY = get_family("openchat_v3.2")
EOT = FAMILY.template.eot
INPUT, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def check_law(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], done: AddedTokens) -> None:
    """Old rows bit for bit, filled rows the mean of the tokenizer's old rows, everything else untouched."""
    assert set(after) == set(before)
    filled = sorted({*done.added.values(), *range(done.num_rows_before, done.num_rows)})
    for name, old in before.items():
        new = after[name]
        if name not in done.matrices:
            assert torch.equal(old.view(torch.uint8), new.view(torch.uint8)), name
            continue
        assert new.shape == (done.num_rows, *old.shape[1:])
        kept = [row for row in range(len(old)) if row not in filled]
        assert torch.equal(old[kept], new[kept]), name
        mean = old[: done.num_mean_rows].double().mean(dim=0).float().to(old.dtype)
        for row in filled:
            assert torch.equal(new[row], mean), f"{name}: row {row}"


@settings(deadline=None, max_examples=10)
@given(
    tied=st.booleans(),
    padding=st.sampled_from([0, 0, 3, 40]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    num_shards=st.sampled_from([1, 3]),
    tokens=st.sampled_from([(), (EOT, "<|a|>"), (EOT, "<|a|>", "<|b|>", "<|c|>", "<|d|>")]),
    multiple=st.sampled_from([1, 1, 64]),
    tokenizer=st.sampled_from(["fast", "sentencepiece"]),
    seed=st.integers(0, 99),
)
def test_new_rows_are_the_mean_and_old_rows_do_not_change(
    tied: bool,
    padding: int,
    dtype: torch.dtype,
    num_shards: int,
    tokens: tuple[str, ...],
    multiple: int,
    tokenizer: str,
    seed: int,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "base", Path(name) / "out"
        write_llama(
            source, tokenizer=tokenizer, padding=padding, tied=tied, dtype=dtype, num_shards=num_shards, seed=seed
        )
        done = add_eot(source, out, FAMILY, tokens=tokens, pad_to_multiple_of=multiple)
        check_law(read_tensors(source), read_tensors(out), done)
        family, ours = load_family(out)
        assert family == FAMILY
        assert done.num_rows % multiple == 0
        assert done.num_rows == max(done.num_rows_before, ours.num_tokens)
        if multiple > 1:
            assert ours.num_tokens == done.num_rows
        assert len(done.checks) == 4
        assert "logits of old tokens are unchanged" in done.checks[-1]
        assert done.tied == tied


def test_a_padded_vocabulary_does_not_grow_and_its_padding_stays_out_of_the_mean(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", padding=30)
    tensors = read_tensors(source)
    num_tokens = family_tokenizer(source, FAMILY).num_tokens
    tensors[INPUT][num_tokens:] = 1e6
    write_shards(source, tensors, 1)
    done = add_eot(source, tmp_path / "out", FAMILY)
    assert done.added == {EOT: num_tokens}
    assert done.num_rows == done.num_rows_before == num_tokens + 30
    new = read_tensors(tmp_path / "out")[INPUT]
    assert new[num_tokens].abs().max() < 1
    assert bool((new[num_tokens + 1 :] == 1e6).all())
    check_law(tensors, read_tensors(tmp_path / "out"), done)


def test_padding_gives_every_row_of_an_already_padded_matrix_a_token(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", padding=30)
    done = add_eot(source, tmp_path / "out", FAMILY, pad_to_multiple_of=8)
    assert done.num_rows % 8 == 0
    assert done.num_rows == family_tokenizer(tmp_path / "out", FAMILY).num_tokens
    assert list(done.added)[:3] == [EOT, "<|pad_0|>", "<|pad_1|>"]


def test_a_token_without_a_row_gets_the_mean_too(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", tokenizer="sentencepiece")
    (source / "added_tokens.json").write_text(json.dumps({EOT: 420}))
    done = add_eot(source, tmp_path / "out", FAMILY)
    assert done.added == {}
    assert done.eot_id == 420
    assert done.num_rows == 421
    assert any("rows that were missing" in notice for notice in done.notices)
    check_law(read_tensors(source), read_tensors(tmp_path / "out"), done)


def test_a_model_that_has_every_token_is_written_all_the_same(tmp_path: Path) -> None:
    once = add_eot(write_llama(tmp_path / "base", num_shards=2), tmp_path / "once", FAMILY)
    done = add_eot(tmp_path / "once", tmp_path / "twice", FAMILY)
    assert done.added == {}
    assert "already" in done.notices[0]
    assert done.eot_id == once.eot_id
    assert len(done.linked) == 2
    assert done.rewritten == ()
    load_family(tmp_path / "twice")


def test_the_json_files_say_what_the_weights_are(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", num_shards=4, eos_token_id=[2, 3], tokenizer="fast")
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3], "temperature": 0.7}))
    (source / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    done = add_eot(source, tmp_path / "out", FAMILY)
    read = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert read["config.json"]["vocab_size"] == done.num_rows
    assert read["config.json"]["eos_token_id"] == done.eot_id
    assert read["generation_config.json"] == {"eos_token_id": done.eot_id, "temperature": 0.7}
    assert read["tokenizer_config.json"]["eos_token"] == EOT
    assert read["special_tokens_map.json"]["eos_token"] == EOT
    assert "chat_template" not in read["tokenizer_config.json"]
    index = read["model.safetensors.index.json"]
    after = read_tensors(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in after.values())
    assert set(index["weight_map"]) == set(after)
    card = read_card(tmp_path / "out")
    assert card is not None
    assert (card.model_type, card.conditions) == (FAMILY.name, {})


def test_a_nested_text_config_is_resized_with_the_model(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base")
    table = json.loads((source / "config.json").read_text())
    size = table.pop("vocab_size")
    table |= {"text_config": {"vocab_size": size, "eos_token_id": 2}, "vision_config": {"vocab_size": 7}}
    table["model_type"] = "a-model-that-nobody-knows"
    (source / "config.json").write_text(json.dumps(table))
    done = add_eot(source, tmp_path / "out", FAMILY)
    table = json.loads((tmp_path / "out" / "config.json").read_text())
    assert table["text_config"] == {"vocab_size": done.num_rows, "eos_token_id": done.eot_id}
    assert table["vision_config"] == {"vocab_size": 7}
    assert "logits not compared" in done.checks[-1]
    with pytest.raises(ConfigError, match="cannot be compared"):
        add_eot(source, tmp_path / "verified", FAMILY, check_logits=True)
    assert not (tmp_path / "verified").exists()


def test_a_sentencepiece_model_keeps_its_file_and_records_the_token_beside_it(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", tokenizer="sentencepiece")
    add_eot(source, tmp_path / "out", FAMILY)
    out = tmp_path / "out"
    assert (out / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    assert json.loads((out / "added_tokens.json").read_text()) == {EOT: 420}
    decoder = json.loads((out / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert decoder["420"]["content"] == EOT
    assert decoder["420"]["special"] is True
    text = Conversation(messages=(Message(role="user", content=f"Hello  {EOT} \tyou"),))
    old, new = family_tokenizer(source, FAMILY), family_tokenizer(out, FAMILY)
    assert old.encode_text(text.messages[0].content) == new.encode_text(text.messages[0].content)
    assert 420 in FAMILY.template.encode(text, new, True).token_ids


def test_only_the_files_of_the_two_matrices_are_written_and_others_are_linked(tmp_path: Path) -> None:
    """As in a hub cache: the folder's files are links to blobs, and a hard link must be to the blob."""
    real = write_llama(tmp_path / "blobs", num_shards=8)
    source = tmp_path / "snapshot"
    source.mkdir()
    for file in real.iterdir():
        (source / file.name).symlink_to(os.path.relpath(file, source))
    (source / "original").mkdir()
    (source / "original" / "LICENSE").write_text("x")
    for name in ("LICENSE", "README.md", "pytorch_model.bin", "model.gguf", "modeling_own.py"):
        (source / name).write_text(name)
    done = add_eot(source, tmp_path / "out", FAMILY)
    weight_map = json.loads((real / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(done.rewritten) == {weight_map[INPUT], weight_map[OUTPUT]}
    assert len(done.rewritten) == 2
    assert len(done.linked) == 6
    for name in done.linked:
        assert (tmp_path / "out" / name).samefile(real / name)
        assert not (tmp_path / "out" / name).is_symlink()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"LICENSE", "README.md", "modeling_own.py"} <= names
    assert not names & {"original", "pytorch_model.bin", "model.gguf"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("shape", ["tied in one file", "untied in two", "from before zip archives"])
def test_bin_files_become_safetensors(shape: str, tmp_path: Path) -> None:
    tied = shape != "untied in two"
    source = write_llama(tmp_path / "base", tied=tied)
    tensors = read_tensors(source)
    (source / "model.safetensors").unlink()
    if tied:
        both = tensors | {OUTPUT: tensors[INPUT]}
        torch.save(both, source / "pytorch_model.bin", _use_new_zipfile_serialization="zip" not in shape)
    else:
        names = list(tensors)
        files = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(names)}
        for file in set(files.values()):
            torch.save({name: tensors[name] for name in names if files[name] == file}, source / file)
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    done = add_eot(source, tmp_path / "out", FAMILY)
    check_law(tensors, read_tensors(tmp_path / "out"), done)
    assert done.tied == tied
    assert not list((tmp_path / "out").glob("*bin*"))
    if not tied:
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == set(done.rewritten)
        assert done.rewritten[0] == "model-00001-of-00002.safetensors"


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_bin_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base")
    (source / "model.safetensors").unlink()
    torch.save({"x": Attack(tmp_path / "harm")}, source / "pytorch_model.bin")
    with pytest.raises(DataError, match="more than weights"):
        add_eot(source, tmp_path / "out", FAMILY)
    assert not (tmp_path / "harm").exists()


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", num_shards=2)
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageProblem, match="exists"):
        add_eot(source, tmp_path / "there", FAMILY)
    with pytest.raises(UsageProblem, match="the model itself"):
        add_eot(source, tmp_path / "there" / ".." / "base", FAMILY, yes=True)
    with pytest.raises(UsageProblem, match="holds the model"):
        add_eot(source, tmp_path, FAMILY, yes=True)
    with pytest.raises(ConfigError, match="is not among the tokens"):
        add_eot(source, tmp_path / "out", FAMILY, tokens=("<|other|>",))
    with pytest.raises(ConfigError, match="blank"):
        add_eot(source, tmp_path / "out", FAMILY, tokens=(" ",))
    for name, message in (("model-00002-of-00002.safetensors", "missing"), ("config.json", "has no `config.json`")):
        copy = tmp_path / f"without-{name}"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(name))
        with pytest.raises((DataError, ConfigError), match=message):
            add_eot(copy, tmp_path / "out", FAMILY)
    copy = tmp_path / "without-weights"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("model*"))
    with pytest.raises(DataError, match="holds no weights"):
        add_eot(copy, tmp_path / "out", FAMILY)
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("damage", ["cut", "pointer", "escape", "not finite"])
def test_broken_weights_are_refused(damage: str, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", num_shards=1 if damage in ("cut", "pointer", "not finite") else 2)
    file = source / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif damage == "escape":
        index = source / "model.safetensors.index.json"
        index.write_text(index.read_text().replace("model-00001", "../model-00001"))
    else:
        tensors = read_tensors(source)
        tensors[OUTPUT][5, 5] = float("nan")
        write_shards(source, tensors, 1)
    with pytest.raises(DataError):
        add_eot(source, tmp_path / "out", FAMILY)
    assert os.listdir(tmp_path) == ["base"]


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", num_shards=3)
    rows = json.loads((source / "config.json").read_text())["vocab_size"]
    # A sparse file that is larger than the disk: its header is real, and its bytes take no room.
    width = 2 * shutil.disk_usage(tmp_path).free // (4 * rows) + 1
    size = 4 * rows * width
    file = source / json.loads((source / "model.safetensors.index.json").read_text())["weight_map"][INPUT]
    header = {INPUT: {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, size]}}
    names = [name for name, other in json.loads((source / "model.safetensors.index.json").read_text())[
        "weight_map"
    ].items() if other == file.name and name != INPUT]  # fmt: skip
    for name in names:
        header[name] = {"dtype": "F32", "shape": [0], "data_offsets": [size, size]}
    text = json.dumps(header).encode()
    with file.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        handle.truncate(8 + len(text) + size)
    with pytest.raises(EnvironmentProblem, match="GB of disk"):
        add_eot(source, tmp_path / "out", FAMILY)
    assert os.listdir(tmp_path) == ["base"]


def test_dry_run_says_what_would_be_and_writes_nothing(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", num_shards=3)
    planned = add_eot(source, tmp_path / "out", FAMILY, dry_run=True)
    assert os.listdir(tmp_path) == ["base"]
    done = add_eot(source, tmp_path / "out", FAMILY)
    assert (planned.added, planned.rewritten, planned.linked) == (done.added, done.rewritten, done.linked)
    assert planned.checks == ()


# As `ochatctl`, but stands still where all is written and nothing has its name yet.
HELD = """
import sys, time

def hold(event, arguments):
    if event == "os.rename" and str(arguments[0]).endswith(".part"):
        print("held", file=sys.stderr, flush=True)
        time.sleep(3600)

sys.addaudithook(hold)
from ochatctl.cli.app import main
main()
"""


def test_a_run_that_is_killed_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base")
    command = [sys.executable, "-c", HELD, "add-eot", str(source), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "held\n" in process.stderr  # reads up to there
        assert list(tmp_path.glob(".out.*.part/*.safetensors"))
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


def test_the_real_llama_2_tokenizer_gets_openchat_s_id(tmp_path: Path) -> None:
    llama = data_dir() / "llama2_tokenizer"
    source = write_llama(tmp_path / "base", tokenizer="sentencepiece", padding=32000 - 420)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(llama / name, source / name)
    done = add_eot(source, tmp_path / "out", FAMILY)
    assert done.added == {EOT: 32000}
    assert done.num_rows == 32001
    check_law(read_tensors(source), read_tensors(tmp_path / "out"), done)


def test_a_real_model_with_tied_embeddings_keeps_its_logits(tmp_path: Path) -> None:
    done = add_eot(model_dir(), tmp_path / "out", FAMILY, check_logits=True)
    assert done.added == {EOT: 49152}
    assert done.tied
    assert (done.num_rows_before, done.num_rows) == (49152, 49153)
    check_law(read_tensors(model_dir()), read_tensors(tmp_path / "out"), done)
    assert "logits of old tokens are unchanged" in done.checks[-1]
