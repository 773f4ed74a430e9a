"""The flat token file: what is written is read, by numpy alone too, and what is damaged is named."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.template import Encoded
from ochatctl.data.dataset import DatasetInfo
from ochatctl.data.encode import Row, to_row
from ochatctl.data.flat import FlatDataset, open_flat, write_flat
from ochatctl.errors import DataError

INFO = DatasetInfo(model_type="openchat_v3.2", conditions={"GPT4": 3}, context_tokens=64, num_tokens=99)
pairs = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.1, 1.0])), min_size=1, max_size=9)


def row_of(tokens: list[tuple[int, float]]) -> Row:
    return to_row(Encoded(token_ids=[i for i, _ in tokens], loss_weights=[w for _, w in tokens]))


def write(path: Path, rows: list[Row]) -> FlatDataset:
    with write_flat(path) as writer:
        for row in rows:
            writer.add(row)
        writer.finish(INFO)
    return open_flat(path)


@given(st.lists(pairs, max_size=6))
@settings(deadline=None, max_examples=25)
def test_the_rows_written_are_the_rows_read(
    tmp_path_factory: pytest.TempPathFactory, token_lists: list[list[tuple[int, float]]]
) -> None:
    rows = [row_of(tokens) for tokens in token_lists]
    path = tmp_path_factory.mktemp("flat") / "a.flat"
    dataset = write(path, rows)
    assert len(dataset) == len(rows)
    assert dataset.info == INFO
    assert dataset.lengths.tolist() == [len(row.input_ids) for row in rows]
    for index, row in enumerate(rows):
        found = pickle.loads(pickle.dumps(dataset)).row(index)
        np.testing.assert_array_equal(found.input_ids, row.input_ids)
        np.testing.assert_array_equal(found.labels, row.labels)
        np.testing.assert_array_equal(found.loss_weights, row.loss_weights)
        assert dataset.step_weights[index] == np.float32(row.loss_weights.sum(dtype=np.float64))
    with pytest.raises(IndexError):
        dataset.row(len(rows))


def test_numpy_alone_reads_it_as_the_docstring_says(tmp_path: Path) -> None:
    rows = [row_of([(7, 0.0), (8, 1.0), (9, 0.5)]), row_of([(5, 0.0), (6, 1.0)])]
    write(path := tmp_path / "a.flat", rows)
    data = path.read_bytes()
    size = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + size])
    assert data[:8] == b"ochatflt"
    assert (16 + size) % 64 == 0
    item = header["arrays"]["input_ids"]
    ids = np.memmap(path, dtype="<i4", mode="r", offset=16 + size + item["offset"], shape=item["length"])
    assert ids.tolist() == [7, 8, 9, 5, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["a.flat"]


def test_what_is_no_whole_flat_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.flat"
    write(path, [row_of([(7, 0.0), (8, 1.0)])])
    whole = path.read_bytes()
    cases = {
        "cut off inside `step_weights`": whole[:-1],
        "version 2, and this ochatctl reads up to 1": whole.replace(b'"version": 1', b'"version": 2'),
        "not a file of `ochatctl-flat`": b"something else",
        "its header cannot be read": whole[:40].ljust(len(whole)),
        "its arrays do not go together": whole.replace(b'"offsets"', b'"offzets"'),
    }
    for message, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            open_flat(path)
    with pytest.raises(DataError, match="no such file"):
        open_flat(tmp_path / "none.flat")
