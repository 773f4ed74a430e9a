"""Scores and what stands beside them."""

import math
from pathlib import Path

import pytest

from ochatctl.bench.journal import Record
from ochatctl.bench.report import make_report
from ochatctl.bench.task import Item, Task


def task(name: str, labels: str) -> Task:
    items = [
        Item(id=f"{name}:{i}", prompt="?", labels=(label,), extractor="letter", options=("x", "y", "z"))
        for i, label in enumerate(labels)
    ]
    return Task(name=name, items=tuple(items))


def test_every_item_is_counted_under_one_heading() -> None:
    records = [
        Record(id="t:0", text="A", num_prompt_tokens=10, num_answer_tokens=1),
        Record(id="t:1", text="The answer is B", num_prompt_tokens=11, num_answer_tokens=5),
        Record(id="t:2", text="B"),
        Record(id="t:3", text="hard to say"),
        Record(id="t:4", error="RemoteError: busy"),
        Record(id="gone:9", error="RemoteError: of a larger limit"),
    ]
    report = make_report([task("t", "ABCABC")], records, model="m", journal=Path("j"))
    line = report.overall
    assert (line.num_right, line.num_wrong, line.num_unmatched, line.num_errors, line.num_unasked) == (2, 1, 1, 1, 1)
    assert line.num_items == 6
    assert (line.num_prompt_tokens, line.num_answer_tokens) == (21, 6)
    # An error is no answer; an unmatched answer is one, and is not right.
    assert line.score == 0.5
    assert line.standard_error == pytest.approx(math.sqrt(0.25 / 3))
    assert report.errors == ("t:4: RemoteError: busy",)


def test_the_standard_error_is_the_sample_s_deviation_over_the_root_of_its_size() -> None:
    import statistics

    records = [Record(id=f"t:{i}", text=text) for i, text in enumerate("AABAC")]
    line = make_report([task("t", "AAAAA")], records, model="m", journal=Path("j")).overall
    assert line.standard_error == pytest.approx(statistics.stdev([1, 1, 0, 1, 0]) / math.sqrt(5))


def test_overall_counts_every_item_once() -> None:
    records = [Record(id="s:0", text="A"), *(Record(id=f"l:{i}", text="B") for i in range(3))]
    report = make_report([task("s", "A"), task("l", "AAA")], records, model="m", journal=Path("j"))
    assert [line.score for line in report.tasks] == [1.0, 0.0]
    assert report.overall.score == 0.25


def test_nothing_answered_gives_no_score() -> None:
    records = [Record(id="t:0", error="RemoteError: busy")]
    line = make_report([task("t", "A")], records, model="m", journal=Path("j")).overall
    assert (line.score, line.standard_error) == (None, None)
    one = make_report([task("t", "A")], [Record(id="t:0", text="A")], model="m", journal=Path("j")).overall
    assert (one.score, one.standard_error) == (1.0, None)
