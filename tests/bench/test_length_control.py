"""The length-controlled win rate: alpaca_eval's own, or none."""

import pytest

from ochatctl.bench.length_control import NUM_INSTRUCTIONS, length_controlled
from ochatctl.bench.preferences import Annotation
from ochatctl.errors import DataError, MissingExtra
from ochatctl.extras import has


def annotations(count: int) -> list[Annotation]:
    return [
        Annotation(
            instruction=str(number),
            output_1="a",
            generator_1="reference",
            output_2="b",
            generator_2="ours",
            annotator="weighted_alpaca_eval_gpt4_turbo",
            preference=1.5,
        )
        for number in range(count)
    ]


def test_a_part_of_the_instructions_has_none() -> None:
    with pytest.raises(DataError, match="804 annotations of 1 models"):
        length_controlled(annotations(NUM_INSTRUCTIONS - 1))


@pytest.mark.skipif(has("alpaca_eval"), reason="alpaca-eval is installed")
def test_nothing_is_approximated_without_the_package() -> None:
    with pytest.raises(MissingExtra) as caught:
        length_controlled(annotations(NUM_INSTRUCTIONS))
    assert caught.value.hint == "pip install 'ochatctl[alpaca]'"
