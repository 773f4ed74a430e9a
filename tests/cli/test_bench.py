"""`ochatctl bench`: exit codes, and what stands on which stream."""

import json
from importlib import resources
from pathlib import Path

import pytest
import typer
from chat_stub_for_tests import chat_stub
from typer.testing import CliRunner

from ochatctl.cli import bench
from ochatctl.cli.app import OchatGroup

TASKS = str(resources.files("ochatctl") / "samples" / "tasks.jsonl")


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(name="ochatctl", cls=OchatGroup, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    bench.register(app)
    return app


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OCHATCTL_API_KEY", raising=False)


def run(app: typer.Typer, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["bench", *arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["suite", "mtbench", "alpacaeval"])
def test_a_plain_call_ends_in_the_full_command_to_type(app: typer.Typer, name: str) -> None:
    code, _, errors = run(app, name)
    assert code == 2
    assert f"hint: ochatctl bench {name} --" in errors


def test_json_is_one_document_and_the_last_line_says_how_to_resume(app: typer.Typer) -> None:
    with chat_stub() as stub:
        code, out, errors = run(app, "suite", "--tasks", TASKS, "--base-url", stub.base_url, "--json")
        assert code == 0, errors
        report = json.loads(out)
        assert report["overall"]["num_items"] == 12
        journal = Path(report["journal"])
        assert journal.is_file()
        last = errors.splitlines()[-1]
        assert str(journal) in last
        assert last.endswith(f"ochatctl bench suite --tasks {TASKS} --base-url {stub.base_url} --json")
        code, again, errors = run(app, "suite", "--tasks", TASKS, "--base-url", stub.base_url, "--json")
        assert (code, json.loads(again)) == (0, report)
        assert f"12 of 12 questions are answered in {journal} already" in errors
        assert len(stub.requests) == 12


def test_the_table_shows_unmatched_answers_beside_the_score(app: typer.Typer) -> None:
    with chat_stub() as stub:
        code, out, errors = run(app, "suite", "--tasks", TASKS, "--base-url", stub.base_url)
    assert code == 0, errors
    assert "unmatched" in out
    assert "%" in out


def test_questions_without_an_answer_are_exit_6_with_the_report_and_the_command(app: typer.Typer) -> None:
    with chat_stub(faults={"Red Planet": ["garbage"]}) as stub:
        code, out, errors = run(app, "suite", "--tasks", TASKS, "--base-url", stub.base_url, "--json")
    assert code == 6
    assert json.loads(out)["overall"]["num_errors"] == 1
    assert "error: 1 question without an answer" in errors
    assert "hint: ochatctl bench suite --tasks" in errors


def test_a_key_reaches_the_endpoint_and_is_shown_nowhere(app: typer.Typer, tmp_path: Path) -> None:
    with chat_stub() as stub:
        code, out, errors = run(
            app, "suite", "--tasks", TASKS, "--base-url", stub.base_url, "--api-key", "sk-secret", "--limit", "2"
        )
        assert code == 0, errors
        assert {headers["authorization"] for headers in stub.headers} == {"Bearer sk-secret"}
    assert "sk-secret" not in out + errors
    assert "--api-key KEY" in errors
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(b"sk-secret" not in path.read_bytes() for path in files)


def test_a_model_and_an_endpoint_together_are_refused(app: typer.Typer) -> None:
    code, _, errors = run(app, "suite", "--tasks", TASKS, "--model", "m", "--base-url", "http://localhost:1/v1")
    assert code == 2
    assert "give either `--model` or `--base-url`" in errors


def test_the_echo_engine_answers_without_a_model(app: typer.Typer) -> None:
    code, out, errors = run(app, "suite", "--tasks", TASKS, "--engine", "echo", "--json")
    assert code == 0, errors
    # It gives back the options, so no answer names one; nor does it say the capital of France.
    assert json.loads(out)["overall"]["num_right"] == 0
    assert json.loads(out)["overall"]["num_unmatched"] == 8


def test_mtbench_says_that_there_is_no_score(app: typer.Typer, tmp_path: Path) -> None:
    questions = tmp_path / "question.jsonl"
    questions.write_text('{"question_id": 81, "category": "writing", "turns": ["Write.", "Shorter."]}\n')
    with chat_stub() as stub:
        code, out, errors = run(app, "mtbench", "--questions", str(questions), "--base-url", stub.base_url, "--json")
    assert code == 0, errors
    assert json.loads(out)["num_answered"] == 1
    assert "there is no score" in errors
    assert Path(json.loads(out)["answers"]).is_file()


def test_an_engine_of_our_own_without_a_model_is_refused_before_a_server_is_asked(app: typer.Typer) -> None:
    code, _, errors = run(app, "suite", "--tasks", TASKS, "--engine", "hf")
    assert code == 2
    assert "`--engine hf` runs a model here, and `--model` is missing" in errors


def test_a_suite_waits_for_an_answer_no_longer_than_it_was_told_to(app: typer.Typer) -> None:
    with chat_stub(delay_seconds=0.6) as stub:
        flags = ("--base-url", stub.base_url, "--limit", "1", "--timeout", "0.2")
        code, _, errors = run(app, "suite", "--tasks", TASKS, *flags)
    assert code == 6
    assert "no answer within 0.2 seconds" in errors


def test_what_does_not_fit_the_model_is_no_reason_to_ask_again(app: typer.Typer) -> None:
    rows = [{"question": "x" * 9000, "label": "a"}, {"question": "short", "label": "short"}]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, errors = run(app, "suite", "--tasks", "mine.jsonl", "--engine", "echo", "--json")
    assert code == 4
    assert json.loads(out)["overall"]["num_errors"] == 1
    assert "1 question cannot be asked of this model" in errors
    assert "asks only for what is missing" not in errors
