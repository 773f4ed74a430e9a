"""Messages and conversations, and the one-line JSON form in which every command takes and gives them.

{"id": "...", "messages": [{"role": "user", "content": "...", "weight": 1.0}], "system": "", "condition": "GPT4"}

A plain text that is learnt whole, such as of pre-training, is a Document: {"id": "...", "text": "..."}.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.config import did_you_mean
from ochatctl.errors import DataError
from ochatctl.files import read_jsonl

ROLES = ("user", "assistant")
_CONVERSATION_KEYS = ("id", "messages", "system", "condition")
_DOCUMENT_KEYS = ("id", "text")
_MESSAGE_KEYS = ("role", "content", "weight")
_CLEAN_HINT = "`ochatctl data clean FILE --out clean.jsonl` reads other formats and drops and counts what is malformed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn. `weight` is its loss weight; None means 1 for an assistant and 0 for anyone else."""

    role: str
    content: str
    weight: float | None = None

    @property
    def loss_weight(self) -> float:
        """The weight of each of its tokens in the loss."""
        if self.weight is not None:
            return self.weight
        return 1.0 if self.role == "assistant" else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A chat. An empty `condition` means the family's inference condition."""

    messages: tuple[Message, ...]
    id: str = ""
    system: str = ""
    condition: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A plain text, every token of which is learnt."""

    text: str
    id: str = ""


def parse_record(value: Any, *, where: str) -> Conversation | Document:
    """Check one JSON object and make what it is: a Document where it has a `text`, else a Conversation.

    Raises:
        DataError: starts with `where`.
    """
    if not (isinstance(value, dict) and "text" in value and "messages" not in value):
        return parse_conversation(value, where=where)
    table = _table(value, _DOCUMENT_KEYS, where)
    return Document(text=_text(table, "text", where), id=_text(table, "id", where))


def parse_conversation(value: Any, *, where: str) -> Conversation:
    """Check one JSON object and make a conversation of it; a leading system message becomes `system`.

    Raises:
        DataError: starts with `where`, names the turn and the key.
    """
    table = _table(value, _CONVERSATION_KEYS, where)
    raw = table.get("messages")
    if not isinstance(raw, list) or not raw:
        raise _malformed(f"{where}: `messages` must be a list of at least one message")
    system = _text(table, "system", where)
    messages: list[Message] = []
    for number, item in enumerate(raw, start=1):
        turn = f"{where}: turn {number}"
        message = _table(item, _MESSAGE_KEYS, turn)
        if "role" not in message:
            raise _malformed(f"{turn} has no `role`")
        if "content" not in message:
            raise _malformed(f"{turn} has no `content`")
        role, content = message["role"], _text(message, "content", turn)
        if role == "system":
            if number > 1:
                raise _malformed(f"{turn} is a system message; only the first message may be one")
            if system:
                raise _malformed(f"{turn} is a system message, and `system` is set as well")
            if "weight" in message:
                raise _malformed(f"{turn} is a system message, which takes no `weight`")
            system = content
        elif role in ROLES:
            messages.append(Message(role=role, content=content, weight=_weight(message, turn)))
        else:
            raise _malformed(f"{turn} has the role `{role}`, not `user`, `assistant` or `system`")
    if not messages:
        raise _malformed(f"{where}: no user or assistant message")
    return Conversation(
        messages=tuple(messages),
        id=_text(table, "id", where),
        system=system,
        condition=_text(table, "condition", where),
    )


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Give the conversations of a JSONL file in its order.

    Raises:
        DataError: names `file:line` and the turn.
    """
    for where, value in read_jsonl(path):
        yield parse_conversation(value, where=where)


def to_json(record: Conversation | Document) -> dict[str, Any]:
    """Give the JSON object that `parse_record` turns into an equal record."""
    out: dict[str, Any] = {"id": record.id} if record.id else {}
    if isinstance(record, Document):
        return out | {"text": record.text}
    messages: list[dict[str, Any]] = []
    for message in record.messages:
        item: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.weight is not None:
            item["weight"] = message.weight
        messages.append(item)
    out["messages"] = messages
    if record.system:
        out["system"] = record.system
    if record.condition:
        out["condition"] = record.condition
    return out


def check_text(text: str, where: str) -> None:
    """Refuse text that no tokenizer can take.

    Raises:
        DataError: half of a UTF-16 pair, which JSON can spell and UTF-8 cannot.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds a lone surrogate, U+{ord(text[error.start]):04X}") from error


def _table(value: Any, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(f"{where}: expected a JSON object, found `{type(value).__name__}`")
    for key in value:
        if key not in keys:
            raise _malformed(f"{where}: unknown key `{key}`{did_you_mean(key, keys)}")
    return value


def _text(table: dict[str, Any], key: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise _malformed(f"{where}: `{key}` must be a string, found `{type(value).__name__}`")
    check_text(value, f"{where}: `{key}`")
    return value


def _weight(message: dict[str, Any], where: str) -> float | None:
    value = message.get("weight")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise _malformed(f"{where}: `weight` is `{value}`, which is not a number of at least 0")
    return float(value)


def _malformed(message: str) -> DataError:
    return DataError(message, hint=_CLEAN_HINT)
