"""A refusal loses its weight in the loss; the conversation stays where something else is left to learn."""

import pytest

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.data.formats import Draft, Rejected
from ochatctl.data.refusals import FUSED_IN_OPENCHAT, PHRASES, PHRASES_AS_3_2_2, UnweighRefusals

Turn = tuple[str, str, float | None]


def weights_after(*turns: Turn, rule: UnweighRefusals | None = None) -> list[float | None] | str:
    messages = tuple(Message(role=role, content=text, weight=weight) for role, text, weight in turns)
    result = (rule or UnweighRefusals())(Draft(conversation=Conversation(messages=messages)))
    if isinstance(result, Rejected):
        return result.reason
    assert [message.content for message in result.conversation.messages] == [text for _, text, _ in turns]
    return [message.weight for message in result.conversation.messages]


GOOD = ("assistant", "Gladly.", None)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([("user", "Hi", None), GOOD], [None, None]),
        ([GOOD, ("assistant", "As an AI, I cannot.", None)], [None, 0.0]),
        ([GOOD, ("assistant", "AS AN ai LANGUAGE model", 0.5)], [None, 0.0]),
        ([GOOD, ("user", "As an AI, what do you think?", None)], [None, None]),
        ([("user", "No.", 1.0), ("assistant", "As an AI, no.", None)], [1.0, 0.0]),
        ([("user", "Hi", None), ("assistant", "As an AI, no.", None)], "every answer is a refusal"),
        ([("assistant", "As an AI, no.", 0.0), GOOD], [0.0, None]),
        ([("assistant", "As an AI, no.", 0.0)], [0.0]),
    ],
)
def test_only_an_answer_with_a_phrase_loses_its_weight(turns: list[Turn], expected: list[float | None] | str) -> None:
    assert weights_after(*turns) == expected


@pytest.mark.parametrize("phrase", PHRASES)
def test_each_phrase_is_found_in_any_case(phrase: str) -> None:
    assert weights_after(GOOD, ("assistant", f"Well, {phrase.upper()}.", None)) == [None, 0.0]


def test_the_five_phrases_that_the_original_fused_are_found_one_by_one() -> None:
    assert (len(PHRASES), len(PHRASES_AS_3_2_2)) == (68, 64)
    original = UnweighRefusals(PHRASES_AS_3_2_2)
    found_only_here = []
    for phrase in FUSED_IN_OPENCHAT:
        turns = (GOOD, ("assistant", f"({phrase})", None))
        assert weights_after(*turns) == [None, 0.0]
        if weights_after(*turns, rule=original) == [None, None]:
            found_only_here.append(phrase)
    assert len(found_only_here) == 5
