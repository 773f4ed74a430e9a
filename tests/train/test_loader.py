"""A rank's batches are those of the plan, with each token's class."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training_for_tests import FAMILY, VOCAB_SIZE, write_base, write_data

from ochatctl.chat.families import load_family
from ochatctl.data.conditions import RowConditions
from ochatctl.data.dataset import DatasetInfo, PackedDataset, open_dataset, split_path, write_dataset
from ochatctl.data.encode import with_labels
from ochatctl.data.packing import plan_epoch
from ochatctl.train.loader import MicroBatch, RowClasses, made_ahead, micro_batches
from ochatctl.train.ranks import Ranks

CPU = torch.device("cpu")
RANKS = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedDataset, RowClasses]:
    folder: Path = tmp_path_factory.mktemp("loader")
    base = write_base(folder / "base")
    dataset = open_dataset(split_path(write_data(folder / "chats", base), "train"))
    return dataset, RowClasses(RowConditions(*load_family(base, FAMILY), dataset.conditions))


def batches_of(data: tuple[PackedDataset, RowClasses], steps: list[tuple[tuple[int, ...], ...]]) -> list[MicroBatch]:
    """All ranks' batches, rank by rank."""
    dataset, classes = data
    found: list[MicroBatch] = []
    for number in range(RANKS):
        ranks = Ranks(rank=number, num_ranks=RANKS, device=CPU)
        with made_ahead(micro_batches(dataset, steps, ranks, classes), ranks) as ahead:
            found += ahead
    return found


def test_the_ranks_together_take_each_row_once_and_know_where_a_step_ends(
    data: tuple[PackedDataset, RowClasses],
) -> None:
    dataset, _ = data
    plan = plan_epoch(dataset.lengths, bin_tokens=160, bins_per_step=2 * RANKS, seed=0, epoch=0)
    steps = [tuple(tuple(int(row) for row in own) for own in bins) for bins in plan.steps]
    found = batches_of(data, steps)
    assert [batch.is_last for batch in found] == [False, True] * len(steps) * RANKS
    sizes = sorted(size for batch in found for size in np.diff(batch.inputs.cu_seqlens.numpy()))
    assert sizes == sorted(dataset.lengths)
    weights = {batch.step_loss_weight for batch in found}
    assert sum(weights) == pytest.approx(float(dataset.step_weights.sum()))
    assert sum(float(batch.inputs.weights_S.sum()) for batch in found) == pytest.approx(sum(weights))


def test_a_token_has_the_class_that_its_row_was_written_in(data: tuple[PackedDataset, RowClasses]) -> None:
    _, classes = data
    found = batches_of(data, [((0, 1, 3), (2,))])
    # Every third row was written as GPT3, at a weight of 0.1.
    nums_classes = set()
    for batch in found:
        assert batch.inputs.classes_S is not None
        nums_classes.add(len(set(batch.inputs.classes_S.tolist())))
        names = [classes.names[number] for number in batch.inputs.classes_S.tolist()]
        assert names == ["GPT3" if weight < 0.5 else "GPT4" for weight in batch.inputs.weights_S.tolist()]
        assert batch.inputs.num_classes == len(classes.names)
    assert nums_classes == {1, 2}


def test_an_empty_bin_is_a_batch_without_a_label(data: tuple[PackedDataset, RowClasses]) -> None:
    _, empty = batches_of(data, [((0,), ())])
    assert (len(empty.inputs.input_ids_T), len(empty.inputs.rows_S)) == (1, 0)
    assert empty.inputs.classes_S is not None
    assert empty.is_last


@pytest.mark.slow
def test_a_step_of_a_fast_gpu_hardly_ever_waits_for_its_batch(tmp_path: Path) -> None:
    """Rows as long as real ones, bins of a context, steps of 0.1 s: 40,000 tokens a second, a 2B model's on an H200."""
    draw = np.random.default_rng(0)
    base = write_base(tmp_path / "base")
    prefix = tmp_path / "long"
    with write_dataset(split_path(prefix, "train")) as writer:
        for length in draw.integers(200, 3000, 80):
            writer.add(with_labels(draw.integers(3, 400, length, dtype=np.int32), np.ones(length, dtype=np.float32)))
        writer.finish(DatasetInfo(model_type=FAMILY, conditions={"GPT4": 1}, num_tokens=VOCAB_SIZE))
    dataset = open_dataset(split_path(prefix, "train"))
    classes = RowClasses(RowConditions(*load_family(base, FAMILY), dataset.conditions))
    ranks = Ranks(rank=0, num_ranks=1, device=CPU)
    plan = plan_epoch(dataset.lengths, bin_tokens=4096, bins_per_step=1, seed=0, epoch=0)
    steps = [tuple(tuple(int(row) for row in own) for own in bins) for bins in plan.steps]
    assert len(steps) > 25
    with made_ahead(micro_batches(dataset, steps, ranks, classes), ranks) as ahead:
        next(ahead)  # nothing can be ahead of the first
        waited, began = ahead.stall_seconds, time.perf_counter()
        for batch in ahead:
            assert len(batch.inputs.input_ids_T) > 1
            time.sleep(0.1)
        stalled, took = ahead.stall_seconds - waited, time.perf_counter() - began
    assert 0 < stalled < 0.01 * took
