"""The one-line JSON form: what is accepted, and what is refused with file, line and turn."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ochatctl.chat.conversation import (
    Conversation,
    Document,
    Message,
    parse_conversation,
    parse_record,
    read_conversations,
    to_json,
)
from ochatctl.errors import DataError

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "be brief"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
messages = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant"]),
    content=texts,
    weight=st.none() | st.floats(0, 10, allow_nan=False),
)
conversations = st.builds(
    Conversation,
    messages=st.lists(messages, min_size=1, max_size=4).map(tuple),
    id=texts,
    system=texts,
    condition=texts,
)


@given(conversations)
def test_what_is_written_reads_back_equal(conversation: Conversation) -> None:
    assert parse_conversation(json.loads(json.dumps(to_json(conversation))), where="x") == conversation


def test_an_object_with_a_text_is_a_document_and_reads_back_equal() -> None:
    document = Document(text="Once upon a time.", id="d1")
    assert parse_record(to_json(document), where="x") == document
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    assert parse_record(chat, where="x") == parse_conversation(chat, where="x")
    with pytest.raises(DataError, match=r"x: unknown key `titel`"):
        parse_record({"text": "a", "titel": "b"}, where="x")


def test_a_leading_system_message_is_the_system_field() -> None:
    conversation = parse_conversation({"messages": [SYSTEM, USER]}, where="x")
    assert conversation.system == "be brief"
    assert [m.role for m in conversation.messages] == ["user"]


def test_default_weights_are_one_for_the_assistant_and_zero_for_anyone_else() -> None:
    assert Message(role="assistant", content="").loss_weight == 1.0
    assert Message(role="user", content="").loss_weight == 0.0
    assert Message(role="user", content="", weight=0.5).loss_weight == 0.5


BAD: list[tuple[Any, str]] = [
    ([], "expected a JSON object"),
    ("hi", "expected a JSON object"),
    ({}, "`messages` must be a list"),
    ({"messages": []}, "at least one message"),
    ({"messages": "hi"}, "`messages` must be a list"),
    ({"messages": [1]}, "turn 1: expected a JSON object"),
    ({"messages": [{"content": "x"}]}, "turn 1 has no `role`"),
    ({"messages": [{"role": "user"}]}, "turn 1 has no `content`"),
    ({"messages": [USER, {"role": "user", "content": None}]}, "turn 2: `content` must be a string"),
    ({"messages": [USER, {"role": "tool", "content": "x"}]}, "turn 2 has the role `tool`"),
    ({"messages": [SYSTEM]}, "no user or assistant message"),
    ({"messages": [USER, SYSTEM]}, "turn 2 is a system message; only the first"),
    ({"messages": [SYSTEM, USER], "system": "too"}, "`system` is set as well"),
    ({"messages": [{**SYSTEM, "weight": 1}, USER]}, "takes no `weight`"),
    ({"messages": [{**USER, "weight": -1}]}, "`weight` is `-1`"),
    ({"messages": [{**USER, "weight": True}]}, "`weight` is `True`"),
    ({"messages": [{**USER, "weight": "1"}]}, "`weight` is `1`"),
    ({"messages": [{**USER, "wieght": 0}]}, "unknown key `wieght`; did you mean `weight`"),
    ({"messages": [USER], "conditon": "GPT4"}, "unknown key `conditon`; did you mean `condition`"),
    ({"messages": [USER], "system": 1}, "`system` must be a string"),
    ({"messages": [{"role": "user", "content": "a\ud800"}]}, "lone surrogate, U\\+D800"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_malformed_conversations_are_refused_with_the_place(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"chats.jsonl:3: .*{message}|chats.jsonl:3: {message}"):
        parse_conversation(value, where="chats.jsonl:3")


def test_a_file_s_errors_name_its_line(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [USER]}) + "\n\n{not json\n")
    with pytest.raises(DataError, match=r"chats\.jsonl:3: not valid JSON"):
        list(read_conversations(path))
    with pytest.raises(DataError, match="no such file"):
        list(read_conversations(tmp_path / "absent.jsonl"))
