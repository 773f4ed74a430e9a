"""`ochatctl bench mtbench` and `rescore`: exit codes, the last line, keys and costs."""

import json
from pathlib import Path

import pytest
import typer
from chat_stub_for_tests import MODEL, chat_stub
from mtbench_for_tests import words, write_files
from typer.testing import CliRunner

from ochatctl.cli import bench
from ochatctl.cli.app import OchatGroup


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(name="ochatctl", cls=OchatGroup, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    bench.register(app)
    return app


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OCHATCTL_CACHE", str(tmp_path / "cache"))
    for name in ("OCHATCTL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [word for key, path in write_files(tmp_path).items() for word in (f"--{key.replace('_', '-')}", str(path))]


def run(app: typer.Typer, *arguments: str) -> tuple[int, str, list[str]]:
    done = CliRunner().invoke(app, ["bench", *arguments])
    return done.exit_code, done.stdout, done.stderr.splitlines()


def test_without_a_judge_the_last_line_is_the_command_that_asks_one(app: typer.Typer, files: list[str]) -> None:
    with chat_stub() as stub:
        code, out, errors = run(app, "mtbench", *files[:2], "--base-url", stub.base_url, "--json")
    assert code == 0, errors
    assert json.loads(out)["score"] is None
    assert "there is no score" in errors[-1]
    assert errors[-1].endswith(
        f"ochatctl bench mtbench {' '.join(files[:2])} --base-url {stub.base_url} --json --judge NAME"
    )


def test_a_judged_run_shows_turns_and_categories_and_how_to_resume(app: typer.Typer, files: list[str]) -> None:
    with chat_stub() as stub, chat_stub(says=words) as judge:
        command = ("mtbench", *files, "--base-url", stub.base_url, "--judge", "j", "--judge-base-url", judge.base_url)
        code, out, errors = run(app, *command)
        assert code == 0, errors
        for word in ("turn 1", "turn 2", "writing", "math", "unreadable"):
            assert word in out
        assert f"to send: 10 requests to {judge.base_url} (`j`): about" in "\n".join(errors)
        assert "ochatctl bench mtbench" in errors[-1]
        num_sent = len(stub.requests), len(judge.requests)
        code, out, errors = run(app, *command, "--json")
        assert (code, (len(stub.requests), len(judge.requests))) == (0, num_sent)
    report = json.loads(out)
    assert report["score"]["num_rows"] == 10
    assert report["judge"]["name"] == "j"
    code, out, _ = run(app, "rescore", report["judgments"], "--json")
    assert code == 0
    (file,) = json.loads(out)
    assert (file["score"], file["models"][0]["model"]) == (report["score"]["score"], MODEL)


def test_a_paid_judge_off_a_terminal_is_exit_2_with_the_line_before_anything_is_sent(
    app: typer.Typer, files: list[str]
) -> None:
    with chat_stub() as stub:
        code, out, errors = run(app, "mtbench", *files, "--base-url", stub.base_url, "--judge", "gpt-4.1")
        assert (code, out, stub.requests) == (2, "", [])
        assert any("requests to https://api.openai.com/v1 (`gpt-4.1`)" in line and "about $" in line for line in errors)
        assert errors[-1].startswith("hint: ochatctl bench mtbench")
        assert errors[-1].endswith(f"--judge gpt-4.1 --base-url {stub.base_url} --yes")
        code, _, errors = run(
            app, "mtbench", *files, "--base-url", stub.base_url, "--judge", "gpt-4.1", "--max-cost", "0.001"
        )
        assert (code, stub.requests) == (2, [])
        assert "more than `--max-cost 0.001`" in errors[-2]


def test_a_price_that_was_typed_is_kept_to_though_the_judge_is_at_home(app: typer.Typer, files: list[str]) -> None:
    with chat_stub() as stub, chat_stub(says=words) as judge:
        to = ("--base-url", stub.base_url, "--judge", "j", "--judge-base-url", judge.base_url)
        priced = ("mtbench", *files, *to, "--judge-price", "1000/2000")
        code, _, errors = run(app, *priced, "--max-cost", "0.01")
        assert (code, stub.requests, judge.requests) == (2, [], [])
        assert "more than `--max-cost 0.01`" in errors[-2]
        assert run(app, *priced)[0] == 2  # nobody is here to say yes
        code, _, errors = run(app, *priced, "--max-cost", "1000")
        assert code == 0, errors


def test_the_judge_s_key_from_the_environment_goes_to_the_judge_and_is_shown_nowhere(
    app: typer.Typer, files: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-env")
    with chat_stub() as stub, chat_stub(says=words) as judge:
        to = ("--base-url", stub.base_url, "--judge", "j", "--judge-base-url", judge.base_url, "--limit", "1")
        code, out, errors = run(app, "mtbench", *files, *to)
        assert code == 0, errors
        assert all("authorization" not in headers for headers in stub.headers)
        assert {headers["authorization"] for headers in judge.headers} == {"Bearer sk-from-env"}
        code, said, more = run(app, "mtbench", *files, *to, "--judge-api-key", "sk-typed")
        assert code == 0, more
    assert "--judge-api-key KEY" in more[-1]
    everything = out + said + "".join(errors + more)
    assert "sk-from-env" not in everything
    assert "sk-typed" not in everything
    assert not any(b"sk-" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_run_that_is_cut_short_ends_in_the_line_that_goes_on(app: typer.Typer, files: list[str]) -> None:
    with chat_stub() as stub, chat_stub(faults={"": [401] * 99}) as judge:
        code, _, errors = run(
            app, "mtbench", *files, "--base-url", stub.base_url, "--judge", "j", "--judge-base-url", judge.base_url
        )
    assert code == 6
    assert "no key was given" in errors[-2]
    assert "--judge-api-key" in errors[-1]
    assert f"the same command goes on: ochatctl bench mtbench {files[0]}" in errors[-1]


def test_a_judge_that_is_gone_is_exit_3(app: typer.Typer, files: list[str]) -> None:
    with chat_stub() as stub, chat_stub(faults={"Say OK": [404]}) as judge:
        to = ("--base-url", stub.base_url, "--judge", "gpt-4", "--judge-base-url", judge.base_url)
        code, _, errors = run(app, "mtbench", *files, *to)
        # Before anything is asked of the model.
        assert (code, stub.requests) == (3, [])
    assert "no judge `gpt-4`" in errors[-2]
    assert "retired" in errors[-1]


def test_data_that_is_not_here_is_exit_4_with_the_command_that_gets_it(app: typer.Typer, files: list[str]) -> None:
    code, _, errors = run(app, "mtbench", "--engine", "echo")
    assert code == 4
    assert errors[-1] == "hint: ochatctl bench download mtbench"
    code, _, errors = run(app, "mtbench", *files[:2], "--engine", "echo", "--judge", "j")
    assert code == 4  # the judge's files are missing, and nothing was asked
    assert not Path("runs").exists()


def test_a_file_of_no_known_kind_is_exit_4(app: typer.Typer, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"what": 1}\n')
    code, _, errors = run(app, "rescore", str(path))
    assert code == 4
    assert "not a file that can be scored again" in errors[0]
