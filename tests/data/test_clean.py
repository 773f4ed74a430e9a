"""Cleaning: input = kept + rejected, always, and what comes out is clean."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ochatctl
from ochatctl.chat.conversation import Conversation, parse_conversation, read_conversations, to_json
from ochatctl.data.clean import RULES, CleanReport, choose_rules, clean_files, clean_items, rejected_path_of
from ochatctl.data.formats import Item, Rejected
from ochatctl.errors import ConfigError

SAMPLES = Path(ochatctl.__file__).parent / "samples" / "chats.json"


def run(*values: Any, rules: list[str] | None = None) -> tuple[CleanReport, list[Conversation | Rejected]]:
    report = CleanReport(rules=choose_rules() if rules is None else rules)
    items = [Item(where=f"item {number}", value=value) for number, value in enumerate(values)]
    return report, [result for _, result in clean_items(items, report)]


def chat(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([("human", " \n"), ("gpt", "Hello")], "a turn is empty"),
        ([("human", "Hi"), ("gpt", "")], "a turn is empty"),
        ([("human", "Hi")], "no answer"),
        ([("gpt", "Hello")], "no user turn"),
        ([("gpt", "Hello"), ("human", "Hi")], "no answer"),
    ],
)
def test_a_conversation_without_structure_is_rejected(turns: list[tuple[str, str]], reason: str) -> None:
    report, (result,) = run(chat(*turns))
    assert isinstance(result, Rejected)
    assert result.reason == reason
    assert report.rejected[reason].count == report.num_rejected == 1
    assert report.rejected[reason].where == "item 0"


def test_turns_of_the_same_role_are_merged_and_counted() -> None:
    report, (result,) = run(chat(("human", "a"), ("human", "b"), ("gpt", "c"), ("gpt", "d")))
    assert isinstance(result, Conversation)
    assert [(m.role, m.content) for m in result.messages] == [("user", "a\n\nb"), ("assistant", "c\n\nd")]
    assert report.mended == {"turns of the same role merged": 1}


def test_turns_with_other_weights_stay_apart() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.0}]
    _, (result,) = run({"messages": [*turns, {"role": "assistant", "content": "c"}]})
    assert isinstance(result, Conversation)
    assert [m.weight for m in result.messages] == [None, 0.0, None]


def test_leading_answers_are_dropped_and_counted() -> None:
    report, (result,) = run(chat(("gpt", "Welcome"), ("human", "Hi"), ("gpt", "Hello")))
    assert isinstance(result, Conversation)
    assert [m.content for m in result.messages] == ["Hi", "Hello"]
    assert report.mended == {"leading assistant turns dropped": 1}


def test_exact_duplicates_are_rejected_after_mending_and_whatever_their_id() -> None:
    plain = chat(("human", "Hi"), ("gpt", "Hello"), id="a")
    greeted = chat(("gpt", "x"), ("human", "Hi"), ("gpt", "Hello"))
    report, results = run(plain, plain | {"id": "b"}, greeted, plain | {"system": "Be brief."})
    assert [isinstance(result, Rejected) for result in results] == [False, True, True, False]
    assert report.rejected["a duplicate"].count == 2


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"model": "Model: GPT-4"}, "GPT4"),
        ({"model": "GPT-4"}, "GPT4"),
        ({"model": "Model: Default (GPT-3.5)"}, "GPT3"),
        ({"model": ""}, "GPT3"),
        ({"model": None}, ""),
        ({}, ""),
        ({"model": "Model: GPT-4", "condition": "Math"}, "Math"),
    ],
)
def test_the_class_comes_from_the_model_field(fields: dict[str, Any], condition: str) -> None:
    value = chat(("human", "Hi"), ("gpt", "Hello"), **fields)
    report, (result,) = run(value, rules=choose_rules(add=["class"]))
    assert isinstance(result, Conversation)
    assert result.condition == condition
    assert report.conditions == {condition: 1}
    _, (unlabelled,) = run(value)
    assert isinstance(unlabelled, Conversation)
    assert unlabelled.condition == fields.get("condition", "")


def test_rules_are_chosen_by_name() -> None:
    assert choose_rules() == ["empty", "merge", "lead", "answer", "duplicate"]
    assert choose_rules(add=["class"], leave_out=["duplicate", "lead"]) == ["empty", "merge", "answer", "class"]
    with pytest.raises(ConfigError, match="did you mean `duplicate`"):
        choose_rules(leave_out=["duplicates"])
    with pytest.raises(ConfigError, match="unknown rule set `plian`; did you mean `plain`"):
        choose_rules("plian")


@pytest.mark.parametrize("name", sorted(set(RULES) - {"class"}))
def test_a_rule_that_is_off_lets_through_what_it_would_touch(name: str) -> None:
    twice = chat(("human", "Hi"), ("gpt", "Hello"))
    values = [twice, twice, chat(("human", "a"), ("human", "b"), ("gpt", " c"))]
    values += [chat(("gpt", "a"), ("human", "d"), ("gpt", "e"))]
    values += [chat(("human", ""), ("gpt", "f")), chat(("human", "g"))]
    on, _ = run(*values)
    off, _ = run(*values, rules=choose_rules(leave_out=[name]))
    assert (on.num_kept, on.mended) != (off.num_kept, off.mended)


roles = st.sampled_from(["human", "gpt", "system", "bing", "narrator"])
turns = st.lists(st.fixed_dictionaries({"from": roles, "value": st.sampled_from(["", "a", "b", 3])}), max_size=4)
values = st.fixed_dictionaries({"conversations": turns}) | st.sampled_from([None, [], 3, {"items": 4}])


@given(st.lists(values, max_size=30), st.sets(st.sampled_from(sorted(RULES))))
@settings(deadline=None, max_examples=150)
def test_input_is_kept_plus_rejected_and_the_output_is_clean(items: list[Any], chosen: set[str]) -> None:
    rules = [name for name in RULES if name in chosen]
    report, results = run(*items, rules=rules)
    kept = [result for result in results if isinstance(result, Conversation)]
    assert report.num_input == len(items) == len(results)
    assert report.num_kept == len(kept) == sum(report.conditions.values())
    assert report.num_input == report.num_kept + report.num_rejected
    for conversation in kept:
        assert parse_conversation(to_json(conversation), where="") == conversation
    again, results = run(*map(to_json, kept), rules=rules)
    assert results == kept
    assert not again.mended


def test_the_samples_come_out_clean(tmp_path: Path) -> None:
    out = tmp_path / "clean.jsonl"
    report = clean_files([SAMPLES], out, rules=choose_rules(add=["class"]))
    assert report.num_input == len(json.loads(SAMPLES.read_text(encoding="utf-8")))
    assert report.num_input == report.num_kept + report.num_rejected
    assert report.num_rejected >= 15
    assert set(report.mended) == {"turns of the same role merged", "leading assistant turns dropped"}
    kept = list(read_conversations(out))
    assert len(kept) == report.num_kept > 200
    assert {conversation.condition for conversation in kept} == {"GPT4", "GPT3", ""}
    lines = rejected_path_of(out).read_text(encoding="utf-8").splitlines()
    assert len(lines) == report.num_rejected
    assert set(json.loads(lines[0])) == {"reason", "detail", "where", "item"}


def test_several_files_are_one_input_and_duplicates_are_found_across_them(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.jsonl"
    first.write_text(json.dumps([chat(("human", "Hi"), ("gpt", "Hello"), id="a")]))
    second.write_bytes(json.dumps(chat(("human", "Hi"), ("gpt", "Hello"), id="b")).encode() + b"\nnot json \xff\n")
    report = clean_files([first, second], tmp_path / "out.jsonl", rules=choose_rules())
    assert (report.num_input, report.num_kept) == (3, 1)
    assert report.rejected["a duplicate"].where == f"{second}:1"
    assert (tmp_path / "out.rejected.jsonl").read_text(encoding="ascii").count("\n") == 2
