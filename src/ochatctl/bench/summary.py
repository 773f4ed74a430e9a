"""A result in numbers: over all, by category or task, by turn, with what could not be scored counted beside them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ochatctl.bench.noise import Difference, Estimate, difference, estimate
from ochatctl.bench.results import Question, Result, comparable
from ochatctl.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One line of a report: a category, a task, or a turn."""

    name: str
    estimate: Estimate
    num_unmatched: int
    num_unreadable: int
    num_errors: int
    num_unasked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A result's parts; `turns` is empty where a question has one score only."""

    suite: str
    model: str
    judge: str
    measure: str
    unit: str
    protocol: dict[str, str]
    overall: Part
    groups: tuple[Part, ...]
    turns: tuple[Part, ...]
    notes: tuple[str, ...]
    num_duplicates: int
    num_prompt_tokens: int
    num_answer_tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two results over the questions that they share; a group that has too few of them is None."""

    first: Summary
    second: Summary
    overall: Difference
    groups: dict[str, Difference | None]


def summarise(result: Result) -> Summary:
    """Give the numbers of a result."""
    turns = sorted({turn for question in result.questions for turn in question.scores})
    return Summary(
        suite=result.suite,
        model=result.model,
        judge=result.judge,
        measure=result.measure,
        unit=result.unit,
        protocol=result.protocol,
        overall=_part("all", result.questions),
        groups=tuple(
            _part(name, [question for question in result.questions if question.group == name]) for name in result.groups
        ),
        turns=tuple(_part(f"turn {turn}", result.questions, turn) for turn in turns) if len(turns) > 1 else (),
        notes=result.notes,
        num_duplicates=result.num_duplicates,
        num_prompt_tokens=result.num_prompt_tokens,
        num_answer_tokens=result.num_answer_tokens,
        seconds=result.seconds,
    )


def compare(first: Result, second: Result) -> Comparison:
    """Give `second - first`, question by question.

    Raises:
        DataError: scores of different things (suite, judge, protocol), or fewer than two questions in common.
    """
    reason = comparable([first, second])
    if reason:
        raise DataError(f"these two runs cannot be compared: {reason}", hint="ochatctl bench list")
    overall = difference(_scores(first.questions), _scores(second.questions))
    if overall is None:
        raise DataError("these two runs share fewer than two questions that both have a score of")
    return Comparison(
        first=summarise(first),
        second=summarise(second),
        overall=overall,
        groups={
            name: difference(
                _scores([question for question in first.questions if question.group == name]),
                _scores([question for question in second.questions if question.group == name]),
            )
            for name in first.groups
        },
    )


def shown(value: float | None, unit: str) -> str:
    """Give a score as a person reads it: 7.19 points, or 89.5 for a ratio in percent."""
    if value is None:
        return "-"
    text = f"{100 * value:.1f}" if unit == "ratio" else f"{value:.2f}"
    # A negative number too small to be seen is a nought.
    return text.removeprefix("-") if float(text) == 0 else text


def _part(name: str, questions: Sequence[Question], turn: str | None = None) -> Part:
    counts = Counter(question.status for question in questions)
    return Part(
        name=name,
        estimate=estimate(_scores(questions, turn)),
        num_unmatched=counts["unmatched"],
        num_unreadable=counts["unreadable"],
        num_errors=counts["error"],
        num_unasked=counts["unasked"],
    )


def _scores(questions: Sequence[Question], turn: str | None = None) -> dict[str, list[float]]:
    """Give each question's scores by its id, of one turn or of all."""
    return {
        question.id: [score for name, score in sorted(question.scores.items()) if turn in (None, name)]
        for question in questions
    }
