"""FastChat's judgment files, `JUDGE_single.jsonl` and `JUDGE_pair.jsonl`, read and scored as its `show_result.py` does.

in: a file of judgments, out: each model's score by turn and category
"""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ochatctl.bench.suites.mtbench_score import (
    Game,
    PairScore,
    QuestionId,
    Rating,
    SingleScore,
    category_of,
    score_pairs,
    score_single,
)
from ochatctl.errors import DataError
from ochatctl.files import read_jsonl

_WINNERS = ("model_1", "model_2", "tie", "error")
NO_RATING = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleFile:
    """The scores of a file of ratings. `score` is the model's, where the file holds but one."""

    file: Path
    kind: str
    judges: tuple[str, ...]
    score: float | None
    standard_error: float | None
    models: tuple[SingleScore, ...]

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """A row a model."""
        return tuple(
            (
                each.model,
                _shown(each.score, 3),
                _shown(each.standard_error, 3),
                str(each.num_rows),
                _left_out(each.num_unparsed, "unparsed", each.num_duplicates),
            )
            for each in self.models
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PairFile:
    """The scores of a file of games. `win_rate_adjusted` is the model's, where there is but one beside the baseline."""

    file: Path
    kind: str
    judges: tuple[str, ...]
    baseline: str | None
    win_rate_adjusted: float | None
    standard_error: float | None
    models: tuple[PairScore, ...]

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """A row a model."""
        return tuple(
            (
                each.model,
                _shown(each.win_rate_adjusted, 4),
                _shown(each.standard_error, 4),
                str(each.num_rows),
                _left_out(each.num_errors, "errors", each.num_duplicates),
            )
            for each in self.models
        )


def is_single(row: Any) -> bool:
    """Tell a row of ratings."""
    return isinstance(row, dict) and {"model", "score", "turn", "question_id"} <= set(row)


def is_pair(row: Any) -> bool:
    """Tell a row of games."""
    return isinstance(row, dict) and {"model_1", "model_2", "g1_winner", "g2_winner", "question_id"} <= set(row)


def rescore_single(path: Path) -> SingleFile:
    """Score a file of ratings; a `score` of -1 is left out and counted.

    Raises:
        DataError: names `file:line`.
    """
    rows = list(read_jsonl(path))
    models = tuple(score_single([_rating(value, where) for where, value in rows]))
    only = models[0] if len(models) == 1 else None
    return SingleFile(
        file=path,
        kind="mtbench-single",
        judges=_judges([value for _, value in rows]),
        score=only.score if only else None,
        standard_error=only.standard_error if only else None,
        models=models,
    )


def rescore_pair(path: Path, baseline: str | None = None) -> PairFile:
    """Score a file of games; without a baseline every pair counts, as in FastChat's `--mode pairwise-all`.

    Raises:
        DataError: names `file:line`, or the baseline is not in the file.
    """
    rows = list(read_jsonl(path))
    games = [_game(value, where) for where, value in rows]
    if baseline is not None and not any(baseline in (game.model_1, game.model_2) for game in games):
        raise DataError(f"{path}: no game of `{baseline}` in it", hint="leave `--baseline` out to see who is")
    models = tuple(score_pairs(games, baseline))
    only = models[0] if len(models) == 1 else None
    return PairFile(
        file=path,
        kind="mtbench-pair",
        judges=_judges([value for _, value in rows]),
        baseline=baseline,
        win_rate_adjusted=only.win_rate_adjusted if only else None,
        standard_error=only.standard_error if only else None,
        models=models,
    )


def _rating(value: Any, where: str) -> Rating:
    if not is_single(value):
        raise DataError(f"{where}: not a row of FastChat's ratings: `model`, `question_id`, `turn` and `score`")
    score = value["score"]
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float)) or not isfinite(score)):
        raise DataError(f"{where}: `score` is `{score}`, not a number")
    question_id = _question_id(value, where)
    return Rating(
        model=str(value["model"]),
        question_id=question_id,
        category=category_of(question_id),
        turn=_turn(value, where),
        score=None if score in (None, NO_RATING) else float(score),
    )


def _game(value: Any, where: str) -> Game:
    if not is_pair(value):
        raise DataError(f"{where}: not a row of FastChat's games: `model_1`, `model_2`, `g1_winner`, `g2_winner`")
    for key in ("g1_winner", "g2_winner"):
        if value[key] not in _WINNERS:
            raise DataError(f"{where}: `{key}` is `{value[key]}`, not one of {', '.join(_WINNERS)}")
    question_id = _question_id(value, where)
    return Game(
        model_1=str(value["model_1"]),
        model_2=str(value["model_2"]),
        question_id=question_id,
        category=category_of(question_id),
        turn=_turn(value, where),
        g1_winner=value["g1_winner"],
        g2_winner=value["g2_winner"],
    )


def _question_id(value: dict[str, Any], where: str) -> QuestionId:
    question_id = value["question_id"]
    if isinstance(question_id, bool) or not isinstance(question_id, (int, str)):
        raise DataError(f"{where}: `question_id` is `{question_id}`, not a number or a string")
    return question_id


def _turn(value: dict[str, Any], where: str) -> int:
    turn = value.get("turn", 1)
    if isinstance(turn, bool) or not isinstance(turn, int) or turn < 1:
        raise DataError(f"{where}: `turn` is `{turn}`, not a number from 1")
    return turn


def _judges(rows: list[Any]) -> tuple[str, ...]:
    """Give the names of the judges, in the order in which they first stand."""
    judges = [row.get("judge") for row in rows]
    names = [judge[0] if isinstance(judge, list) and judge else judge for judge in judges]
    return tuple(dict.fromkeys(str(name) for name in names if name))


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _left_out(count: int, name: str, num_duplicates: int) -> str:
    parts = [f"{count} {name}"] if count else []
    parts += [f"{num_duplicates} duplicates counted"] if num_duplicates else []
    return ", ".join(parts) or "-"
