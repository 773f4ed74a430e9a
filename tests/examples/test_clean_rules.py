"""`examples/clean_rules.py` is a rule file whose rules do what they say."""

from pathlib import Path

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.data.formats import Draft, Rejected
from ochatctl.data.user_rules import load_rule_files

EXAMPLE = Path(__file__).parents[2] / "examples" / "clean_rules.py"


def test_the_example_s_rules_mask_and_reject() -> None:
    mask, in_words = load_rule_files([EXAMPLE])
    turns = [("user", "Write to a.b+c@d-e.org, or to @f."), ("assistant", "12.")]
    draft = Draft(conversation=Conversation(messages=tuple(Message(role=role, content=text) for role, text in turns)))
    masked = mask(draft)
    assert isinstance(masked, Draft)
    assert [message.content for message in masked.conversation.messages] == ["Write to [email], or to @f.", "12."]
    assert masked.mended == ("changed by `clean_rules:mask_addresses`",)
    assert mask(masked) is masked
    assert in_words(draft) == Rejected(reason="no answer has a word", detail="`clean_rules:answers_in_words`")
