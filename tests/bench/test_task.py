"""A user's own task file."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from ochatctl.bench.task import grade, read_task
from ochatctl.errors import DataError


def task_file(folder: Path, *rows: Any) -> Path:
    path = folder / "mine.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_options_are_listed_under_letters(tmp_path: Path) -> None:
    path = task_file(tmp_path, {"question": "Which?", "label": "B", "options": ["Venus", "Mars"]})
    (item,) = read_task(path).items
    assert item.prompt == "Which?\n\nA. Venus\nB. Mars\n\nAnswer with the letter of the right option only."
    assert grade(item, "B. Mars").right
    assert not grade(item, "A").right


def test_without_options_the_label_is_the_exact_answer(tmp_path: Path) -> None:
    (item,) = read_task(task_file(tmp_path, {"question": "Capital of France?", "label": "Paris."})).items
    assert item.prompt == "Capital of France?"
    assert grade(item, "paris").right
    assert not grade(item, "It is Paris").right


def test_any_of_several_labels_is_right(tmp_path: Path) -> None:
    path = task_file(tmp_path, {"question": "Primary colour?", "label": ["Red", "Blue"], "options": None})
    (item,) = read_task(path).items
    assert [grade(item, text).right for text in ("red", "Blue!", "green")] == [True, True, False]


def test_the_sample_task_is_readable() -> None:
    task = read_task(Path(str(resources.files("ochatctl") / "samples" / "tasks.jsonl")))
    assert [item.extractor for item in task.items].count("letter") == 8
    assert [item.extractor for item in task.items].count("exact") == 4
    for item in task.items:
        assert grade(item, item.labels[0]).right


def test_a_digest_tells_a_changed_label(tmp_path: Path) -> None:
    row = {"question": "Which?", "label": "B", "options": ["Venus", "Mars"]}
    before = read_task(task_file(tmp_path, row)).digest
    assert read_task(task_file(tmp_path, row)).digest == before
    assert read_task(task_file(tmp_path, row | {"label": "A"})).digest != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[1]", "expected a JSON object"),
        ("{", "not valid JSON"),
        ({"question": "Q", "lable": "A"}, "unknown key `lable`; did you mean `label`?"),
        ({"label": "A"}, "`question` must hold text"),
        ({"question": "Q"}, "`label` must hold text"),
        ({"question": "Q", "label": []}, "`label` must hold text"),
        ({"question": "Q", "label": "..."}, "nothing but space and punctuation"),
        ({"question": "Q", "label": 3}, "`label` must hold text"),
        ({"question": "Q", "label": "C", "options": ["x", "y"]}, "`label` is `C`, not a letter from `A` to `B`"),
        ({"question": "Q", "label": "AB", "options": ["x", "y"]}, "`label` is `AB`"),
        ({"question": "Q", "label": "A", "options": ["x"]}, "1 `options`, where 2 to 26"),
        ({"question": "Q", "label": "A", "options": ["x"] * 27}, "27 `options`"),
        ({"question": "Q", "label": "A", "options": ["x", 1]}, "`options` must hold text"),
        ({"question": "Q", "label": "A", "options": "xy"}, "`options` must be a list"),
        ({"question": "\ud800", "label": "A"}, "lone surrogate"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    path = task_file(tmp_path, {"question": "fine", "label": "x"}, row)
    with pytest.raises(DataError, match=r"mine\.jsonl:2: ") as caught:
        read_task(path)
    assert message in caught.value.message


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no question in it"):
        read_task(task_file(tmp_path))
