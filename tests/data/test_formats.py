"""Anybody's files: every format gives the same conversation, and odd items are rejected, each with a reason."""

import gzip
import json
import shlex
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.conversation import Conversation, Document, Message
from ochatctl.data.formats import (
    FORMATS,
    SHAPES,
    Draft,
    Item,
    Rejected,
    expand_inputs,
    join_parts,
    read_items,
    to_draft,
)  # fmt: skip
from ochatctl.errors import ConfigError, DataError

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
        {"instruction": "Hi", "input": None, "output": "Hello", "text": "Below is an instruction ..."},
        {"instruction": "Hi", "context": "", "response": "Hello", "category": "chat"},
        {"instruction": "Hi", "output": "Hello"},
        {"prompt": "Hi", "response": "Hello"},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "Hi", "prompt_id": None, "messages": [USER, ASSISTANT]},
        {"question": "Hi", "response": "Hello", "system_prompt": ""},
        {"question": "Hi", "answer": "Hello"},
        {"data": ["Hi", "Hello"]},
        {"data": [USER, ASSISTANT]},
        {"conversation": [USER | {"language": "English"}, ASSISTANT], "model": None, "turn": 1},
        {"messages": None, "conversations": [HUMAN, GPT], "text": None},
        {"conversations": [{"from": "prompter", "value": "Hi"}, {"from": "AI", "value": "Hello"}]},
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
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, "a turn has no text"),
        ({"prompt": 3, "response": "Hello"}, "a turn's text is not a string"),
        ({"data": []}, "no messages"),
        ({"messages": [USER, ASSISTANT | {"content": None, "tool_calls": [{"id": "c"}]}]}, "a turn calls a tool"),
        ({"messages": [USER, ASSISTANT | {"function_call": {"name": "f"}}]}, "a turn calls a tool"),
        ({"data": ["Hi", 3]}, "a turn is not an object"),
        ({"data": {"Hi": "Hello"}}, "messages are not a list"),
        ({"messages": [USER, {"role": "tool", "content": "42"}, ASSISTANT]}, "a turn is a tool's"),
        ({"conversations": [HUMAN, {"from": "Observation", "value": "42"}]}, "a turn is a tool's"),
        ({"title": "x", "body": "y"}, "no messages"),
        ({"text": ""}, "the text is empty"),
        ({"text": " \n"}, "the text is empty"),
        ({"text": 3}, "`text` is not a string"),
        ({"text": "\ud800"}, "`text` is not valid Unicode"),
        ({"text": "x", "id": ["y"]}, "`id` is not a string"),
        ({"text": "Hi", "role": "prompter", "message_id": "1"}, "a single message, not a conversation"),
        ({"text": "Hi", "parent_id": None}, "a single message, not a conversation"),
    ],
)
def test_an_odd_item_is_rejected_with_its_reason(value: Any, reason: str) -> None:
    draft = to_draft(value)
    assert isinstance(draft, Rejected)
    assert draft.reason == reason


def test_what_alpaca_and_dolly_give_beside_the_question_stands_below_it() -> None:
    for context, answer in (("input", "output"), ("context", "response")):
        draft = to_draft({"instruction": "Add.", context: "1 2", answer: "3"})
        assert isinstance(draft, Draft)
        assert [message.content for message in draft.conversation.messages] == ["Add.\n\n1 2", "3"]


@pytest.mark.parametrize(
    ("value", "document"),
    [
        ({"text": "Once"}, Document(text="Once")),
        ({"text": "Once", "id": 7, "meta": {"url": "x"}, "label": 1}, Document(text="Once", id="7")),
        ({"text": " Once\n", "messages": None}, Document(text=" Once\n")),
    ],
)
def test_an_object_with_only_a_text_is_a_document(value: Any, document: Document) -> None:
    assert to_draft(value) == document


KEYS = ["from", "role", "value", "content", "system", "id", "weight", "output", *sorted({s.key for s in SHAPES})]
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                sorted({"from", "role", "value", "content", "system", "id", "weight"} | {shape.key for shape in SHAPES})
            )
            | st.text(max_size=3),
            inner | st.sampled_from(["human", "gpt", "system"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
@settings(deadline=None, max_examples=60)
def test_no_json_value_makes_the_reader_fail(value: Any) -> None:
    assert isinstance(to_draft(value), (Draft, Document, Rejected))
    assert sum(item.num_parts for item in join_parts([Item(where="a", value=value), Item(where="b", value=value)])) == 2


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
        ("not-named-so.json", _gzip(json.dumps(VALUES))),
        ("unpacked-on-its-way.jsonl.gz", "\n".join(map(json.dumps, VALUES)).encode()),
        ("windows.json", json.dumps(VALUES).encode("utf-16")),
        ("no-suffix", json.dumps(VALUES).encode()),
        ("two-arrays.json", f"{json.dumps(VALUES[:1], indent=1)}\n{json.dumps(VALUES[1:])}".encode()),
        ("one-line.json", "".join(map(json.dumps, VALUES)).encode()),
        ("spread.json", "\n".join(f'{{ "id": "{v["id"]}",\n{json.dumps(v)[12:]}' for v in VALUES).encode()),
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
@settings(deadline=None, max_examples=40)
def test_a_cut_off_array_gives_its_whole_items_and_one_problem(tmp_path_factory: Any, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "chats.json"
    path.write_text(json.dumps(VALUES)[:cut])
    *whole, last = read_items(path)
    assert [item.value for item in whole] == VALUES[: len(whole)]
    assert "cut off" in last.problem


STARTS = [
    b"",
    b"\xff\xfe",
    b"\xfe\xff\xd8",
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"BZh9",
    b"PAR1",
    b"\xef\xbb\xbf[",
    b"{",
    b"<",
]


@given(
    st.sampled_from(STARTS), st.binary(max_size=40), st.sampled_from(["a.json", "a.html", "a.txt", "a.parquet", "a"])
)
@settings(deadline=None, max_examples=80)
def test_no_bytes_make_the_reader_fail(tmp_path_factory: Any, start: bytes, rest: bytes, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(start + rest)
    for format in (None, "json", "jsonl", "text", "html", "sharegpt"):
        for item in read_items(path, format):
            assert item.problem or isinstance(to_draft(item.value), (Draft, Document, Rejected))


@given(cut=st.integers(1, len(gzip.compress(json.dumps(VALUES * 40).encode())) - 1))
@settings(deadline=None, max_examples=20)
def test_a_cut_off_archive_gives_every_item_that_it_still_holds(tmp_path_factory: Any, cut: int) -> None:
    data = gzip.compress(json.dumps(VALUES * 40).encode())[:cut]
    folder = tmp_path_factory.mktemp("cut")
    (folder / "a.json.gz").write_bytes(data)
    (folder / "a.json").write_bytes(zlib.decompressobj(31).decompress(data))
    *items, last = read_items(folder / "a.json.gz")
    assert last.problem.startswith("the file is damaged or cut off")
    assert [item.value for item in items] == [item.value for item in read_items(folder / "a.json") if not item.problem]


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


PAGE = """<html><head><meta charset="utf-8"></head><body>
<script id="__NEXT_DATA__" type="application/json">
{"props": {"pageProps": {"id": "a", "content": {"model": "Model: GPT-4", "items": [
{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}}}}
</script></body></html>"""


def _write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_a_folder_of_pages_gives_a_conversation_each_and_a_bad_one_is_one_rejection(tmp_path: Path) -> None:
    _write(tmp_path, b_html=PAGE, a_htm="<p>404", deep__c_html=PAGE, README_md="x", download_json="{}")
    _write(tmp_path, d_jsonl=json.dumps({"messages": [USER, ASSISTANT]}))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.json").write_text("[]")
    (tmp_path / "z.html.gz").write_bytes(_gzip(PAGE))
    files = expand_inputs([tmp_path, tmp_path / "README.md"])
    names = ["a.htm", "b.html", "d.jsonl", "deep/c.html", "z.html.gz", "README.md"]
    assert [file.relative_to(tmp_path).as_posix() for file in files] == names
    bad, *good = (item for file in files[:-1] for item in read_items(file))
    assert bad.problem == "the page has no `__NEXT_DATA__` script"
    drafts = [to_draft(item.value) for item in good]
    assert all(isinstance(draft, Draft) and draft.conversation.messages == TURNS for draft in drafts)
    assert [getattr(draft, "model", "") for draft in drafts] == ["Model: GPT-4", None, "Model: GPT-4", "Model: GPT-4"]


def test_a_folder_without_chats_is_refused_and_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no chat file in this folder, which has 0"):
        expand_inputs([tmp_path])
    _write(tmp_path, a_txt="Once", b_md="upon")
    with pytest.raises(DataError) as error:
        expand_inputs([tmp_path])
    assert "2 of text: add `--format text`" in error.value.hint
    assert [file.name for file in expand_inputs([tmp_path], "text")] == ["a.txt", "b.md"]
    with pytest.raises(DataError, match="no such file or folder"):
        expand_inputs([tmp_path / "none"])


def test_a_text_file_is_a_document(tmp_path: Path) -> None:
    _write(tmp_path, a_txt="Once\n\nupon\n", b_txt="")
    (tmp_path / "c.txt").write_bytes(b"On\xff")
    (item,) = read_items(tmp_path / "a.txt")
    assert to_draft(item.value) == Document(id="a.txt", text="Once\n\nupon\n")
    assert [item.problem for item in read_items(tmp_path / "b.txt")] == ["the text is empty"]
    (item,) = read_items(tmp_path / "c.txt")
    assert to_draft(item.value) == Rejected(reason="`text` is not valid Unicode")


def test_a_long_text_is_several_documents(tmp_path: Path) -> None:
    text = ("A line of text.\n" * 40 + "\n") * 4000
    _write(tmp_path, a_txt=text)
    items = list(read_items(tmp_path / "a.txt"))
    assert len(items) == 3
    assert "".join(item.value["text"] for item in items) == text
    assert [item.value["id"] for item in items] == ["a.txt#1", "a.txt#2", "a.txt#3"]


BOTH = {"messages": [USER, ASSISTANT], "conversations": [HUMAN], "instruction": "Do.", "output": "Done.", "text": "T"}


@pytest.mark.parametrize(
    ("format", "contents"),
    [
        ("openai", ["Hi", "Hello"]), ("conversation", ["Hi", "Hello"]), ("sharegpt", ["Hi"]),
        ("alpaca", ["Do.", "Done."]), (None, ["Hi", "Hello"]), ("jsonl", ["Hi", "Hello"]), ("json", ["Hi", "Hello"]),
    ],
)  # fmt: skip
def test_the_format_says_which_keys_count(tmp_path: Path, format: str | None, contents: list[str]) -> None:
    _write(tmp_path, a_jsonl=json.dumps(BOTH))
    (item,) = read_items(tmp_path / "a.jsonl", format)
    draft = to_draft(item.value)
    assert isinstance(draft, Draft)
    assert [message.content for message in draft.conversation.messages] == contents


def test_a_format_that_does_not_fit_says_so(tmp_path: Path) -> None:
    _write(tmp_path, a_jsonl=json.dumps({"messages": [USER]}) + "\n3\n")
    assert [item.problem for item in read_items(tmp_path / "a.jsonl", "sharegpt")] == [
        "not in the format `sharegpt`: no `conversations` or `conversation` or `items`"
    ] * 2
    (item,) = read_items(tmp_path / "a.jsonl", "html")
    assert item.problem == "the page has no `__NEXT_DATA__` script"
    (item,) = read_items(tmp_path / "a.jsonl", "parquet")
    assert item.problem.startswith("the file is damaged or cut off")
    with pytest.raises(ConfigError, match="did you mean `sharegpt`"):
        read_items(tmp_path / "a.jsonl", "shargpt")


def test_every_format_and_shape_is_of_keys_that_are_known() -> None:
    assert {key for format in FORMATS.values() for key in format.keys} == {shape.key for shape in SHAPES}


def _part(name: str, turns: list[str], **more: Any) -> Item:
    return Item(where=f"f#{name}", value={"id": name, "conversations": [{"value": turn} for turn in turns], **more})


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        ([("x_0", "ab"), ("x_2", "cd")], ["abcd"]),
        ([("x_0", "ab"), ("x_1", "bc"), ("x_3", "d"), ("y_0", "e")], ["abcd", "e"]),
        ([("x_2", "cd"), ("x_4", "ef")], ["cdef"]),
        ([("x_y_0", "a"), ("x_y_1", "b")], ["ab"]),
        ([("x_0", "ab"), ("x_3", "cd")], ["ab", "cd"]),
        ([("x_0", "ab"), ("x_1", "cd")], ["ab", "cd"]),
        ([("x_0", "abc"), ("x_1", "b")], ["abc", "b"]),
        ([("x_0", "a"), ("x_0", "b")], ["a", "b"]),
        ([("x_1", "a"), ("x_0", "b")], ["a", "b"]),
        ([("x_0", "a"), ("y_1", "b")], ["a", "b"]),
        ([("x_0", "a"), ("y_0", "b"), ("x_1", "c")], ["a", "b", "c"]),
        ([("x", "a"), ("x_1", "b")], ["a", "b"]),
    ],
)
def test_parts_are_joined_where_one_goes_on_with_the_other(parts: list[tuple[str, str]], joined: list[str]) -> None:
    items = [_part(name, list(turns)) for name, turns in parts]
    out = list(join_parts(items))
    assert ["".join(turn["value"] for turn in item.value["conversations"]) for item in out] == joined
    assert [place for item in out for place in item.places or (item.where,)] == [item.where for item in items]
    assert [item.num_parts for item in out] == [len(item.places) or 1 for item in out]
    assert all(item.value["id"] == parts[0][0].rpartition("_")[0] for item in out if item.places)


def test_what_is_no_part_is_given_as_it_is_in_its_place() -> None:
    broken = Item(where="f#2", value="{", problem="not valid JSON")
    items = [_part("x_0", ["a"]), broken, _part("x_1", ["b"]), Item(where="f#4", value=[1]), Item(where="f", value={})]
    assert list(join_parts(items)) == items


@pytest.mark.parametrize("name", ["", "none.json"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        list(read_items(tmp_path / name))


def test_a_call_of_no_tool_is_an_ordinary_turn() -> None:
    draft = to_draft({"messages": [USER, ASSISTANT | {"tool_calls": [], "function_call": None}]})
    assert isinstance(draft, Draft)
    assert draft.conversation.messages == TURNS


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_a_spreadsheet_is_refused_with_a_command_that_makes_it_readable(
    tmp_path: Path, delimiter: str
) -> None:
    path = tmp_path / "my chats.csv"
    path.write_text(delimiter.join(("prompt", "response")) + f'\n"Hi"{delimiter}"Hel\nlo"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"the kind `\.csv` is not read") as caught:
        read_items(path)
    command = caught.value.hint[caught.value.hint.index("python -c") :]
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    (item,) = read_items(path.with_suffix(".parquet"))
    assert item.value == {"prompt": "Hi", "response": "Hel\nlo"}
    (tmp_path / "chats.xlsx").touch()
    with pytest.raises(DataError) as caught:
        read_items(tmp_path / "chats.xlsx")
    assert caught.value.hint == "save it as CSV, and give that"
