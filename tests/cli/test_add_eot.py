"""`add-eot` and `make-base` on the command line: exit codes, hints, and one JSON document."""

import json
from pathlib import Path

import pytest
from base_folders_for_tests import write_llama
from typer.testing import CliRunner

from ochatctl.cli.app import app
from ochatctl.cli.commands import register

if not app.registered_commands:
    register(app)


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        ([], "ochatctl add-eot DIR --out DIR-eot"),
        (["base"], "ochatctl add-eot base --out base-eot"),
        (["--out", "x"], "ochatctl add-eot DIR --out x"),
    ],
)
def test_what_is_missing_is_said_with_the_full_command(args: list[str], hint: str) -> None:
    done = CliRunner().invoke(app, ["add-eot", *args])
    assert done.exit_code == 2
    assert done.stderr.endswith(f"hint: {hint}\n")


def test_json_is_one_document_and_notices_go_elsewhere(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base", tied=True)
    args = ["add-eot", str(source), "--out", str(tmp_path / "out"), "--token", "<|end_of_turn|>", "--token", "<|a|>"]
    done = CliRunner().invoke(app, [*args, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert list(report["added"]) == ["<|end_of_turn|>", "<|a|>"]
    assert report["tied"] is True
    assert len(report["checks"]) == 4
    again = CliRunner().invoke(app, args)
    assert again.exit_code == 2
    assert "exists" in again.stderr
    source = tmp_path / "out"
    done = CliRunner().invoke(app, ["add-eot", str(source), "--out", str(tmp_path / "more")])
    assert done.exit_code == 0
    assert "note: the tokenizer has every token" in done.stderr
    assert "would" not in done.stdout


def test_a_family_is_never_detected_and_may_be_another(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "base")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["add-eot", str(source), "--out", str(out), "--family", "chatml", "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["added"]) == {"<|im_start|>", "<|im_end|>"}
    assert json.loads((out / "openchat.json").read_text())["model_type"] == "chatml"
    wrong = CliRunner().invoke(app, ["add-eot", str(source), "--out", str(tmp_path / "x"), "--family", "chatmi"])
    assert wrong.exit_code == 3
    assert "did you mean `chatml`" in wrong.stderr
