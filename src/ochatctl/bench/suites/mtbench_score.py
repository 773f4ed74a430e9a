"""What a judge said of MT-bench's answers -> scores by turn and category, with their noise over the questions.

in: graded rows, out: one `SingleScore` or `PairScore` a model

Source: lm-sys/FastChat, `fastchat/llm_judge/show_result.py`: what counts, and how it is averaged. By category is the
radar plot of its notebook; the standard error is ours: over questions, for a question's two turns go together.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

# The 80 questions have the ids 81 to 160, ten a category.
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
FIRST_ID = 81

QuestionId = int | str
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """One rating of one answer; None is no rating, and counts nowhere but among the unparsed."""

    model: str
    question_id: QuestionId
    category: str
    turn: int
    score: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Game:
    """One answer of two models compared, once in each order: `model_1`, `model_2`, `tie` or `error`."""

    model_1: str
    model_2: str
    question_id: QuestionId
    category: str
    turn: int
    g1_winner: str
    g2_winner: str

    @property
    def is_error(self) -> bool:
        """Whether either judgment could not be read."""
        return "error" in (self.g1_winner, self.g2_winner)

    def points(self, model: str) -> float:
        """Give 1 where the model won in both orders, 0 where the other did, else a half: a tie."""
        if self.g1_winner == "tie" or self.g1_winner != self.g2_winner:
            return 0.5
        return float(model == (self.model_1 if self.g1_winner == "model_1" else self.model_2))


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleScore:
    """A model's mean rating, from 1 to 10, over all rows that have one: so turns weigh as many rows as they have."""

    model: str
    score: float | None
    standard_error: float | None
    by_turn: dict[str, float | None]
    by_category: dict[str, float | None]
    num_rows: int
    num_unparsed: int
    # Rows beyond the first of a question and turn: FastChat counts them all.
    num_duplicates: int
    duplicates: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairScore:
    """A model's games. Rates are ratios; `win_rate_adjusted` = (win + tie / 2) / (win + loss + tie)."""

    model: str
    win: int
    loss: int
    tie: int
    win_rate: float | None
    loss_rate: float | None
    win_rate_adjusted: float | None
    standard_error: float | None
    by_turn: dict[str, float | None]
    by_category: dict[str, float | None]
    num_rows: int
    num_errors: int
    num_duplicates: int
    duplicates: tuple[str, ...]


def category_of(question_id: QuestionId) -> str:
    """Give the category of one of the 80 questions by its id; `other` for any other."""
    place = question_id - FIRST_ID if isinstance(question_id, int) else -1
    return CATEGORIES[place // 10] if 0 <= place < 80 else "other"


def score_single(ratings: Iterable[Rating]) -> list[SingleScore]:
    """Give each model's score, the best first."""
    by_model = _grouped(ratings, lambda rating: rating.model)
    scores = [_single(model, rows) for model, rows in by_model.items()]
    return sorted(scores, key=lambda score: (score.score is None, -(score.score or 0.0), score.model))


def score_pairs(games: Iterable[Game], baseline: str | None = None) -> list[PairScore]:
    """Give each model's score over its games, the best first; with a baseline, over its games against that one."""
    every = [game for game in games if baseline is None or baseline in (game.model_1, game.model_2)]
    models = sorted({game.model_1 for game in every} | {game.model_2 for game in every})
    scores = [
        _pair(model, [game for game in every if model in (game.model_1, game.model_2)])
        for model in models
        if model != baseline
    ]
    return sorted(scores, key=lambda score: (-(score.win_rate_adjusted or 0.0), score.model))


def by_question(values: Iterable[tuple[QuestionId, float]]) -> dict[QuestionId, float]:
    """Give each question's mean: what a bootstrap over questions draws from."""
    groups = _grouped(values, lambda pair: pair[0])
    return {question_id: fmean(value for _, value in pairs) for question_id, pairs in groups.items()}


def standard_error(means: Sequence[float]) -> float | None:
    """Give the standard error of the mean of independent values; None for fewer than two."""
    if len(means) < 2:
        return None
    middle = fmean(means)
    return math.sqrt(sum((value - middle) ** 2 for value in means) / (len(means) - 1) / len(means))


def _single(model: str, rows: Sequence[Rating]) -> SingleScore:
    good = [(row, row.score) for row in rows if row.score is not None]
    questions = by_question((row.question_id, score) for row, score in good)
    twice = _twice([(row.question_id, row.turn) for row in rows])
    return SingleScore(
        model=model,
        score=_mean([score for _, score in good]),
        standard_error=standard_error(list(questions.values())),
        by_turn=_means((str(row.turn), score) for row, score in good),
        by_category=_means((row.category, score) for row, score in good),
        num_rows=len(rows),
        num_unparsed=len(rows) - len(good),
        num_duplicates=sum(count - 1 for count in twice.values()),
        duplicates=tuple(twice),
    )


def _pair(model: str, games: Sequence[Game]) -> PairScore:
    good = [(game, game.points(model)) for game in games if not game.is_error]
    win, loss = (sum(points == value for _, points in good) for value in (1.0, 0.0))
    questions = by_question((game.question_id, points) for game, points in good)
    twice = _twice([(game.question_id, game.turn, *sorted((game.model_1, game.model_2))) for game in games])
    return PairScore(
        model=model,
        win=win,
        loss=loss,
        tie=len(good) - win - loss,
        win_rate=win / len(good) if good else None,
        loss_rate=loss / len(good) if good else None,
        win_rate_adjusted=_mean([points for _, points in good]),
        standard_error=standard_error(list(questions.values())),
        by_turn=_means((str(game.turn), points) for game, points in good),
        by_category=_means((game.category, points) for game, points in good),
        num_rows=len(games),
        num_errors=len(games) - len(good),
        num_duplicates=sum(count - 1 for count in twice.values()),
        duplicates=tuple(twice),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _means(values: Iterable[tuple[str, float]]) -> dict[str, float | None]:
    groups = _grouped(values, lambda pair: pair[0])
    order = {name: place for place, name in enumerate(CATEGORIES)}
    names = sorted(groups, key=lambda name: (order.get(name, len(order)), name))
    return {name: _mean([value for _, value in groups[name]]) for name in names}


def _twice(keys: Sequence[tuple[QuestionId, ...]]) -> dict[str, int]:
    """Give what stands more than once, named as `question 81, turn 1`, with how often."""
    counts = {key: len(same) for key, same in _grouped(keys, lambda key: key).items()}
    return {
        f"question {key[0]}, turn {key[1]}" + (f", {key[2]} and {key[3]}" if len(key) > 2 else ""): count
        for key, count in counts.items()
        if count > 1
    }


def _grouped(values: Iterable[V], key: Callable[[V], K]) -> Mapping[K, list[V]]:
    groups: dict[K, list[V]] = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return groups
