"""Win rates and AlpacaEval's files. Real annotation files are compared with published leaderboards in test_rescore."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ochatctl.bench.preferences import (
    Annotation,
    Output,
    read_annotations,
    read_outputs,
    win_rate,
    write_annotations,
    write_outputs,
)
from ochatctl.errors import DataError


def annotation(preference: float | None, number: int = 0, output: str = "four") -> Annotation:
    return Annotation(
        instruction=f"question {number}",
        output_1="reference",
        generator_1="text_davinci_003",
        output_2=output,
        generator_2="ours",
        annotator="alpaca_eval_gpt4",
        preference=preference,
    )


def rates(*preferences: float | None) -> dict[str, object]:
    found = win_rate([annotation(one, number) for number, one in enumerate(preferences)])
    return {name: getattr(found, name) for name in ("win_rate", "n_wins", "n_wins_base", "n_draws", "n_total")}


def test_a_draw_old_or_new_is_half_a_win_and_null_is_none() -> None:
    assert rates(2, 2, 1, 1.5) == {"win_rate": 62.5, "n_wins": 2, "n_wins_base": 1, "n_draws": 1, "n_total": 4}
    assert rates(2, 2, 1, 0) == rates(2, 2, 1, 1.5)
    assert rates(2, 2, 1, 0, None) == rates(2, 2, 1, 0)
    assert win_rate([annotation(None)]).num_unreadable == 1
    assert win_rate([annotation(None)]).win_rate is None
    assert win_rate([]).avg_length == 0


def test_numbers_by_hand() -> None:
    found = win_rate([annotation(one, number) for number, one in enumerate((1.25, 1.5, 1.75, 2.0))])
    assert found.win_rate == pytest.approx(62.5)
    # The sample's standard deviation of 0.25, 0.5, 0.75, 1 over the root of 4.
    assert found.standard_error == pytest.approx(100 * math.sqrt(0.3125 / 3) / 2)
    assert found.discrete_win_rate == pytest.approx(100 * (0 + 0.5 + 1 + 1) / 4)
    assert win_rate([annotation(2)]).standard_error is None


def test_a_number_outside_the_range_is_no_preference() -> None:
    assert win_rate([annotation(2), annotation(3, 1), annotation(-1, 2)]).n_total == 1
    assert win_rate([annotation(2), annotation(3, 1), annotation(-1, 2)]).num_unreadable == 2


def test_the_average_length_is_over_all_outputs_the_unreadable_too() -> None:
    rows = [annotation(2, 0, "a" * 10), annotation(None, 1, "a" * 21)]
    assert win_rate(rows).avg_length == 15


@given(st.lists(st.one_of(st.none(), st.sampled_from([0.0, 1.0, 1.5, 2.0]), st.floats(1, 2)), max_size=30))
def test_wins_losses_and_draws_are_all_that_was_read(preferences: list[float | None]) -> None:
    found = win_rate([annotation(one, number) for number, one in enumerate(preferences)])
    assert found.n_wins + found.n_wins_base + found.n_draws == found.n_total
    assert found.n_total + found.num_unreadable == len(preferences)
    turned = win_rate([annotation(one and 3 - one, number) for number, one in enumerate(preferences)])
    if found.win_rate is not None and turned.win_rate is not None:
        assert found.win_rate + turned.win_rate == pytest.approx(100)


def test_files_are_written_as_they_are_read(tmp_path: Path) -> None:
    rows = (annotation(1.25), annotation(None, 1))
    write_annotations(tmp_path / "annotations.json", rows)
    assert read_annotations(tmp_path / "annotations.json") == rows
    outputs = (Output(instruction="q", output="a", generator="ours", dataset="koala"),)
    write_outputs(tmp_path / "model_outputs.json", outputs)
    assert read_outputs(tmp_path / "model_outputs.json") == outputs


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "expected a JSON list"),
        ([], "expected a JSON list"),
        (["row"], "row 1: expected a JSON object"),
        ([{"instruction": "q"}, {"instruction": 3}], "row 2: `instruction` must be text"),
        ([{"instruction": "q"}, {"instruction": "q"}], "row 2 stands in the file twice"),
        ([{"instruction": "q", "output": None}], "row 1: `output` must be text"),
    ],
)
def test_a_malformed_file_is_named_with_its_row(tmp_path: Path, value: object, said: str) -> None:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match=said):
        read_outputs(path)


def test_a_preference_that_is_no_number_is_named(tmp_path: Path) -> None:
    write_annotations(tmp_path / "annotations.json", [annotation(2.0)])
    text = (tmp_path / "annotations.json").read_text().replace("2.0", '"2"')
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(DataError, match="row 1: `preference` must be a number or null"):
        read_annotations(tmp_path / "annotations.json")
