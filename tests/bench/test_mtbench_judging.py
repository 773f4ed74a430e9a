"""MT-bench from questions to scores, with a judge that misbehaves; killed anywhere, it ends in the same report."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_stub_for_tests import MODEL, Stub, answer_to, chat_stub
from mtbench_for_tests import ROWS, words, write_files

from ochatctl.bench.judge import JudgeConfig
from ochatctl.bench.rescore import RescoreConfig, rescore_files
from ochatctl.bench.results import read_result
from ochatctl.bench.run import RunConfig
from ochatctl.bench.suites.mtbench import MtBench, MtBenchReport, run_mtbench
from ochatctl.bench.suites.mtbench_score import PairScore, SingleScore
from ochatctl.bench.target import Endpoint
from ochatctl.cli.output import Output
from ochatctl.engine.endpoint import Patience
from ochatctl.errors import DataError, UsageProblem

QUIET = Output(quiet=True)
QUICK = Patience(max_retries=2, silence_seconds=1.5, first_wait_seconds=0.02, retry_silence=True)
# Four questions of two turns and two of one.
NUM_JUDGMENTS = 10


@contextlib.contextmanager
def both(**judge: Any) -> Iterator[tuple[Stub, Stub]]:
    with chat_stub() as model, chat_stub(says=words, **judge) as stub:
        yield model, stub


def run(folder: Path, model: Stub, judge: Stub | None, *, name: str = "out", **bench: Any) -> MtBenchReport:
    files = write_files(folder / "files")
    config = RunConfig(
        target=Endpoint(base_url=model.base_url, api_key="sk-model"),
        max_tokens=64,
        out_dir=folder / name,
        patience=QUICK,
        judge=JudgeConfig(name="judge-1", base_url=judge.base_url, api_key="sk-judge", patience=QUICK)
        if judge is not None
        else None,
    )
    return run_mtbench(MtBench(**{**files, **bench}), config, QUIET)


def rows_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()]


def single(report: MtBenchReport) -> SingleScore:
    assert isinstance(report.score, SingleScore)
    return report.score


def test_every_turn_is_judged_and_fastchat_s_file_gives_the_same_score(tmp_path: Path) -> None:
    with both() as (model, judge):
        report = run(tmp_path, model, judge)
        assert len(judge.requests) == NUM_JUDGMENTS + 2  # a word before the answers, and one before the judgments
    rows = rows_of(report.judgments)
    assert [(row["question_id"], row["turn"]) for row in rows] == [
        (row["question_id"], turn) for row in ROWS for turn in range(1, len(row["turns"]) + 1)
    ]
    assert set(rows[0]) == {"question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"}
    assert rows[4]["judge"] == ["judge-1", "single-math-v1"]
    assert "It is 2." in rows[4]["user_prompt"]
    score = single(report)
    assert score.score == pytest.approx(sum(row["score"] for row in rows) / NUM_JUDGMENTS)
    assert set(score.by_turn) == {"1", "2"}
    assert set(score.by_category) == {"writing", "roleplay", "math", "stem", "other"}
    assert report.judgments is not None
    (again,) = rescore_files([report.judgments])
    assert again.score == score.score  # type: ignore[attr-defined]  # the protocol tells only what every kind has
    result = read_result(tmp_path / "out")
    assert result.judge == "judge-1"
    assert [question.scores for question in result.questions[:1]] == [{"1": rows[0]["score"], "2": rows[1]["score"]}]
    assert [line.role for line in result.questions[0].transcript] == ["user", "assistant", "judge"] * 2
    assert read_result(tmp_path / "out" / "scores" / "judge-1_single") == result


def test_a_judge_that_misbehaves_costs_tries_and_not_scores(tmp_path: Path) -> None:
    faults: dict[str, list[int | str]] = {
        "Q: Write a line.": [429, 500],
        "Q1: Write a line.": ["hang"],
        "Q: Be a pirate.": ["garbage"],
        "Q: 1 + 1?": ["say:no idea"] * 3,
        "Q: Hello?": ["say:[[99]]", "say:first [[3]], then [[4]]"],
    }
    with both(faults=faults) as (model, judge):
        report = run(tmp_path, model, judge)
        by_turn = {(row["question_id"], row["turn"]): row for row in rows_of(report.judgments)}
        assert report.num_unparsed == 1
        assert by_turn[111, 1]["score"] == -1
        assert (91, 1) not in by_turn  # it failed: no row, no score
        assert [error.split(": ")[0] for error in report.judge_errors] == ["91:1"]
        assert by_turn[900, 1]["score"] == 4
        score = single(report)
        assert (score.num_rows, score.num_unparsed) == (9, 1)
        good = [row["score"] for row in by_turn.values() if row["score"] != -1]
        assert score.score == pytest.approx(sum(good) / len(good))
        status = {question.id: question.status for question in read_result(tmp_path / "out").questions}
        assert (status["81"], status["91"], status["111"]) == ("scored", "error", "unreadable")
        num_sent = len(judge.requests)
        second = run(tmp_path, model, judge)
        assert second.errors == ()
        assert len(judge.requests) == num_sent + 2  # what failed, and the word before


def test_fastchat_s_reading_asks_once_and_takes_what_it_takes(tmp_path: Path) -> None:
    faults: dict[str, list[int | str]] = {"Q: Hello?": ["say:[[99]] or [[4]]"], "Q: Rhyme.": ["say:?"] * 3}
    with both(faults=faults) as (model, judge):
        report = run(tmp_path, model, judge, compat="fastchat")
        by_turn = {(row["question_id"], row["turn"]): row["score"] for row in rows_of(report.judgments)}
        assert (by_turn[900, 1], by_turn[901, 1]) == (99, -1)
        assert sum("Q: Rhyme." in request["messages"][-1]["content"] for request in judge.requests) == 1


def baseline_file(path: Path, *, but: int | None = None) -> Path:
    rows = [
        {
            "question_id": row["question_id"],
            "model_id": "theirs",
            "choices": [{"index": 0, "turns": [f"Theirs: {answer_to(turn)}" for turn in row["turns"]]}],
        }
        for row in ROWS
        if row["question_id"] != but
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_are_judged_in_both_orders_and_disagreement_is_a_tie(tmp_path: Path) -> None:
    baseline = baseline_file(tmp_path / "theirs.jsonl")
    with both() as (model, judge):
        report = run(tmp_path, model, judge, mode="pairwise", baseline=baseline)
        assert len(judge.requests) == 2 * NUM_JUDGMENTS + 2
    rows = rows_of(report.judgments)
    for row in rows:
        for game, names in (
            ("g1", {"A": "model_1", "B": "model_2", "C": "tie"}),
            ("g2", {"A": "model_2", "B": "model_1", "C": "tie"}),
        ):
            assert row[f"{game}_winner"] == names[row[f"{game}_judgment"][-3]]
    score = report.score
    assert isinstance(score, PairScore)
    won = sum(row["g1_winner"] == row["g2_winner"] == "model_1" for row in rows)
    lost = sum(row["g1_winner"] == row["g2_winner"] == "model_2" for row in rows)
    assert (score.win, score.loss, score.tie) == (won, lost, NUM_JUDGMENTS - won - lost)
    assert any(row["g1_winner"] != row["g2_winner"] for row in rows)  # the case that this is about
    assert report.judgments is not None
    (again,) = rescore_files([report.judgments], RescoreConfig(baseline="theirs"))
    assert again.win_rate_adjusted == score.win_rate_adjusted  # type: ignore[attr-defined]
    assert read_result(tmp_path / "out").protocol["baseline"] == "theirs"


def test_a_baseline_that_is_missing_or_short_is_refused(tmp_path: Path) -> None:
    with both() as (model, judge):
        with pytest.raises(UsageProblem, match="needs `--baseline FILE`"):
            run(tmp_path, model, judge, mode="pairwise")
        short = baseline_file(tmp_path / "short.jsonl", but=81)
        with pytest.raises(DataError, match="no whole answer to question `81`"):
            run(tmp_path, model, judge, mode="pairwise", baseline=short)
        assert model.requests == judge.requests == []


def test_a_baseline_of_the_models_own_name_is_another_player(tmp_path: Path) -> None:
    own = baseline_file(tmp_path / "own.jsonl")
    own.write_text(own.read_text().replace("theirs", MODEL))
    with both() as (model, judge):
        report = run(tmp_path, model, judge, mode="pairwise", baseline=own)
    rows = rows_of(report.judgments)
    assert {(row["model_1"], row["model_2"]) for row in rows} == {(MODEL, f"{MODEL} (baseline)")}
    assert isinstance(report.score, PairScore)
    assert report.score.win + report.score.loss + report.score.tie == len(rows) == 10


def test_a_missing_reference_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    references = tmp_path / "none.jsonl"
    references.write_text(json.dumps({"question_id": 1, "model_id": "r", "choices": [{"turns": ["x"]}]}) + "\n")
    with both() as (model, judge):
        with pytest.raises(DataError, match="no reference answer to question `111`"):
            run(tmp_path, model, judge, references=references)
        assert model.requests == judge.requests == []


def test_answers_of_a_file_are_judged_as_they_are(tmp_path: Path) -> None:
    answers = baseline_file(tmp_path / "theirs.jsonl", but=900)
    with answers.open("a") as file:
        file.write(answers.read_text().splitlines()[0].replace("Theirs", "Later") + "\n")
    with both() as (model, judge):
        report = run(tmp_path, model, judge, answers=answers)
        assert model.requests == []
    assert (report.model, report.num_answered, report.journal) == ("theirs", 5, None)
    assert any("question 81 is answered twice; the last counts" in note for note in report.notes)
    assert "Later" in rows_of(report.judgments)[0]["user_prompt"]


def test_each_key_goes_to_its_own_host_and_into_no_file(tmp_path: Path) -> None:
    with both() as (model, judge):
        run(tmp_path, model, judge)
        assert {headers.get("authorization") for headers in model.headers} == {"Bearer sk-model"}
        assert {headers.get("authorization") for headers in judge.headers} == {"Bearer sk-judge"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert not any(key in path.read_bytes() for path in files for key in (b"sk-model", b"sk-judge"))


def comparable(out: Path) -> Any:
    """Give what a run says, without its times and its place."""
    report = json.loads((out / "report.json").read_text())
    judgments = [{**row, "tstamp": 0} for row in rows_of(out / "model_judgment" / "judge-1_single.jsonl")]
    answers = [{**row, "tstamp": 0} for row in rows_of(out / "model_answer" / "echo.jsonl")]
    questions = rows_of(out / "questions.jsonl")
    return json.loads(json.dumps([report, judgments, answers, questions]).replace(str(out), "OUT"))


def num_lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.rglob("*.jsonl") if "model_" not in str(path))


@pytest.mark.slow
def test_ten_kills_at_random_end_in_the_same_report(tmp_path: Path) -> None:
    rows = [
        {"question_id": 81 + i, "category": "writing", "turns": [f"Question {i}?", f"And {i} again?"]}
        for i in range(40)
    ]
    files = write_files(tmp_path / "files", rows)
    draw = random.Random(7)
    with chat_stub(says=words) as judge:

        def command(out: Path) -> list[str]:
            flags = [f"--{key.replace('_', '-')}={path}" for key, path in files.items()]
            return [
                *(sys.executable, "-m", "ochatctl", "bench", "mtbench", "--engine", "echo", *flags),
                *("--judge", "judge-1", "--judge-base-url", judge.base_url, "--concurrency", "3", "--out", str(out)),
            ]

        whole, out = tmp_path / "whole", tmp_path / "out"
        subprocess.run(command(whole), check=True, capture_output=True, timeout=300)
        num_before = Counter(judge.num_asked)
        reached = []
        for _ in range(10):
            # It is killed as soon as may be after so many lines, and can get no further than so many judgments.
            wanted = num_lines(out) + draw.randint(1, 14)
            judge.most_answers, judge.num_answered, judge.num_held = 8, 0, 0
            process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and num_lines(out) < wanted and not judge.num_held:
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            reached.append(num_lines(out))
        judge.most_answers = None
        assert reached[0] < reached[-1] < num_lines(whole)  # killed in the middle, each time further on
        subprocess.run(command(out), check=True, capture_output=True, timeout=300)
        num_again = sum((Counter(judge.num_asked) - num_before).values())
    assert comparable(out) == comparable(whole)
    # Each judgment once more, what was in flight at a kill, and a word or two before each run.
    assert num_again <= 80 + 10 * 3 + 2 * 11
