"""A result in numbers: over all, by suite, by category or task, by turn, with what could not be scored beside them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ochatctl.bench.accuracy import Stratum, accuracy
from ochatctl.bench.noise import Difference, Estimate, difference, estimate
from ochatctl.bench.results import ACCURACY, Question, Result, comparable
from ochatctl.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One line of a report: a suite, a category, a task, or a turn."""

    name: str
    estimate: Estimate
    num_unmatched: int
    num_unreadable: int
    num_errors: int
    num_unasked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A result's parts; `turns` is empty where a question has one score only.

    `suites` are those of which several tasks were asked, beside other suites: `bbh` for `bbh/navigate` and the others.
    """

    suite: str
    model: str
    judge: str
    measure: str
    unit: str
    protocol: dict[str, str]
    overall: Part
    groups: tuple[Part, ...]
    suites: tuple[Part, ...]
    turns: tuple[Part, ...]
    notes: tuple[str, ...]
    num_duplicates: int
    num_prompt_tokens: int
    num_answer_tokens: int
    seconds: float

    @property
    def at_a_glance(self) -> tuple[Part, ...]:
        """The suites, and each group that is in none of them: few enough to be seen at once."""
        named = {part.name: part for part in (*self.suites, *self.groups)}
        tops = [_suite_of(part.name) for part in self.groups]
        names = [top if top in named else part.name for top, part in zip(tops, self.groups, strict=True)]
        return tuple(named[name] for name in dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two results over the questions that they share; a suite or group that has too few of them is None."""

    first: Summary
    second: Summary
    overall: Difference
    suites: dict[str, Difference | None]
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
        overall=_part("all", result, result.questions),
        groups=tuple(_part(name, result, members) for name, members in _by_group(result.questions).items()),
        suites=tuple(_part(name, result, members) for name, members in _by_suite(result).items()),
        turns=tuple(_part(f"turn {turn}", result, result.questions, turn) for turn in turns) if len(turns) > 1 else (),
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
    weights = _weights(first, second)

    def differ(some: Sequence[Question], others: Sequence[Question]) -> Difference | None:
        return difference(_scores(some), _scores(others), weights)

    overall = differ(first.questions, second.questions)
    if overall is None:
        raise DataError("these two runs share fewer than two questions that both have a score of")
    groups, suites = _by_group(second.questions), _by_suite(second)
    return Comparison(
        first=summarise(first),
        second=summarise(second),
        overall=overall,
        suites={name: differ(some, suites.get(name, ())) for name, some in _by_suite(first).items()},
        groups={name: differ(some, groups.get(name, ())) for name, some in _by_group(first.questions).items()},
    )


def shown(value: float | None, unit: str) -> str:
    """Give a score as a person reads it: 7.19 points, or 89.5 for a ratio in percent."""
    if value is None:
        return "-"
    text = f"{100 * value:.1f}" if unit == "ratio" else f"{value:.2f}"
    # A negative number too small to be seen is a nought.
    return text.removeprefix("-") if float(text) == 0 else text


def _part(name: str, result: Result, questions: Sequence[Question], turn: str | None = None) -> Part:
    # Of a turn only what that turn lacks: a question whose other turn was read does not count here.
    counts = Counter(question.status for question in questions if turn is None or turn not in question.scores)
    return Part(
        name=name,
        estimate=_accuracy(result, questions) if result.measure == ACCURACY else estimate(_scores(questions, turn)),
        num_unmatched=counts["unmatched"],
        num_unreadable=counts["unreadable"],
        num_errors=counts["error"],
        num_unasked=counts["unasked"],
    )


def _accuracy(result: Result, questions: Sequence[Question]) -> Estimate:
    """Give the score by the law of the report: of a drawn subset, that of all questions."""
    strata = []
    for name, members in _by_group(questions).items():
        flags = [score == 1 for question in members for score in question.scores.values()]
        num_items = result.full_sizes.get(name, len(members))
        strata.append(Stratum(num_items=num_items, num_answered=len(flags), num_right=sum(flags)))
    found = accuracy(strata, is_subset=bool(result.full_sizes))
    low, high = found.interval or (None, None)
    return Estimate(
        value=found.score,
        standard_error=found.standard_error,
        low=low,
        high=high,
        num_questions=sum(one.num_answered for one in strata),
    )


def _weights(first: Result, second: Result) -> dict[str, float]:
    """Say how many questions each one that both have stands for, where a subset was drawn."""
    sizes = first.full_sizes or second.full_sizes
    both = {question.id for question in first.questions if question.scores}
    both &= {question.id for question in second.questions if question.scores}
    shared = [question for question in first.questions if question.id in both and question.group in sizes]
    counts = Counter(question.group for question in shared)
    return {question.id: sizes[question.group] / counts[question.group] for question in shared}


def _suite_of(group: str) -> str:
    return group.partition("/")[0]


def _by_group(questions: Sequence[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.group, []).append(question)
    return found


def _by_suite(result: Result) -> dict[str, list[Question]]:
    """Give the questions of each suite of several tasks; none where all are of one."""
    num_tasks = Counter(_suite_of(name) for name in result.groups)
    several = [name for name, count in num_tasks.items() if count > 1] if len(num_tasks) > 1 else []
    return {name: [one for one in result.questions if _suite_of(one.group) == name] for name in several}


def _scores(questions: Sequence[Question], turn: str | None = None) -> dict[str, list[float]]:
    """Give each question's scores by its id, of one turn or of all."""
    return {
        question.id: [score for name, score in sorted(question.scores.items()) if turn in (None, name)]
        for question in questions
    }
