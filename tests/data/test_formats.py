"""Anybody's files: every format gives the same conversation, and odd items are rejected, each with a reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.data.formats import Draft, Rejected, read_items, to_draft
from ochatctl.errors import DataError

TURNS = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    "value",
    [
        {"conversations": [HUMAN, GPT]},
        {"items": [HUMAN, GPT], "model": None},
        {"messages": [USER, ASSISTANT]},
        {"items": [USER, ASSISTANT]},
        [USER, ASSISTANT],
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"conversations": [{"from": " User ", "value": "Hi"}, {"from": "ChatGPT", "value": "Hello"}]},
        {"conversations": [HUMAN, {"from": "bard", "markdown": None, "text": "Hello"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                GPT,
            ]
        },
    ],
)
def test_every_format_gives_the_same_conversation(value: Any) -> None:
    draft = to_draft(value)
    assert isinstance(draft, Draft)
    assert draft.conversation == Conversation(messages=TURNS)


def test_what_stands_beside_the_turns_is_kept() -> None:
    value = {
        "id": 7,
        "model": "Model: GPT-4",
        "condition": "Math",
        "system_message": "Be brief.",
        "items": [HUMAN, GPT],
    }
    draft = to_draft(value)
    assert draft == Draft(
        conversation=Conversation(messages=TURNS, id="7", condition="Math", system="Be brief."), model="Model: GPT-4"
    )
    weighted = to_draft({"messages": [USER, ASSISTANT | {"weight": 0}]})
    assert isinstance(weighted, Draft)
    assert weighted.conversation.messages[1].weight == 0.0


@pytest.mark.parametrize(
    "value",
    [
        {"system": "Be brief.", "messages": [USER, ASSISTANT]},
        {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]},
        {"system": "Be brief.", "messages": [{"role": "developer", "content": "Be brief."}, USER, ASSISTANT]},
    ],
)
def test_a_leading_system_message_is_the_system_field(value: Any) -> None:
    draft = to_draft(value)
    assert isinstance(draft, Draft)
    assert draft.conversation == Conversation(messages=TURNS, system="Be brief.")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (3, "not an object"),
        (None, "not an object"),
        ({}, "no messages"),
        ({"conversations": None}, "no messages"),
        ({"conversations": []}, "no messages"),
        ({"conversations": "Hi"}, "messages are not a list"),
        ({"conversations": ["Hi"]}, "a turn is not an object"),
        ({"conversations": [{"value": "Hi"}]}, "a turn has no role"),
        ({"conversations": [{"from": "human"}]}, "a turn has no text"),
        ({"conversations": [{"from": "human", "value": None}]}, "a turn has no text"),
        ({"conversations": [{"from": "human", "value": 42}]}, "a turn's text is not a string"),
        ({"conversations": [{"from": "narrator", "value": "Hi"}]}, "a turn has an unknown role"),
        ({"conversations": [{"from": ["human"], "value": "Hi"}]}, "a turn has an unknown role"),
        ({"conversations": [{"from": "human", "value": "\ud800"}]}, "a turn's text is not valid Unicode"),
        ({"messages": [USER | {"weight": -1}]}, "a turn's weight is no number of at least 0"),
        ({"messages": [USER | {"weight": float("nan")}]}, "a turn's weight is no number of at least 0"),
        ({"messages": [USER | {"content": [{"type": "image_url"}]}]}, "a turn's text is not a string"),
        ({"messages": [USER | {"content": []}]}, "a turn's text is not a string"),
        ({"messages": [USER, {"role": "system", "content": "x"}, ASSISTANT]}, "a system message after the first turn"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no messages"),
        ({"system": "y", "messages": [{"role": "system", "content": "x"}, USER]}, "two system messages"),
        ({"system": ["x"], "messages": [USER]}, "`system` is not a string"),
        ({"id": ["x"], "messages": [USER]}, "`id` is not a string"),
        ({"condition": 4, "messages": [USER]}, "`condition` is not a string"),
        ({"instruction": "Hi"}, "a turn has no text"),
    ],
)
def test_an_odd_item_is_rejected_with_its_reason(value: Any, reason: str) -> None:
    draft = to_draft(value)
    assert isinstance(draft, Rejected)
    assert draft.reason == reason


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["conversations", "messages", "from", "role", "value", "content", "system", "id", "weight"])
            | st.text(max_size=3),
            inner | st.sampled_from(["human", "gpt", "system"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
@settings(deadline=None, max_examples=200)
def test_no_json_value_makes_the_reader_fail(value: Any) -> None:
    assert isinstance(to_draft(value), (Draft, Rejected))


VALUES = [{"id": "a", "n": 1}, {"id": "b", "text": "line\nbreak, ] and }"}, {"id": "c", "deep": [[1], {"x": "é"}]}]


def _gzip(text: str) -> bytes:
    return gzip.compress(text.encode())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("array.json", json.dumps(VALUES).encode()),
        ("pretty.json", json.dumps(VALUES, indent=2).encode()),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(VALUES).encode()),
        ("lines.jsonl", "\n".join(map(json.dumps, VALUES)).encode()),
        ("blank.jsonl", "\r\n\r\n".join(map(json.dumps, VALUES)).encode()),
        ("lines.jsonl.gz", _gzip("\n".join(map(json.dumps, VALUES)))),
        ("array.json.gz", _gzip(json.dumps(VALUES))),
        ("objects.json", "\n".join(json.dumps(value, indent=1) for value in VALUES).encode()),
    ],
)
def test_arrays_and_lines_give_the_same_items(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    items = list(read_items(tmp_path / name))
    assert [item.value for item in items] == VALUES
    assert len({item.where for item in items}) == len(VALUES)


def test_parquet_gives_items(tmp_path: Path) -> None:
    values = [{"id": "a", "messages": [USER, ASSISTANT]}]
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "chats.parquet")
    (item,) = read_items(tmp_path / "chats.parquet")
    draft = to_draft(item.value)
    assert isinstance(draft, Draft)
    assert draft.conversation.messages == TURNS


def test_a_zstd_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl.zst"
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(json.dumps(VALUES[0]).encode())
    assert [item.value for item in read_items(path)] == VALUES[:1]


@given(cut=st.integers(1, len(json.dumps(VALUES)) - 1))
@settings(deadline=None, max_examples=60)
def test_a_cut_off_array_gives_its_whole_items_and_one_problem(tmp_path_factory: Any, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "chats.json"
    path.write_text(json.dumps(VALUES)[:cut])
    *whole, last = read_items(path)
    assert [item.value for item in whole] == VALUES[: len(whole)]
    assert "cut off" in last.problem


def test_a_bad_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id": \n' + b'{"id": "\xff"}\n' + b'{"id": 4}\n')
    first, broken, not_utf8, last = read_items(path)
    assert (first.value, last.value) == ({"id": 1}, {"id": 4})
    assert broken.problem == "not valid JSON"
    assert broken.where == f"{path}:2"
    # Bytes that are not UTF-8 are still there, for the conversation that holds them to be rejected.
    assert to_draft({"messages": [USER | {"content": not_utf8.value["id"]}]}) == Rejected(
        reason="a turn's text is not valid Unicode", detail="turn 1"
    )


def test_an_item_longer_than_a_chunk_is_read(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    values = [{"text": "x" * 3_000_000}, {"text": "y" * 1_500_000}, 12345]
    path.write_text(json.dumps(values))
    assert [item.value for item in read_items(path)] == values


def test_a_damaged_archive_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(_gzip("\n".join(map(json.dumps, VALUES * 500)))[:-40])
    assert "damaged" in list(read_items(path))[-1].problem


@pytest.mark.parametrize("name", ["", "none.json"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        list(read_items(tmp_path / name))
