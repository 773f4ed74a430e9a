"""Each rule by itself: what it mends, what it rejects, and what it lets through."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.data.formats import Draft, Rejected
from ochatctl.data.rules import COMPAT_3_2_2, RULE_SETS, RULES, RuleOptions, choose_rules, make_rules
from ochatctl.errors import ConfigError

Turns = list[tuple[str, str]]
ROLES = {"u": "user", "a": "assistant"}


def draft(*turns: tuple[str, str], model: str | None = None, condition: str = "") -> Draft:
    messages = tuple(Message(role=ROLES[role], content=text) for role, text in turns)
    return Draft(conversation=Conversation(messages=messages, condition=condition), model=model)


def apply(name: str, value: Draft, **options: Any) -> Draft | Rejected:
    (rule,), _ = make_rules([name], RuleOptions(**options))
    return rule(value)


def turns_of(result: Draft | Rejected) -> Turns:
    assert isinstance(result, Draft), result
    return [(message.role[0], message.content) for message in result.conversation.messages]


HI = [("u", "Hi"), ("a", "Hello")]


@pytest.mark.parametrize(
    ("name", "turns", "expected"),
    [
        ("merge", [("u", "a"), ("u", "b"), ("a", "c"), ("a", "d")], [("u", "a\n\nb"), ("a", "c\n\nd")]),
        ("merge", [("u", "a"), ("u", " \n"), ("a", ""), ("a", "d")], [("u", "a"), ("a", "d")]),
        ("merge", HI, HI),
        ("lead", [("a", "Welcome"), ("a", "!"), *HI], HI),
        ("lead", HI, HI),
        ("lead", [("a", "Welcome")], "no user turn"),
        ("tail", [*HI, ("u", "Bye"), ("u", "?")], HI),
        ("tail", [*HI, ("u", "Bye"), ("a", "\u200b")], HI),
        ("tail", [*HI, ("u", "Bye"), ("a", ""), ("u", "?"), ("a", "!")], HI),
        ("tail", [*HI, ("u", ""), ("a", "A picture.")], HI),
        ("tail", [("u", ""), *HI[1:]], [("u", ""), *HI[1:]]),
        ("tail", [("u", "Hi"), ("a", " ")], [("u", "Hi"), ("a", " ")]),
        ("tail", HI, HI),
        ("tail", [("u", "Hi")], "no answer"),
        ("empty", [("u", " \n"), ("a", "Hello")], "a turn is empty"),
        ("empty", [("u", "Hi"), ("a", "")], "a turn is empty"),
        ("empty", [("u", "Hi"), ("a", "\u200b\ufeff\u00a0")], "a turn is empty"),
        ("empty", [("u", "."), ("a", "0")], [("u", "."), ("a", "0")]),
        ("answer", [("u", "Hi")], "no answer"),
        ("answer", HI, HI),
        ("short", [("u", "1234567"), ("a", "12345678")], "too short"),
        ("short", [("u", "12345678"), ("a", "12345678")], [("u", "12345678"), ("a", "12345678")]),
    ],
)
def test_a_rule_of_structure(name: str, turns: Turns, expected: Turns | str) -> None:
    value = draft(*turns)
    result = apply(name, value)
    if isinstance(expected, str):
        assert isinstance(result, Rejected)
        assert result.reason == expected
        return
    assert turns_of(result) == expected
    assert isinstance(result, Draft)
    assert bool(result.mended) == (turns != expected)


def test_turns_with_other_weights_stay_apart() -> None:
    first, second = Message(role="assistant", content="b", weight=0.0), Message(role="assistant", content="c")
    result = apply("merge", Draft(conversation=Conversation(messages=(first, second))))
    assert turns_of(result) == [("a", "b"), ("a", "c")]


@pytest.mark.parametrize(
    ("model", "given", "condition"),
    [
        ("Model: GPT-4", "", "GPT4"),
        ("GPT-4", "", "GPT4"),
        (" model:  gpt-4 ", "", "GPT4"),
        ("Model: GPT-4o", "", "GPT3"),
        ("Model: Default (GPT-3.5)", "", "GPT3"),
        ("", "", "GPT3"),
        (None, "", ""),
        ("Model: GPT-4", "Math", "Math"),
    ],
)
def test_the_class_comes_from_the_model_field(model: str | None, given: str, condition: str) -> None:
    result = apply("class", draft(*HI, model=model, condition=given))
    assert isinstance(result, Draft)
    assert result.conversation.condition == condition


def test_rules_are_chosen_by_name_and_come_in_their_order() -> None:
    assert choose_rules() == ["merge", "lead", "empty", "answer", "duplicate"]
    assert choose_rules(add=["class"], leave_out=["duplicate", "lead"]) == ["merge", "empty", "answer", "class"]
    assert choose_rules("sharegpt") == [name for name in RULES if name != "contaminated"]
    assert all(list(names) == [name for name in RULES if name in names] for names in RULE_SETS.values())
    with pytest.raises(ConfigError, match="did you mean `duplicate`"):
        choose_rules(leave_out=["duplicates"])
    with pytest.raises(ConfigError, match="unknown rule set `plian`; did you mean `plain`"):
        choose_rules("plian")
    with pytest.raises(ConfigError, match="`html` is turned on and off"):
        choose_rules(add=["html"], leave_out=["html"])
    with pytest.raises(ConfigError, match="unknown `--compat old`"):
        RuleOptions(compat="old")


texts = st.sampled_from(["", " ", "a", "<div class='markdown'><p>x", "<p>x</p>", "<![x", "``` Copy code ```", "1 / 2"])
texts |= st.text(max_size=12)
any_turns = st.lists(st.tuples(st.sampled_from("ua"), texts), min_size=1, max_size=5)
both = {compat: make_rules(RULES, RuleOptions(compat=compat))[0] for compat in ("", COMPAT_3_2_2)}


@given(any_turns, st.sampled_from(sorted(both)))
@settings(deadline=None, max_examples=25)
def test_no_rule_raises_on_any_draft_and_none_leaves_a_conversation_without_turns(turns: Turns, compat: str) -> None:
    for rule in both[compat]:
        result = rule(draft(*turns))
        assert isinstance(result, Rejected) or result.conversation.messages
