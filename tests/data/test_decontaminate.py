"""What repeats 13 words in a row of a benchmark's item is found, and named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.data.decontaminate import NGRAM_WORDS, RejectContaminated
from ochatctl.errors import DataError

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
OTHER = "red green blue pink grey gold teal lime navy plum rust sand wine jade"


def check(tmp_path: Path, *items: Any) -> RejectContaminated:
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return RejectContaminated([path])


@pytest.mark.parametrize(
    ("item", "text", "found"),
    [
        ({"question": LONG}, LONG, True),
        ({"question": LONG}, f"Please: {LONG.upper().replace(' ', ', ')}!", True),
        ({"question": LONG}, " ".join(LONG.split()[2:]), True),
        ({"question": LONG}, " ".join(LONG.split()[3:]), False),
        ({"question": LONG}, " ".join(reversed(LONG.split())), False),
        ({"question": LONG}, LONG.replace("eight", "8"), False),
        ({"question": " ".join(LONG.split()[:8])}, f"so {LONG}", True),
        ({"question": "What is two plus two?"}, "Tell me: what is two plus two? And why?", False),
        ({"question": "What is two plus two?"}, "what is TWO plus two", True),
        ({"prompt": LONG}, LONG, True),
        ({"text": LONG}, LONG, True),
        ({"instruction": OTHER, "input": LONG}, LONG, True),
        ({"turns": [OTHER, LONG]}, LONG, True),
        ({"messages": [{"role": "user", "content": LONG}]}, LONG, True),
        ({"messages": [{"role": "user", "content": OTHER}, {"role": "assistant", "content": LONG}]}, LONG, False),
        ({"conversations": [{"from": "human", "value": LONG}]}, LONG, True),
        ({"question": "今天天气很好我们要沿着河边散步"}, "请问：今天天气很好，我们要沿着河边散步。", True),
        ({"question": LONG}, "", False),
        ({"question": "?!"}, "?!", False),
    ],
)
def test_a_text_that_repeats_an_item_is_found(tmp_path: Path, item: dict[str, Any], text: str, found: bool) -> None:
    rejected = check(tmp_path, item)(["something else", text])
    assert (rejected is not None) == found


def test_the_item_is_named_by_its_id_and_place(tmp_path: Path) -> None:
    both = check(tmp_path, {"question_id": 81, "turns": [LONG]}, {"question": OTHER})
    path = tmp_path / "bench.jsonl"
    named, unnamed = both([LONG]), both([OTHER])
    assert named is not None
    assert unnamed is not None
    assert (named.reason, named.detail, unnamed.detail) == ("contaminated", f"`81` ({path}:1)", f"{path}:2")


@pytest.mark.parametrize(
    "item", [{}, [], "text", {"question": " "}, {"answer": LONG}, {"turns": [3]}, {"messages": {}}]
)
def test_an_item_without_a_text_is_refused_by_its_line(tmp_path: Path, item: Any) -> None:
    with pytest.raises(DataError, match=r"bench.jsonl:2: no text to look for"):
        check(tmp_path, {"question": LONG}, item)


def test_a_benchmark_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        RejectContaminated([tmp_path / "none.jsonl"])


words = st.lists(st.sampled_from("abcd"), min_size=13, max_size=18)


@given(st.lists(words, min_size=1, max_size=3), words)
@settings(deadline=None, max_examples=15)
def test_exactly_the_texts_that_share_an_ngram_are_found(items: list[list[str]], text: list[str]) -> None:
    import tempfile

    def ngrams(of: list[str]) -> set[tuple[str, ...]]:
        return {tuple(of[start : start + NGRAM_WORDS]) for start in range(len(of) - NGRAM_WORDS + 1)}

    with tempfile.TemporaryDirectory() as folder:
        rule = check(Path(folder), *({"text": " ".join(item)} for item in items))
    near = items[0][: len(items[0]) - 1]
    for candidate in (text, near, [*text[:4], *items[-1]]):
        shared = any(ngrams(item) & ngrams(candidate) for item in items)
        assert (rule([" ".join(candidate)]) is not None) == shared
