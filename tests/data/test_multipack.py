"""The plan of ochat 3.2.2, against what its own sampler gave.

`multipack_322.json` was made by `MultipackDistributedDataloader` of the ochat 3.2.2 wheel under numba 0.68.1, on random
lengths; a bin stands as its sorted lengths, since numba orders equal lengths in its own way.
"""

import json
from pathlib import Path

import pytest

from ochatctl.data.multipack import plan_multipack
from ochatctl.errors import DataError

GOLDEN = json.loads((Path(__file__).parent / "multipack_322.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['num_ranks']} ranks of {case['bin_tokens']}")
def test_the_batches_are_those_of_the_original(case: dict) -> None:
    lengths, steps = case.pop("lengths"), case.pop("steps")
    plan = plan_multipack(lengths, **case)
    assert [[sorted(lengths[row] for row in rows) for rows in step] for step in plan.steps] == steps
    rows = [row for step in plan.steps for bins in step for row in bins]
    assert len(rows) == len(set(rows)) == len(lengths) - plan.num_dropped


def test_the_tail_is_dropped_and_counted() -> None:
    plan = plan_multipack([60] * 9, bin_tokens=64, num_ranks=2, accumulation=2, seed=0, epoch=0)
    assert (len(plan.steps), plan.num_dropped, plan.num_tokens) == (2, 1, 480)


def test_what_the_original_would_do_in_silence_is_an_error() -> None:
    with pytest.raises(DataError, match="4 rows do not fill one step"):
        plan_multipack([1] * 4, bin_tokens=64, num_ranks=2, seed=0, epoch=0)
    with pytest.raises(DataError, match="row 0 has 65 tokens, and a bin holds 64"):
        plan_multipack([65, 1, 1], bin_tokens=64, num_ranks=2, seed=0, epoch=0)
