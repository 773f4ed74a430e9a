"""The user's own rules: what they may give, and how their faults are told."""

import dataclasses
from pathlib import Path

import pytest

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.data.clean import CleanOptions, clean_files
from ochatctl.data.formats import Draft, Rejected
from ochatctl.data.user_rules import load_rule_files
from ochatctl.errors import DataError

GOOD = """
import dataclasses
from ochatctl.data.formats import Rejected
from textwrap import dedent

def first(conversation):
    return "too loud" if any(message.content.isupper() for message in conversation.messages) else conversation

def second(conversation):
    if _is_marked(conversation):
        return Rejected(reason="marked", detail="as asked")
    return dataclasses.replace(conversation, system="Be brief.")

def _is_marked(conversation):
    return conversation.id == "marked"
"""
DRAFT = Draft(conversation=Conversation(messages=(Message(role="user", content="Hi"),), id="a"))


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_each_public_function_of_a_file_is_a_rule_in_its_order(tmp_path: Path) -> None:
    rules = load_rule_files([write(tmp_path, GOOD), write(tmp_path, "def other(chat): return chat", "theirs.py")])
    assert [rule.name for rule in rules] == ["mine:first", "mine:second", "theirs:other"]
    first, second, other = rules
    assert first(DRAFT) is DRAFT
    assert other(DRAFT) is DRAFT
    changed = second(DRAFT)
    assert isinstance(changed, Draft)
    assert changed.conversation == dataclasses.replace(DRAFT.conversation, system="Be brief.")
    assert changed.mended == ("changed by `mine:second`",)
    loud = Draft(conversation=Conversation(messages=(Message(role="user", content="HI"),), id="marked"))
    assert first(loud) == Rejected(reason="too loud", detail="`mine:first`")
    assert second(loud) == Rejected(reason="marked", detail="as asked")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "gave `NoneType`"),
        ("return ''", "gave `str`"),
        ("return 3", "gave `int`"),
        ("return True", "gave `bool`"),
        ("return conversation.message", "raised AttributeError: 'Conversation' object has no attribute 'message'"),
        ("return dataclasses.replace(conversation, messages=())", "gave a malformed conversation: `messages` must be"),
        ("return dataclasses.replace(conversation, messages=['x'])", "gave a malformed conversation"),
        ("return dataclasses.replace(conversation, system='\\ud800')", "holds a lone surrogate"),
        ("return dataclasses.replace(conversation, id=3)", "`id` must be a string"),
    ],
)
def test_a_rule_that_gives_or_raises_something_else_is_named(tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path, f"import dataclasses\ndef bad(conversation):\n    {body}\n")
    (rule,) = load_rule_files([path])
    with pytest.raises(DataError) as caught:
        rule(DRAFT)
    assert caught.value.message.startswith(f"{path}: the rule `bad` ")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def bad(:", "cannot be loaded: SyntaxError"),
        ("import no_such_module_at_all", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("x = 3\ndef _hidden(c): return c\nfrom os.path import join", "has no public function"),
    ],
)
def test_a_file_that_is_no_rule_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        load_rule_files([path])
    assert caught.value.message.startswith(f"{path}: {message}")


def test_files_that_cannot_be_told_apart_or_found_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    paths = [write(tmp_path, GOOD), write(tmp_path / "other", GOOD)]
    with pytest.raises(DataError, match="another rule file is named `mine` too"):
        load_rule_files(paths)
    with pytest.raises(DataError, match="no such rule file"):
        load_rule_files([tmp_path / "none.py"])
    with pytest.raises(DataError, match="not a Python file"):
        load_rule_files([write(tmp_path, GOOD, "rules.txt")])


def test_a_fault_names_the_item_and_the_line_and_the_report_names_the_file(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
        "in.jsonl",
    )
    path = write(tmp_path, "def bad(conversation):\n    return 1 / 0\n")
    with pytest.raises(DataError) as caught:
        clean_files([source], tmp_path / "out.jsonl", options=CleanOptions(rule_files=(path,)))
    assert caught.value.message == f"{path}: the rule `bad` raised ZeroDivisionError: division by zero, at {source}:1"
    assert caught.value.hint == f"see {path}:2"
    good, said = write(tmp_path, GOOD, "good.py"), []
    report = clean_files([source], tmp_path / "out.jsonl", options=CleanOptions(rule_files=(good,)), say=said.append)
    assert said == [f"rules of {good}: good:first, good:second"]
    assert report.rules[-3:] == ["good:first", "good:second", "duplicate"]
    assert report.rule_sources["good:first"] == str(good)
    assert report.mended == {"changed by `good:second`": 1}
    assert f"good:first ({good})" in report.to_text()
