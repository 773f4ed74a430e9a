"""A malformed value costs only itself, a cut-off text gives all that is whole, and no text makes the reader fail."""

import io
import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ochatctl.data.json_stream import CUT_OFF, NOT_JSON, decode_lines, decode_stream

TURNS = [{"from": "human", "value": 'a "b" {c}, [d] \\ é\n'}, {"from": "gpt", "value": "}, {x: ]"}]
ITEMS: list[dict[str, Any]] = [{"id": str(n), "conversations": TURNS, "n": n} for n in range(5)]
TEXTS = [json.dumps(item) for item in ITEMS]


def decode(text: str, chunk_chars: int = 1 << 20) -> tuple[list[Any], list[str]]:
    decoded = list(decode_stream(io.StringIO(text), chunk_chars=chunk_chars))
    return [each.value for each in decoded if not each.problem], [each.problem for each in decoded if each.problem]


def broken(text: str, *, between: str = ", ") -> str:
    return "[" + between.join([*TEXTS[:2], text, *TEXTS[3:]]) + "]"


OTHERS = [*ITEMS[:2], *ITEMS[3:]]


@pytest.mark.parametrize(
    "text",
    [
        TEXTS[2].replace('"conversations": ', '"conversations" '),
        TEXTS[2].replace('"conversations"', "conversations"),
        TEXTS[2].replace('{"id"', '{id"'),
        TEXTS[2].replace('"n": 2}', '"n": }'),
        TEXTS[2].replace('"n": 2}', '"n": 2'),
        TEXTS[2].replace('"n": 2}', '"n": 2,}'),
        TEXTS[2].replace("a \\", "a "),
        TEXTS[2].replace('b\\"', 'b"'),
        TEXTS[2].replace('a \\"b\\"', 'a "b"'),
        TEXTS[2].replace("}], ", "}, "),
        TEXTS[2].replace("[{", "{"),
        TEXTS[2].replace("\\u00e9", "\t"),
        TEXTS[2].replace("\\u00e9", "\\u00g9"),
        TEXTS[2].replace('"', "'"),
        TEXTS[2][:-20],
        "nul",
        "}",
        '{"a": ' + "9" * 5000 + "}",
        "[" * 100_000 + "]" * 100_000,
    ],
    ids=lambda text: str(text)[:40],
)
@pytest.mark.parametrize("between", [", ", ",\n", ",\n  "])
def test_a_malformed_member_costs_only_itself(text: str, between: str) -> None:
    values, problems = decode(broken(text, between=between))
    assert [value for value in values if value in ITEMS] == OTHERS
    assert problems
    assert problems[0] == NOT_JSON


def test_what_stands_between_members_is_one_problem() -> None:
    assert decode(broken(TEXTS[2] + "}")) == (ITEMS, [NOT_JSON])


def test_a_member_that_is_balanced_is_one_problem() -> None:
    values, problems = decode(broken(TEXTS[2].replace("2", "2 2")))
    assert (values, problems) == (OTHERS, [NOT_JSON])


def test_parts_that_begin_as_their_item_are_not_taken_for_items() -> None:
    item = '{"id": 1, "turns": [{"id": 1}, {"id": 2}], "n" 1, "more": [{"id": 3}, {"id": 4}]}'
    values, problems = decode(f'[{{"id": 0}}, {item}, {{"id": 9}}]')
    assert (values, problems) == ([{"id": 0}, {"id": 9}], [NOT_JSON])


def test_members_that_begin_otherwise_are_found_after_a_balanced_one() -> None:
    values, problems = decode('[{"id": 0}, {"id": 1 1}, {"other": 2}, {"id": 3}]')
    assert (values, problems) == ([{"id": 0}, {"other": 2}, {"id": 3}], [NOT_JSON])


def test_a_malformed_member_longer_than_a_chunk_costs_only_itself() -> None:
    for text in (TEXTS[2].replace('"n": 2', '"n" 2'), TEXTS[2].replace("a \\", "a ")):
        values, problems = decode(broken(text), chunk_chars=64)
        assert (values, problems) == (OTHERS, [NOT_JSON])


def test_arrays_one_after_another_are_all_read() -> None:
    assert decode("[1, 2]\n[3]\n\n[]") == ([1, 2, 3], [])
    assert decode("") == ([], [])
    assert decode("[]") == ([], [])


def test_several_values_on_a_line_are_all_read() -> None:
    assert decode('{"a": 1}{"a": 2} {"a": [3]}') == ([{"a": 1}, {"a": 2}, {"a": [3]}], [])


@given(cut=st.integers(1, len(json.dumps(ITEMS)) - 1), chunk=st.sampled_from([16, 100, 1 << 20]))
@settings(deadline=None, max_examples=60)
def test_a_text_cut_off_anywhere_gives_all_whole_members_and_one_problem(cut: int, chunk: int) -> None:
    text, ends = json.dumps(ITEMS), [0]
    for item in TEXTS:
        ends.append(text.index(item, ends[-1]) + len(item))
    values, problems = decode(text[:cut], chunk)
    assert values == ITEMS[: sum(end <= cut for end in ends[1:])]
    assert problems == [CUT_OFF]


@given(st.text(alphabet='{}[]",:\\ \n0ae-.', max_size=40))
@settings(deadline=None, max_examples=200)
def test_no_text_makes_the_reader_fail_or_hang(text: str) -> None:
    decode(text)
    decode(f"[{text}")
    list(decode_lines(io.StringIO(text)))


@given(at=st.integers(1, len(TEXTS[2]) - 2), char=st.sampled_from('"{}],:x'), instead=st.booleans())
@settings(deadline=None, max_examples=60)
def test_one_wrong_character_inside_a_member_leaves_the_others(at: int, char: str, instead: bool) -> None:
    text = TEXTS[2][:at] + char + TEXTS[2][at + instead :]
    try:
        json.loads(text)
    except ValueError:
        values, problems = decode(broken(text))
        assert [value for value in values if value in ITEMS] == OTHERS
        assert problems
    else:
        assume(False)


def test_a_line_too_long_is_one_problem_and_the_next_is_read() -> None:
    text = '{"a": 1}\n' + "x" * 50 + "\n12345678901234567890\n[3]"
    lines = list(decode_lines(io.StringIO(text), longest_chars=20))
    assert [(number, each.value) for number, each in lines if not each.problem] == [
        (1, {"a": 1}), (3, 12345678901234567890), (4, [3]),
    ]  # fmt: skip
    assert [(number, each.problem) for number, each in lines if each.problem] == [(2, "a line is too long")]
