"""MT-bench's figures from graded rows, and FastChat's files scored again."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.bench.rescore import RescoreConfig, kind_of, rescore_files
from ochatctl.bench.suites.mtbench_score import (
    Game,
    Rating,
    category_of,
    score_pairs,
    score_single,
    standard_error,
)
from ochatctl.errors import DataError, UsageProblem


def rating(question_id: int, turn: int, score: float | None, model: str = "ours") -> Rating:
    return Rating(model=model, question_id=question_id, category=category_of(question_id), turn=turn, score=score)


def game(question_id: int, g1: str, g2: str, turn: int = 1, models: tuple[str, str] = ("a", "b")) -> Game:
    return Game(
        model_1=models[0],
        model_2=models[1],
        question_id=question_id,
        category=category_of(question_id),
        turn=turn,
        g1_winner=g1,
        g2_winner=g2,
    )


def test_a_score_is_the_mean_of_the_rows_that_have_one_and_not_of_the_two_turns_means() -> None:
    rows = [rating(81, 1, 8.0), rating(81, 2, None), rating(111, 1, 2.0), rating(111, 2, 5.0)]
    (score,) = score_single(rows)
    assert score.score == pytest.approx(5.0)
    assert score.by_turn == {"1": 5.0, "2": 5.0}
    assert score.by_category == {"writing": 8.0, "math": 3.5}
    assert (score.num_rows, score.num_unparsed) == (4, 1)
    # Over the two questions: 8 and 3.5.
    assert score.standard_error == pytest.approx(math.sqrt(2 * 2.25**2 / 1 / 2))


def test_duplicates_count_as_in_fastchat_and_are_named() -> None:
    (score,) = score_single([rating(81, 1, 8.0), rating(81, 1, 2.0), rating(82, 1, 5.0)])
    assert (score.score, score.num_duplicates, score.duplicates) == (5.0, 1, ("question 81, turn 1",))
    (first, _) = score_pairs([game(81, "model_1", "model_1"), game(81, "tie", "tie")])
    assert (first.num_duplicates, first.duplicates) == (1, ("question 81, turn 1, a and b",))


def test_disagreement_is_a_tie_and_an_error_is_nothing() -> None:
    games = [
        game(81, "model_1", "model_1"), game(82, "model_1", "model_2"), game(83, "tie", "model_1"),
        game(84, "model_2", "model_2"), game(85, "error", "model_1"), game(86, "tie", "tie"),
        game(87, "model_1", "model_1"),
    ]  # fmt: skip
    first, second = score_pairs(games)
    assert (first.model, first.win, first.loss, first.tie, first.num_errors) == ("a", 2, 1, 3, 1)
    assert first.win_rate_adjusted == pytest.approx((2 + 3 / 2) / 6)
    assert (first.win_rate, first.loss_rate) == (pytest.approx(2 / 6), pytest.approx(1 / 6))
    assert (second.win, second.loss) == (1, 2)


def test_with_a_baseline_only_games_against_it_count_and_it_has_no_line() -> None:
    games = [game(81, "model_1", "model_1"), game(81, "model_2", "model_2", models=("a", "c"))]
    assert [score.model for score in score_pairs(games)] == ["c", "a", "b"]
    (only,) = score_pairs(games, "b")
    assert (only.model, only.win_rate_adjusted) == ("a", 1.0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.sampled_from(["model_1", "model_2", "tie", "error"])] * 2), min_size=1, max_size=12))
def test_the_two_win_rates_of_a_pair_add_up_to_one(winners: list[tuple[str, str]]) -> None:
    first, second = score_pairs([game(81 + i, *each) for i, each in enumerate(winners)])
    assert first.win + first.loss + first.tie + first.num_errors == len(winners)
    if first.win_rate_adjusted is None or second.win_rate_adjusted is None:
        assert first.num_errors == len(winners)
    else:
        assert first.win_rate_adjusted + second.win_rate_adjusted == pytest.approx(1.0)


def test_the_categories_are_those_of_the_80_ids() -> None:
    assert [category_of(i) for i in (81, 90, 101, 111, 121, 160)] == [
        "writing", "writing", "reasoning", "math", "coding", "humanities",
    ]  # fmt: skip
    assert {category_of(80), category_of(161), category_of("81")} == {"other"}


def test_too_few_questions_have_no_standard_error() -> None:
    assert standard_error([1.0]) is None
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)


def single_row(question_id: int, score: float, turn: int = 1, **changes: Any) -> dict[str, Any]:
    judge = ["gpt-4", "single-v1"]
    return {"question_id": question_id, "model": "m", "judge": judge, "score": score, "turn": turn, **changes}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_ratings_is_known_by_its_rows_and_scored(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", [single_row(81, 8), single_row(81, -1, 2), single_row(82, 5.5)])
    assert kind_of(path) == "mtbench-single"
    (result,) = rescore_files([path])
    (score,) = result.models  # type: ignore[attr-defined]  # the protocol tells only what every kind has
    assert (score.score, score.num_unparsed) == (6.75, 1)
    assert result.judges == ("gpt-4",)  # type: ignore[attr-defined]
    assert result.lines[0][:2] == ("m", "6.750")


def test_a_file_of_games_is_scored_against_a_baseline(tmp_path: Path) -> None:
    row = {"question_id": 81, "model_1": "a", "model_2": "b", "g1_winner": "model_1", "g2_winner": "tie", "turn": 1}
    path = written(tmp_path / "x.jsonl", [row, {**row, "g2_winner": "model_1", "turn": 2}])
    (result,) = rescore_files([path], RescoreConfig(baseline="b"))
    assert result.win_rate_adjusted == 0.75  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="no game of `c`"):
        rescore_files([path], RescoreConfig(baseline="c"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": None}, "`question_id` is `None`"),
        ({"score": "8"}, "`score` is `8`"),
        ({"score": float("nan")}, "`score` is `nan`"),
        ({"turn": 0}, "`turn` is `0`"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "x.jsonl", [single_row(81, 8), {**single_row(82, 8), **row}])
    with pytest.raises(DataError, match=r"x\.jsonl:2: ") as caught:
        rescore_files([path])
    assert message in caught.value.message


def test_an_unknown_file_or_kind_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", [{"what": "is this"}])
    with pytest.raises(DataError, match=r"none\.jsonl: no such file") as absent:
        rescore_files([tmp_path / "none.jsonl"])
    assert "ochatctl bench rescore " in absent.value.hint
    with pytest.raises(DataError, match="not a file that can be scored again"):
        rescore_files([path])
    with pytest.raises(UsageProblem, match="`--kind nonsense` is none of"):
        rescore_files([path], RescoreConfig(kind="nonsense"))
