"""A suite from the task file to the report: an endpoint that misbehaves, a run that is killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chat_stub_for_tests import Stub, answer_to, chat_stub
from waiting_for_tests import wait_until

from ochatctl.bench.report import Report, Timing
from ochatctl.bench.run import RunConfig
from ochatctl.bench.suite import run_suite
from ochatctl.bench.target import Endpoint
from ochatctl.bench.task import read_task
from ochatctl.cli.output import Output
from ochatctl.engine.load import LoadConfig
from ochatctl.errors import ConfigError, UsageProblem
from ochatctl.memory import gpus

NUM_QUESTIONS = 24
QUIET = Output(quiet=True)
NO_RATES = {"prompt_tokens_per_second": None, "answer_tokens_per_second": None}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    rows = [
        {"question": f"Which of these is number {i}?", "label": "ABC"[i % 3], "options": ["x", "y", "z"]}
        for i in range(NUM_QUESTIONS)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(stub: Stub, out: Path, **changes: object) -> RunConfig:
    settings = {"target": Endpoint(base_url=stub.base_url), "max_tokens": 32, "out_dir": out, "concurrency": 4}
    return RunConfig(**(settings | changes))  # type: ignore[arg-type]  # each test names its own fields


def scores(report: Report) -> Report:
    return dataclasses.replace(report, journal=Path(), timing=Timing(seconds=0, **NO_RATES))


def test_a_report_counts_what_the_endpoint_said(tasks: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        report = run_suite([tasks], config(stub, tmp_path / "out"), QUIET)
    said = {item.prompt: answer_to(item.prompt) for item in read_task(tasks).items}
    num_right = sum(f"({item.labels[0]})" in said[item.prompt] for item in read_task(tasks).items)
    num_unmatched = sum("could not say" in text for text in said.values())
    line = report.overall
    assert 0 < num_unmatched < NUM_QUESTIONS  # or this test would show little
    assert (line.num_right, line.num_unmatched) == (num_right, num_unmatched)
    assert line.score == num_right / NUM_QUESTIONS
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (written["format"], written["version"]) == ("ochatctl.bench.report", 1)
    assert written["overall"]["num_right"] == num_right


def test_a_misbehaving_endpoint_ends_in_the_same_scores(tasks: Path, tmp_path: Path) -> None:
    faults: dict[str, list[int | str]] = {
        "number 3?": [429],
        "number 5?": [503],
        "number 7?": ["garbage"],
        "number 9?": ["shape"],
        "number 11?": [400],
    }
    with chat_stub() as stub:
        clean = run_suite([tasks], config(stub, tmp_path / "clean"), QUIET)
    with chat_stub(faults=faults) as stub:
        first = run_suite([tasks], config(stub, tmp_path / "out"), QUIET)
        # Retries get past the first two; the others are error rows, and stand outside the score.
        assert first.overall.num_errors == len(first.errors) == 3
        assert first.overall.num_right + first.overall.num_wrong + first.overall.num_unmatched == NUM_QUESTIONS - 3
        second = run_suite([tasks], config(stub, tmp_path / "out"), QUIET)
        assert len(stub.requests) == NUM_QUESTIONS + 2 + 3
    assert scores(second) == scores(clean)


@pytest.mark.parametrize("num_lines", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_run_resumed_equals_an_uninterrupted_one(tasks: Path, tmp_path: Path, num_lines: int) -> None:
    out, concurrency = tmp_path / "out", 3
    with chat_stub() as stub:
        whole = run_suite([tasks], config(stub, tmp_path / "whole"), QUIET)
    # It can get no further before it is killed.
    with chat_stub(most_answers=num_lines + 2) as stub:
        command = [sys.executable, "-m", "ochatctl", "bench", "suite", "--tasks", str(tasks), "--out", str(out)]
        command += ["--base-url", stub.base_url, "--max-tokens", "32", "--concurrency", str(concurrency)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            wait_until(lambda: process.poll() is not None or lines_in(out / "journal.jsonl") >= 1 + num_lines)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        kept = (out / "journal.jsonl").read_bytes().count(b"\n") - 1
        assert num_lines <= kept <= num_lines + 2 < NUM_QUESTIONS
        # What a kill in the middle of a write leaves.
        with (out / "journal.jsonl").open("ab") as journal:
            journal.write(b'{"id": "mine:24", "te')
        stub.most_answers = None
        resumed = run_suite([tasks], config(stub, out, concurrency=concurrency), QUIET)
        num_asked_twice = sum(count - 1 for count in stub.num_asked.values())
    assert scores(resumed) == scores(whole)
    assert set(stub.num_asked.values()) <= {1, 2}
    assert num_asked_twice <= concurrency  # only what was in flight
    assert len(stub.num_asked) == NUM_QUESTIONS


def test_a_finished_run_needs_no_endpoint(tasks: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        target = Endpoint(base_url=stub.base_url, model_name="stub-model")
        first = run_suite([tasks], config(stub, tmp_path / "out", target=target), QUIET)
    assert run_suite([tasks], config(stub, tmp_path / "out", target=target), QUIET) == first


def test_a_larger_limit_goes_on_where_a_smaller_one_ended(tasks: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        small = run_suite([tasks], config(stub, tmp_path / "out", limit=5), QUIET)
        assert small.overall.num_items == len(stub.requests) == 5
        run_suite([tasks], config(stub, tmp_path / "out"), QUIET)
        assert len(stub.requests) == NUM_QUESTIONS
        assert run_suite([tasks], config(stub, tmp_path / "out", limit=5), QUIET) == small


def test_other_settings_or_tasks_are_refused(tasks: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        run_suite([tasks], config(stub, tmp_path / "out", limit=1), QUIET)
        with pytest.raises(UsageProblem, match=r'`system` was `""` and is `"Be brief."`'):
            run_suite([tasks], config(stub, tmp_path / "out", system="Be brief."), QUIET)
        tasks.write_text(tasks.read_text().replace("number 20?", "number twenty?"))
        with pytest.raises(UsageProblem, match="`tasks` was"):
            run_suite([tasks], config(stub, tmp_path / "out"), QUIET)


def test_system_condition_and_seed_reach_the_model(tasks: Path, tmp_path: Path) -> None:
    with chat_stub() as stub:
        changes = {"system": "Be brief.", "condition": "Math Correct", "seed": 5, "limit": 1}
        run_suite([tasks], config(stub, tmp_path / "out", **changes), QUIET)
        (request,) = stub.requests
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (request["condition"], request["seed"], request["temperature"]) == ("Math Correct", 5, 0.0)


@pytest.mark.skipif(bool(gpus()) or sys.platform == "darwin", reason="here they do not take long")
def test_a_run_that_takes_hours_on_a_cpu_is_said_to_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    target = LoadConfig(model=str(tmp_path / "model"), engine="hf", family="chatml")
    for length, is_said in ((1_000_000, True), (1000, False)):
        tasks = tmp_path / f"{length}.jsonl"
        tasks.write_text(json.dumps({"question": "x" * length, "label": "y"}) + "\n")
        with pytest.raises(ConfigError, match="holds no tokenizer"):
            run_suite([tasks], RunConfig(target=target, out_dir=tmp_path / f"out-{length}"), Output())
        assert ("may take hours" in capsys.readouterr().err) is is_said


def test_two_tasks_of_one_name_are_refused(tasks: Path, tmp_path: Path) -> None:
    with chat_stub() as stub, pytest.raises(UsageProblem, match="two tasks are called `mine`"):
        run_suite([tasks, tasks], config(stub, tmp_path / "out"), QUIET)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0
