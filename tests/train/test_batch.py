"""The batch of a rank: the step is kept whatever the number of ranks is."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.families import get_family
from ochatctl.errors import ConfigError
from ochatctl.train.batch import Batch, choose_batch
from ochatctl.train.request import BatchRequest, TrainRequest

FAMILY = get_family("openchat_v3.2")  # contexts of 4096


class Lengths:
    def __init__(self, *lengths: int) -> None:
        self.lengths = np.array(lengths)


def batch_of(num_ranks: int, *lengths: int, on_cpu: bool = False, most: int = 10**9, **asked: Any) -> tuple[Batch, str]:
    notes: list[str] = []
    dataset: Any = Lengths(*(lengths or (4096,) * 600))
    batch = choose_batch(
        TrainRequest(batch=BatchRequest(**asked)),
        family=FAMILY, dataset=dataset, num_ranks=num_ranks, on_cpu=on_cpu, fits=lambda n: n <= most, notes=notes,
    )  # fmt: skip
    return batch, "\n".join(notes)


@pytest.mark.parametrize(
    ("num_ranks", "tokens", "accumulation"),
    [(8, 32768, 1), (1, 32768, 8), (16, 16384, 1), (2, 32768, 4), (64, 4096, 1)],
)
def test_openchats_step_is_kept_on_any_number_of_gpus(num_ranks: int, tokens: int, accumulation: int) -> None:
    batch, notes = batch_of(num_ranks, step_tokens=64 * 4096)
    assert batch == Batch(tokens=tokens, accumulation=accumulation)
    assert "a step of 262144 tokens (kept)" in notes


@settings(deadline=None, max_examples=30)
@given(
    num_ranks=st.integers(1, 64), step=st.integers(1000, 500_000), longest=st.integers(1, 4096),
    most=st.integers(2000, 40_000),
)  # fmt: skip
def test_a_step_is_kept_to_the_token_it_cannot_be_divided_by(
    num_ranks: int, step: int, longest: int, most: int
) -> None:
    try:
        batch, notes = batch_of(num_ranks, longest, step_tokens=step, most=most)
    except ConfigError:
        assert step // num_ranks < longest
        return
    real = batch.tokens * batch.accumulation * num_ranks
    assert step - num_ranks * batch.accumulation < real <= step
    assert batch.tokens >= longest
    assert "(kept)" in notes
    if batch.tokens > most:
        assert batch.tokens < 2 * longest, "larger than memory holds, and not for the sake of the longest row"


def test_memory_makes_the_batch_smaller_and_the_step_stays() -> None:
    batch, _ = batch_of(8, step_tokens=64 * 4096, most=9000)
    assert batch == Batch(tokens=8192, accumulation=4)


def test_what_is_asked_for_wins_over_the_step_and_says_so() -> None:
    batch, notes = batch_of(8, step_tokens=64 * 4096, size_per_gpu=4)
    assert batch == Batch(tokens=16384, accumulation=2)
    assert "(kept)" in notes
    batch, notes = batch_of(8, step_tokens=64 * 4096, size_per_gpu=4, accumulation=1)
    assert batch == Batch(tokens=16384, accumulation=1)
    assert "a step of 131072 tokens (instead of 262144)" in notes
    batch, _ = batch_of(4, step_tokens=64 * 4096, accumulation=16)
    assert batch == Batch(tokens=4096, accumulation=16)


def test_a_step_too_small_for_the_longest_conversation_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves 1024 to each of 64 ranks") as caught:
        batch_of(64, step_tokens=65536)
    assert caught.value.hint == "ochatctl train --set batch.step_tokens=262144"


def test_without_a_step_an_epoch_has_several_and_memory_bounds_a_batch() -> None:
    batch, notes = batch_of(1, *(100,) * 80)
    assert batch.tokens == 1000
    assert "several steps" in notes
    batch, notes = batch_of(1, most=20_000)
    assert batch == Batch(tokens=16384, accumulation=2), "the step depends on the memory of a GPU"
    assert "16384 tokens a rank, which a GPU's memory holds, accumulation 2" in notes
    assert batch_of(1, most=20_000, accumulation=1)[0] == Batch(tokens=16384, accumulation=1)
    batch, notes = batch_of(1, most=100)
    assert batch == Batch(tokens=4096, accumulation=8)
    assert "the least: the longest conversation" in notes
    assert batch_of(1, on_cpu=True)[0].tokens == 4096
