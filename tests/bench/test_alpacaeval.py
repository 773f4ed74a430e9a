"""AlpacaEval from questions to win rate, against a judge that prefers what it is told to."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_stub_for_tests import MODEL, answer_to, chat_stub

from ochatctl.bench.annotators import is_swapped
from ochatctl.bench.judge import JudgeConfig
from ochatctl.bench.preferences import read_annotations, read_outputs
from ochatctl.bench.results import read_result
from ochatctl.bench.run import RunConfig
from ochatctl.bench.suites.alpacaeval import AlpacaEval, run_alpacaeval
from ochatctl.bench.target import Endpoint
from ochatctl.cli.output import Output
from ochatctl.errors import ConfigError, DataError, UsageProblem

QUIET = Output(quiet=True)
QUESTIONS = [f"What is {number}?" for number in range(8)]
TEMPLATE = """<|im_start|>system
You rank.
<|im_end|>
<|im_start|>user
Asked: {instruction}
FIRST {output_1}
SECOND {output_2}
<|im_end|>"""
RANKS = "[{{'model': 'model_1', 'rank': {}}}, {{'model': 'model_2', 'rank': {}}}]"


def prefers_the_model(prompt: str) -> str:
    """Rank the output first that is not the reference's."""
    if "FIRST " not in prompt:
        return "OK."  # to a judge's first call
    first = prompt.split("FIRST ")[1].split("\nSECOND")[0]
    return RANKS.format(2, 1) if first.startswith("reference") else RANKS.format(1, 2)


@pytest.fixture
def bench(tmp_path: Path) -> AlpacaEval:
    rows = [
        {"instruction": text, "output": f"reference {number}", "generator": "davinci", "dataset": "ab"[number % 2]}
        for number, text in enumerate(QUESTIONS)
    ]
    (tmp_path / "reference.json").write_text(json.dumps(rows))
    (tmp_path / "prompt.txt").write_text(TEMPLATE)
    return AlpacaEval(reference=tmp_path / "reference.json", prompt=tmp_path / "prompt.txt")


def config(model: str, judge: str | None, out: Path, **changes: Any) -> RunConfig:
    judged = JudgeConfig(name="judge-model", base_url=judge) if judge is not None else None
    return RunConfig(target=Endpoint(base_url=model), max_tokens=64, out_dir=out, judge=judged, **changes)


def test_both_orders_come_back_to_the_models_side(bench: AlpacaEval, tmp_path: Path) -> None:
    assert {is_swapped(text) for text in QUESTIONS} == {False, True}
    out = tmp_path / "out"
    with chat_stub() as model, chat_stub(says=prefers_the_model) as judge:
        report = run_alpacaeval(bench, config(model.base_url, judge.base_url, out), QUIET)
        prompts = {request["messages"][-1]["content"] for request in judge.requests}
    assert report.rate is not None
    assert (report.rate.win_rate, report.rate.n_wins, report.rate.n_total) == (100.0, 8, 8)
    assert f"Asked: {QUESTIONS[0]}\nFIRST reference 0\nSECOND {answer_to(QUESTIONS[0])}" in prompts
    swapped = next(number for number, text in enumerate(QUESTIONS) if is_swapped(text))
    first = answer_to(QUESTIONS[swapped])
    assert f"Asked: {QUESTIONS[swapped]}\nFIRST {first}\nSECOND reference {swapped}" in prompts


def test_its_files_are_alpaca_evals(bench: AlpacaEval, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with chat_stub() as model, chat_stub(says=prefers_the_model) as judge:
        run_alpacaeval(bench, config(model.base_url, judge.base_url, out), QUIET)
    assert [row.output for row in read_outputs(out / "model_outputs.json")] == [answer_to(text) for text in QUESTIONS]
    rows = read_annotations(out / "scores/judge-model_alpaca_eval_gpt4/annotations.json")
    assert {(row.generator_1, row.generator_2) for row in rows} == {("davinci", MODEL)}
    # Not the published judge, so not the published annotator's name either.
    assert {row.annotator for row in rows} == {"alpaca_eval_gpt4 by judge-model"}
    with (out / "scores/judge-model_alpaca_eval_gpt4/leaderboard.csv").open() as lines:
        (line,) = csv.DictReader(lines)
    assert (line[""], line["win_rate"], line["n_total"]) == (MODEL, "100.0", "8")
    result = read_result(out)
    assert result.groups == ("a", "b")
    assert all(question.scores == {"1": 1.0} for question in result.questions)
    assert [entry.role for entry in result.questions[0].transcript] == ["user", "reference", "assistant", "judge"]
    assert any("judged by `gpt-4`" in note for note in result.notes)


def test_a_judgment_that_cannot_be_read_is_asked_again_and_then_counted(bench: AlpacaEval, tmp_path: Path) -> None:
    faults: dict[str, list[int | str]] = {QUESTIONS[2]: ["say:Both are good."], QUESTIONS[5]: ["say:no"] * 9}
    with chat_stub() as model, chat_stub(says=prefers_the_model, faults=faults) as judge:
        report = run_alpacaeval(bench, config(model.base_url, judge.base_url, tmp_path / "out"), QUIET)
    assert report.rate is not None
    assert (report.rate.n_total, report.rate.num_unreadable, report.num_asked_again) == (7, 1, 2)
    statuses = {question.id: question.status for question in read_result(tmp_path / "out").questions}
    assert statuses["6"] == "unreadable"
    assert list(statuses.values()).count("scored") == 7


def test_probabilities_are_read_from_the_first_token(bench: AlpacaEval, tmp_path: Path) -> None:
    weighted = replace(bench, annotator="weighted_alpaca_eval_gpt4_turbo")
    logprobs = {"m": math.log(0.75), "M": math.log(0.25)}
    with chat_stub() as model, chat_stub(says=lambda prompt: "m", logprobs=logprobs) as judge:
        report = run_alpacaeval(weighted, config(model.base_url, judge.base_url, tmp_path / "out"), QUIET)
        asked = judge.requests[-1]
    num_swapped = sum(is_swapped(text) for text in QUESTIONS)
    assert report.rate is not None
    # The first output shown has 0.75: the model's where the pair was swapped.
    assert report.rate.win_rate == pytest.approx(100 * (0.75 * num_swapped + 0.25 * (8 - num_swapped)) / 8)
    assert (asked["max_tokens"], asked["temperature"], asked["top_logprobs"]) == (1, 1.0, 5)


def test_a_judge_without_probabilities_cannot_weigh(bench: AlpacaEval, tmp_path: Path) -> None:
    weighted = replace(bench, annotator="weighted_alpaca_eval_gpt4_turbo")
    refuses = frozenset({"logprobs"})
    with chat_stub() as model, chat_stub(refuses=refuses) as judge, pytest.raises(ConfigError, match="logprobs"):
        run_alpacaeval(weighted, config(model.base_url, judge.base_url, tmp_path / "out"), QUIET)
    assert model.requests == [], "the judge is asked before the model"


def test_without_a_judge_there_are_answers_and_no_win_rate(bench: AlpacaEval, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with chat_stub() as model:
        report = run_alpacaeval(bench, config(model.base_url, None, out, limit=3), QUIET)
        assert report.rate is None
        assert report.num_answered == 3
        assert not (out / "scores").exists()
        with chat_stub(says=prefers_the_model) as judge:
            later = run_alpacaeval(bench, config(model.base_url, judge.base_url, out), QUIET)
        assert sum(model.num_asked.values()) == len(QUESTIONS)  # the first three are not asked again
    assert later.rate is not None
    assert later.rate.n_total == len(QUESTIONS)


def test_a_question_that_failed_is_an_error_and_is_never_judged(bench: AlpacaEval, tmp_path: Path) -> None:
    faults: dict[str, list[int | str]] = {QUESTIONS[3]: ["garbage"] * 9}
    with chat_stub(faults=faults) as model, chat_stub(says=prefers_the_model) as judge:
        report = run_alpacaeval(bench, config(model.base_url, judge.base_url, tmp_path / "out"), QUIET)
        assert not any(QUESTIONS[3] in request["messages"][-1]["content"] for request in judge.requests)
    assert report.rate is not None
    assert report.rate.n_total == 7
    assert len(report.errors) == 1
    assert read_result(tmp_path / "out").count("error") == 1


def test_outputs_of_a_file_are_judged_as_they_are(bench: AlpacaEval, tmp_path: Path) -> None:
    rows = [{"instruction": text, "output": "mine", "generator": "theirs"} for text in QUESTIONS[:5]]
    (tmp_path / "model_outputs.json").write_text(json.dumps(rows))
    given = replace(bench, answers=tmp_path / "model_outputs.json")
    nowhere = "http://127.0.0.1:9/v1"
    with chat_stub(says=prefers_the_model) as judge:
        report = run_alpacaeval(given, config(nowhere, judge.base_url, tmp_path / "out"), QUIET)
    assert report.rate is not None
    assert (report.model, report.rate.n_total, report.num_questions) == ("theirs", 5, 8)
    foreign = [rows[0] | {"instruction": "Of another benchmark."}]
    (tmp_path / "foreign.json").write_text(json.dumps(foreign))
    with pytest.raises(DataError, match=r"foreign.json: none of the 8 questions is answered in it"):
        run_alpacaeval(replace(bench, answers=tmp_path / "foreign.json"), config(nowhere, None, tmp_path), QUIET)
    rows[0]["generator"] = "another"
    (tmp_path / "model_outputs.json").write_text(json.dumps(rows))
    with pytest.raises(UsageProblem, match="2 generators"):
        run_alpacaeval(given, config(nowhere, None, tmp_path / "out"), QUIET)


def test_a_reference_that_lacks_an_instruction_is_refused(bench: AlpacaEval, tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(json.dumps([{"instruction": "Another?"}, {"instruction": QUESTIONS[0]}]))
    with pytest.raises(DataError, match=r"no output to 1 of 2 instructions, such as `Another\?`"):
        run_alpacaeval(replace(bench, items=tmp_path / "items.json"), config("http://x", None, tmp_path / "out"), QUIET)
