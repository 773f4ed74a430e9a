"""What MT-bench's judge is asked, and what is read from its words."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mtbench_for_tests import write_files

from ochatctl.bench.suites.mtbench_judge import (
    PROMPTS,
    Asked,
    pair_cases,
    prompt_name,
    rating,
    read_prompts,
    single_cases,
    winner,
)
from ochatctl.errors import DataError

# Words, as FastChat reads them (None: its -1), as we do (None: asked again).
RATINGS = [
    ("Rating: [[7]]", 7.0, 7.0),
    ("Rating: [[7.5]]", 7.5, 7.5),
    ("Rating: [7]", 7.0, 7.0),
    ("[[ 7 ]]", None, 7.0),
    ("[[7/10]]", None, 7.0),
    ("arr[0] is wrong. Rating: 3", 0.0, 3.0),
    ("arr[0] is wrong, and that is that", 0.0, None),
    ("I first thought [[5]], but no: [[8]]", 5.0, 8.0),
    ("[[11]]", 11.0, None),
    ("[[0]]", 0.0, None),
    ("[[9]] of [[10]], so [[99]]", 9.0, None),
    ("[[07]]", None, 7.0),
    ("**Rating**: 6", None, 6.0),
    ("Rating: 6/10", None, 6.0),
    ("Rating: 60", None, None),
    ("It deserves a high rating", None, None),
    ("", None, None),
    ("$ERROR$", None, None),
]
WINNERS = [
    ("[[A]]", "A", "A"),
    ("[[B]]", "B", "B"),
    ("[[C]]", "tie", "tie"),
    ("Not [[A]], but [[B]]", "A", "B"),
    ("[[ B ]]", None, "B"),
    ("[A]", None, None),
    ("A", None, None),
    ("[[D]]", None, None),
]
TALK = Asked(question_id=81, turns=("Who?", "Why?"), needs_reference=False)
SUM = Asked(question_id=111, turns=("1 + 1?", "Twice?"), needs_reference=True, reference=("Two.", "Four."))
ONE = Asked(question_id=900, turns=("Hello?",), needs_reference=False)


@pytest.mark.parametrize(("text", "theirs", "ours"), RATINGS)
def test_a_rating_is_read_as_fastchat_does_or_more_strictly(
    text: str, theirs: float | None, ours: float | None
) -> None:
    assert rating("fastchat")(text) == theirs
    assert rating(None)(text) == ours


@pytest.mark.parametrize(("text", "theirs", "ours"), WINNERS)
def test_a_winner_is_read_as_fastchat_does_or_the_last_one_named(
    text: str, theirs: str | None, ours: str | None
) -> None:
    assert winner("fastchat")(text) == theirs
    assert winner(None)(text) == ours


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet="[]0123456789./ Rating:ABC"))
def test_what_is_read_is_always_a_rating_from_1_to_10(text: str) -> None:
    value = rating(None)(text)
    assert value is None or 1 <= value <= 10
    assert winner(None)(text) in ("A", "B", "tie", None)


@pytest.fixture
def prompts_path(tmp_path: Path) -> Path:
    return write_files(tmp_path)["judge_prompts"]


def test_each_turn_has_its_prompt_and_maths_sees_the_reference(prompts_path: Path) -> None:
    prompts = read_prompts(prompts_path)
    answers = {81: ("Me.", "So."), 111: ("2", "4"), 900: ("Hi.",)}
    cases = single_cases((TALK, SUM, ONE), answers, prompts)
    assert [case.id for case in cases] == ["81:1", "81:2", "111:1", "111:2", "900:1"]
    assert cases[0].prompt == "Q: Who?\nanswer: Me."
    assert cases[1].prompt == "Q1: Who?\nQ2: Why?\nanswer: Me. / So."
    assert cases[2].prompt == "Q: 1 + 1?\nR: Two.\nanswer: 2"
    assert cases[3].prompt == "Q1: 1 + 1?\nQ2: Twice?\nR1: Two.\nR2: Four.\nanswer: 2 / 4"
    assert [case.system for case in cases] == [
        f"Judge {name}."
        for name in ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn", "single-v1")
    ]
    assert all((case.ask.temperature, case.ask.max_tokens) == (0.0, 2048) for case in cases)


def test_pairs_are_shown_in_both_orders_to_all_eight_prompts_in_all(prompts_path: Path) -> None:
    prompts = read_prompts(prompts_path)
    ours, theirs = {81: ("a", "b"), 111: ("c", "d")}, {81: ("w", "x"), 111: ("y", "z")}
    cases = pair_cases((TALK, SUM), ours, theirs, prompts)
    games = [f"{turn}:{game}" for turn in (1, 2) for game in ("g1", "g2")]
    assert [case.id for case in cases] == [f"{question_id}:{game}" for question_id in (81, 111) for game in games]
    assert cases[0].prompt == "Q: Who?\nanswer_a: a\nanswer_b: w"
    assert cases[1].prompt == "Q: Who?\nanswer_a: w\nanswer_b: a"
    assert cases[6].prompt.endswith("answer_a: c / d\nanswer_b: y / z")
    names = {prompt_name(mode, each, turn) for mode in ("single", "pair") for each in (TALK, SUM) for turn in (1, 2)}
    assert names == set(PROMPTS)


def test_a_brace_in_an_answer_is_a_brace(prompts_path: Path) -> None:
    (case, *_) = single_cases((TALK,), {81: ("{question} {answer_a} {0}", "x")}, read_prompts(prompts_path))
    assert case.prompt == "Q: Who?\nanswer: {question} {answer_a} {0}"


def test_what_was_not_answered_is_not_judged(prompts_path: Path) -> None:
    prompts = read_prompts(prompts_path)
    assert single_cases((TALK, ONE), {900: ("Hi.",)}, prompts)[0].id == "900:1"
    assert pair_cases((TALK,), {81: ("a", "b")}, {}, prompts) == []


def test_a_file_without_all_prompts_or_with_a_strange_slot_is_refused(tmp_path: Path, prompts_path: Path) -> None:
    lines = prompts_path.read_text().splitlines()
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(lines[1:]))
    with pytest.raises(DataError, match="no prompt `single-v1`"):
        read_prompts(short)
    short.write_text('{"name": "single-v1"}')
    with pytest.raises(DataError, match=r"short\.jsonl:1: not a judge prompt"):
        read_prompts(short)
    short.write_text("\n".join(lines).replace("{answer}", "{anwser}"))
    with pytest.raises(DataError, match=r"`single-v1`: nothing to put in its slot `\{anwser\}`"):
        single_cases((TALK,), {81: ("a", "b")}, read_prompts(short))
