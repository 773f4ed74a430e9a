"""Reports of scored runs; the page is looked at in Chromium by test_page."""

import csv
import io
import json
from dataclasses import replace

import pytest

from ochatctl.bench.anchors import anchors, anchors_of
from ochatctl.bench.charts import bars, radar
from ochatctl.bench.export import (
    DIFFERENCE_COLUMNS,
    difference_line,
    difference_rows,
    published_table,
    rows,
    to_csv,
    to_html,
    to_json,
    to_markdown,
)
from ochatctl.bench.results import Line, Question, Result
from ochatctl.bench.summary import compare, summarise

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
CATEGORIES = ("writing", "math", "stem")


def result(shift: float = 0.0, *, judge: str = "a-judge", model: str = "ours") -> Result:
    return Result(
        suite="mtbench",
        model=model,
        measure="score",
        unit="points",
        judge=judge,
        protocol={"mode": "single"},
        questions=tuple(
            Question(
                id=str(number),
                group=CATEGORIES[number % 3],
                scores={"1": 3.0 + number % 4 + shift, "2": 2.0 + number % 3 + shift},
                status="scored",
                transcript=(Line(role="user", text=EVIL), Line(role="judge", text="[[5]]")),
            )
            for number in range(12)
        ),
        notes=("a | b",),
    )


def test_every_part_is_a_row_in_every_form() -> None:
    names = ["all", "turn 1", "turn 2", *CATEGORIES]
    assert [row[0] for row in rows(summarise(result()))] == names
    assert [row["part"] for row in csv.DictReader(io.StringIO(to_csv([result()])))] == names
    (found,) = json.loads(to_json([result()]))
    assert [part["name"] for part in (found["overall"], *found["turns"], *found["groups"])] == names
    lines = to_markdown([result()]).splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")][2:] == names
    assert "- a | b" in lines


def test_no_text_is_markup_in_the_page() -> None:
    page = to_html([replace(result(model=EVIL), notes=(EVIL,))])
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "\\u003c/script>" in page  # the transcript is there


def test_the_page_of_two_runs_tells_their_difference() -> None:
    page = to_html([result(), result(1.0, model="theirs")])
    assert "This is more than noise" in page
    assert "The difference" not in to_html([result(), result(1.0, judge="another")])


def test_two_runs_stand_side_by_side() -> None:
    found = compare(result(), result(1.0, model="theirs"))
    lines = difference_rows(found)
    assert [line[0] for line in lines] == ["all", *CATEGORIES]
    assert all(len(line) == len(DIFFERENCE_COLUMNS) for line in lines)
    assert lines[0][3] == "1.00"
    assert difference_line(found).startswith("theirs - ours: +1.00 [1.00, 1.00] over 12 questions: more than noise")
    assert "this is noise" in difference_line(compare(result(), result()))


def test_the_two_scores_beside_a_difference_are_of_the_questions_that_both_have() -> None:
    whole, part = result(), replace(result(1.0, model="theirs"), questions=result(1.0).questions[:4])
    found = compare(whole, part)
    assert found.overall.num_left_out == len(whole.questions) - 4 > 0
    first, second = (float(cell) for cell in difference_rows(found)[0][1:3])
    assert second - first == pytest.approx(1.0, abs=0.011)
    assert second == pytest.approx(found.second.overall.estimate.value, abs=0.01)
    assert first != pytest.approx(found.first.overall.estimate.value, abs=0.01)


def test_a_score_by_another_judge_never_stands_in_the_published_column() -> None:
    columns, lines, about = published_table(result(judge="gpt-5"))
    assert columns[1:3] == ("judged by gpt-4, published", "judged by gpt-5")
    assert lines[0] == ("ours (this run)", "", "3.75", "")
    assert all(line[2] == "" for line in lines[1:])
    assert "not comparable" in about
    columns, lines, about = published_table(result(judge="gpt-4"))
    assert columns == ("model", "judged by gpt-4, published", "note")
    assert lines[0][1] == "3.75"
    assert published_table(replace(result(), suite="suite"))[1] == []


def test_published_scores_carry_their_source_and_their_doubts() -> None:
    found = {(anchor.benchmark, anchor.model): anchor for anchor in anchors()}
    assert len(found) == 21
    assert all(anchor.source and anchor.judge == "gpt-4" for anchor in found.values())
    assert "OpenChat 3.1" in found["alpacaeval", "OpenChat 3.2 SUPER"].note
    assert found["mtbench-single", "OpenChat 3.2 SUPER"].note == ""
    assert "wrong chat template" in found["mtbench-single", "Llama-2-70B-Chat"].note
    assert found["mtbench-pairwise", "OpenChat 3.2 SUPER"].value == pytest.approx(0.575)
    weighted = replace(result(), suite="alpacaeval", protocol={"annotator": "weighted_alpaca_eval_gpt4_turbo"})
    assert anchors_of(weighted) == ()


def test_two_runs_of_one_name_are_told_apart_by_their_places() -> None:
    assert difference_line(compare(result(), result(1.0))).startswith("the second run - the first: +1.00 [")
    named = difference_line(compare(result(), result(1.0, model="theirs")))
    assert named.startswith("theirs - ours: +1.00 [")


def test_a_radar_has_an_axis_a_category_and_stays_in_its_rim() -> None:
    found = radar([summarise(result()), summarise(result(99))])
    assert found is not None
    assert [axis.name for axis in found.axes] == list(CATEGORIES)
    assert (found.axes[0].x, found.axes[0].y) == (0.0, -100.0)
    assert found.outlines[1] == found.rings[-1]  # beyond the rim is at the rim
    few = replace(result(), questions=result().questions[:2])
    assert radar([summarise(few)]) is None


def test_a_bar_is_a_share_of_the_best_score() -> None:
    summary = summarise(result())
    found = bars((summary.overall,), summary.unit)
    assert found[0].width == 37.5
    assert found[0].low is not None
    assert found[0].high is not None
    assert found[0].low < found[0].width < found[0].high
