"""The share of right answers: of what was asked, or of the whole that a subset was drawn from."""

import json
import math
import statistics
from pathlib import Path

import pytest
from chat_stub_for_tests import chat_stub

from ochatctl.bench.accuracy import Stratum, accuracy, pooled, stratified
from ochatctl.bench.results import read_result
from ochatctl.bench.run import RunConfig
from ochatctl.bench.subset import allocate, draw
from ochatctl.bench.suite import run_suite
from ochatctl.bench.summary import summarise
from ochatctl.bench.target import Endpoint
from ochatctl.cli.output import Output


def test_the_interval_of_a_draw_holds_the_whole_score_nineteen_times_in_twenty() -> None:
    sizes, right = [300, 60, 140], [210, 12, 70]
    truth = sum(right) / sum(sizes)
    ids = [[f"{task}:{number}" for number in range(size)] for task, size in enumerate(sizes)]
    counts = allocate(sizes, 100)
    estimates = []
    for seed in range(300):
        strata = [
            Stratum(
                num_items=sizes[task],
                num_answered=counts[task],
                num_right=sum(place < right[task] for place in draw(ids[task], counts[task], seed=seed)),
            )
            for task in range(3)
        ]
        estimates.append(stratified(strata))
    scores = [estimate.score or 0.0 for estimate in estimates]
    errors = [estimate.standard_error or 0.0 for estimate in estimates]
    assert statistics.mean(scores) == pytest.approx(truth, abs=0.01)
    assert statistics.mean(errors) == pytest.approx(statistics.stdev(scores), rel=0.1)
    held = sum(low <= truth <= high for one in estimates if one.interval for low, high in [one.interval])
    assert 0.91 <= held / 300 <= 0.99


def test_a_whole_population_leaves_no_noise() -> None:
    estimate = stratified([Stratum(num_items=10, num_answered=10, num_right=3)])
    assert (estimate.score, estimate.standard_error, estimate.interval) == (0.3, 0.0, (0.3, 0.3))


def test_tasks_weigh_as_many_questions_as_they_have() -> None:
    large = Stratum(num_items=900, num_answered=10, num_right=10)
    small = Stratum(num_items=100, num_answered=10, num_right=0)
    failed = Stratum(num_items=500, num_answered=0, num_right=0)
    assert accuracy([large, small, failed], is_subset=True).score == pytest.approx(0.9)
    assert accuracy([large, small, failed], is_subset=False).score == pytest.approx(0.5)


def test_by_cochrans_formula() -> None:
    estimate = stratified([Stratum(num_items=100, num_answered=20, num_right=5)])
    assert estimate.standard_error == pytest.approx(math.sqrt((1 - 0.2) * 0.25 * 0.75 / 19))


def test_none_right_is_not_certain() -> None:
    low, high = pooled(0, 200).interval or (1.0, 0.0)
    assert low == 0.0
    assert 0.01 < high < 0.03
    assert pooled(1, 1).interval is None
    assert pooled(0, 0).score is None
    assert stratified([Stratum(num_items=100, num_answered=20, num_right=0)]).interval != (0.0, 0.0)


@pytest.mark.parametrize("subset", [None, 12])
def test_what_is_shown_of_a_run_is_what_its_report_says(tmp_path: Path, subset: int | None) -> None:
    letters = [{"question": f"Which is {i}?", "label": "ABC"[i % 3], "options": ["x", "y", "z"]} for i in range(24)]
    words = [{"question": f"{i}?", "label": "no"} for i in range(3)]
    for name, rows in (("letters", letters), ("words", words)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with chat_stub() as stub:
        config = RunConfig(target=Endpoint(base_url=stub.base_url), out_dir=tmp_path / "out")
        report = run_suite(sorted(tmp_path.glob("*.jsonl")), config, Output(quiet=True), subset=subset)
    summary = summarise(read_result(tmp_path / "out"))
    pairs = list(zip((report.overall, *report.tasks), (summary.overall, *summary.groups), strict=True))
    assert len(pairs) == 3
    for line, part in pairs:
        shown = part.estimate
        assert (shown.value, shown.standard_error) == (line.score, line.standard_error)
        assert (shown.low, shown.high) == line.interval
    # Of 24 and 3 questions 10 and 2 are drawn: if they weighed alike, the score would be another.
    is_alike = report.overall.score == report.overall.num_right / report.overall.num_items
    assert is_alike == (subset is None)
