"""Results on disk, in numbers, and compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ochatctl.bench.journal import Journal, Record
from ochatctl.bench.results import FILE_NAME, Line, Question, Result, read_result, write_result
from ochatctl.bench.summary import compare, shown, summarise
from ochatctl.errors import DataError

RESULT = Result(
    suite="mtbench",
    model="ours",
    measure="score",
    unit="points",
    judge="a-judge",
    protocol={"mode": "single"},
    notes=("one judgment was asked again",),
    questions=(
        Question(id="81", group="writing", scores={"1": 8.0, "2": 6.0}, status="scored"),
        Question(
            id="82",
            group="writing",
            scores={"1": 4.0},
            status="unreadable",
            transcript=(Line(role="user", text="<b>"), Line(role="assistant", text="ü")),
        ),
        Question(id="111", group="math", scores={}, status="error"),
        Question(id="112", group="math", scores={"1": 1.0, "2": 2.0}, status="scored"),
    ),
)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path, RESULT)
    assert read_result(tmp_path) == RESULT
    assert read_result(tmp_path / FILE_NAME) == RESULT


def test_parts_add_up() -> None:
    summary = summarise(RESULT)
    assert summary.overall.estimate.value == pytest.approx((8 + 6 + 4 + 1 + 2) / 5)
    assert [part.name for part in summary.groups] == ["writing", "math"]
    assert [part.estimate.value for part in summary.groups] == [6.0, 1.5]
    assert [(part.name, part.estimate.value) for part in summary.turns] == [
        ("turn 1", pytest.approx(13 / 3)),
        ("turn 2", 4.0),
    ]
    assert (summary.overall.num_unreadable, summary.overall.num_errors) == (1, 1)
    assert summarise(replace(RESULT, questions=RESULT.questions[-1:] + RESULT.questions[2:3])).overall.num_errors == 1


def test_a_turn_counts_only_what_it_lacks_itself() -> None:
    first, second = summarise(RESULT).turns
    assert (first.num_unreadable, first.num_errors) == (0, 1)
    assert (second.num_unreadable, second.num_errors) == (1, 1)


def answered(flags: dict[str, str], full_sizes: dict[str, int] | None = None) -> Result:
    """Give a graded run: of each task its answers, `+` is right, `-` is wrong and `?` was not answered."""
    return Result(
        suite="suite",
        model="ours",
        measure="accuracy",
        unit="ratio",
        full_sizes=full_sizes or {},
        questions=tuple(
            Question(
                id=f"{task}:{number}",
                group=task,
                scores={} if flag == "?" else {"1": float(flag == "+")},
                status="error" if flag == "?" else "scored",
            )
            for task, text in flags.items()
            for number, flag in enumerate(text, start=1)
        ),
    )


def test_tasks_of_a_drawn_subset_weigh_as_many_questions_as_they_have() -> None:
    flags, sizes = {"large": "+++-", "small": "--?"}, {"large": 900, "small": 100}
    drawn, whole = answered(flags, sizes), answered(flags)
    assert summarise(drawn).overall.estimate.value == pytest.approx(0.9 * 0.75)
    assert summarise(whole).overall.estimate.value == pytest.approx(3 / 6)
    assert summarise(drawn).overall.num_errors == 1
    # None right of a few is not certain: the interval is no single point.
    assert summarise(drawn).groups[1].estimate.high != 0
    better = answered({"large": "++++", "small": "--?"}, sizes)
    found = compare(drawn, better).overall
    assert (found.first, found.second) == (
        summarise(drawn).overall.estimate.value,
        summarise(better).overall.estimate.value,
    )
    assert found.value == pytest.approx(0.9 * 0.25)
    # Beside a run of all questions the ones that both have stand for as many.
    assert compare(whole, better).overall.value == pytest.approx(0.9 * 0.25)


def test_suites_of_several_tasks_have_a_line_of_their_own() -> None:
    flags = {"bbh/navigate": "+-", "bbh/snarks": "++", "gsm8k": "--", "agieval/lsat": "+", "agieval/sat": "-"}
    summary = summarise(answered(flags))
    assert [(part.name, part.estimate.value) for part in summary.suites] == [("bbh", 0.75), ("agieval", 0.5)]
    assert [part.name for part in summary.at_a_glance] == ["bbh", "gsm8k", "agieval"]
    assert [part.name for part in summary.groups] == list(flags)
    found = compare(answered(flags), answered(flags | {"bbh/snarks": "--"}))
    assert {name: one and one.value for name, one in found.suites.items()} == {"bbh": -0.5, "agieval": 0}
    assert summarise(answered({"bbh/navigate": "+-", "bbh/snarks": "++"})).suites == ()


def test_a_comparison_is_question_by_question() -> None:
    better = replace(
        RESULT,
        questions=tuple(
            replace(one, scores={turn: score + 1 for turn, score in one.scores.items()}) for one in RESULT.questions
        ),
    )
    found = compare(RESULT, better)
    assert found.overall.value == pytest.approx(1)
    assert not found.overall.is_noise
    assert found.overall.num_questions == 3
    assert found.groups["math"] is None  # one question alone says nothing
    assert compare(RESULT, RESULT).overall.is_noise


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judge": "another"}, "judge differs: `a-judge`, `another`"),
        ({"protocol": {"mode": "pairwise"}}, "protocol differs"),
        ({"suite": "alpacaeval"}, "suite differs"),
        ({"questions": ()}, "fewer than two questions"),
    ],
)
def test_what_is_not_comparable_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        compare(RESULT, replace(RESULT, **change))


def test_a_score_is_shown_in_its_unit() -> None:
    assert (shown(7.1875, "points"), shown(0.895, "ratio"), shown(None, "ratio")) == ("7.19", "89.5", "-")


@pytest.mark.parametrize(
    ("line", "value", "said"),
    [
        (0, {"format": "other"}, "not a file of"),
        (0, {"version": 2}, "reads up to 1"),
        (0, {"unit": "inches"}, "`unit` is `inches`"),
        (1, {"scores": {"1": "8"}}, r"questions.jsonl:2: `scores`.1 is `8`"),
        (1, {"status": "fine"}, "`status` is `fine`"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, line: int, value: dict[str, Any], said: str) -> None:
    path = write_result(tmp_path, RESULT)
    lines = path.read_text().splitlines()
    lines[line] = json.dumps({**json.loads(lines[line]), **value})
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=said):
        read_result(tmp_path)


def test_a_run_without_a_score_yet_says_how_far_it_is(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl", {"suite": "suite"}) as journal:
        journal.append(Record(id="a:1", text="b"))
        journal.append(Record(id="a:2", error="RemoteError: gone"))
    with pytest.raises(DataError, match="1 answer so far, and no score yet") as raised:
        read_result(tmp_path)
    assert "the command that began the run goes on with it" in raised.value.hint


def test_a_folder_that_is_not_scored_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no `questions.jsonl` of a scored run"):
        read_result(tmp_path)
