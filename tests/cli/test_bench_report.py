"""`ochatctl bench show`, `compare` and `list`: what a reader of scored runs types."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ochatctl.bench.results import Question, Result, write_result
from ochatctl.cli import bench
from ochatctl.cli.app import OchatGroup

ONE = Result(
    suite="mtbench",
    model="one",
    measure="score",
    unit="points",
    judge="j",
    protocol={"mode": "single"},
    questions=tuple(
        Question(id=str(number), group="ab"[number % 2], scores={"1": number % 5 + 1.0}, status="scored")
        for number in range(8)
    ),
)
BETTER = replace(
    ONE, model="two", questions=tuple(replace(each, scores={"1": each.scores["1"] + 2}) for each in ONE.questions)
)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OCHATCTL_CACHE", str(tmp_path / "cache"))
    for name, result in (("one", ONE), ("two", BETTER)):
        write_result(Path("runs/bench") / name, result)
    app = typer.Typer(name="ochatctl", cls=OchatGroup, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    bench.register(app)
    return app


def run(app: typer.Typer, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["bench", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_a_run_is_shown_and_written_once(app: typer.Typer) -> None:
    code, out, errors = run(app, "show", "runs/bench/one", "--out", "page.html")
    assert code == 0, errors
    assert out.startswith("one on mtbench: score, judged by j\n")
    assert "written: page.html" in errors
    assert "not comparable with another judge's scores" in errors
    assert Path("page.html").read_text().startswith("<!doctype html>")
    code, _, errors = run(app, "show", "runs/bench/one", "--out", "page.html")
    assert (code, "add `--yes` to overwrite it" in errors) == (2, True)
    code, _, errors = run(app, "show", "runs/bench/one", "--out", "page.pdf")
    assert (code, "hint: --out page.html" in errors) == (2, True)
    code, out, _ = run(app, "show", "runs/bench/one", "runs/bench/two", "--json")
    assert (code, [one["model"] for one in json.loads(out)]) == (0, ["one", "two"])


def test_two_runs_are_compared_and_what_does_not_match_is_named(app: typer.Typer) -> None:
    code, out, errors = run(app, "compare", "runs/bench/one", "runs/bench/two")
    assert code == 0, errors
    assert "two - one: +2.00 [2.00, 2.00] over 8 questions: more than noise" in errors
    code, out, _ = run(app, "compare", "runs/bench/two", "runs/bench/one", "--json")
    assert (code, json.loads(out)["overall"]["value"]) == (0, -2.0)
    write_result(Path("other"), replace(ONE, judge="k"))
    code, out, errors = run(app, "compare", "runs/bench/one", "other")
    assert (code, out) == (4, "")
    assert "these two runs cannot be compared: judge differs: `j`, `k`" in errors


def test_runs_that_are_only_begun_are_listed_apart(app: typer.Typer) -> None:
    begun = Path("runs/bench/begun/journal.jsonl")
    begun.parent.mkdir()
    begun.touch()
    code, out, errors = run(app, "list")
    assert code == 0, errors
    assert "runs/bench/two" in out
    assert "begun, and not scored yet: runs/bench/begun" in errors
