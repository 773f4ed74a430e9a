"""Rules that keep, mend or reject conversations, and the report that counts every one.

in: chat files of any known format, out: conversation JSONL, what was rejected beside it, and a CleanReport.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ochatctl.chat.conversation import Conversation, Message, to_json
from ochatctl.config import did_you_mean
from ochatctl.data.formats import Draft, Item, Rejected, read_items, to_draft
from ochatctl.errors import ConfigError
from ochatctl.files import atomic_file

Rule = Callable[[Draft], Draft | Rejected]

_MERGED_BY = "\n\n"


@dataclass(kw_only=True, slots=True)
class Tally:
    """How many conversations a reason took, and the first of them."""

    count: int
    where: str
    detail: str


@dataclass(kw_only=True, slots=True)
class CleanReport:
    """What became of every conversation: `num_input` = `num_kept` + the counts in `rejected`.

    `mended` counts conversations by what was changed in them, `conditions` those that were kept.
    """

    rules: list[str]
    num_input: int = 0
    num_kept: int = 0
    rejected: dict[str, Tally] = field(default_factory=dict)
    mended: Counter[str] = field(default_factory=Counter)
    conditions: Counter[str] = field(default_factory=Counter)
    out_path: str = ""
    rejected_path: str = ""

    @property
    def num_rejected(self) -> int:
        """How many were left out."""
        return sum(tally.count for tally in self.rejected.values())


def reject_empty_turns(draft: Draft) -> Draft | Rejected:
    """Reject a conversation with a turn that is empty or blank."""
    for number, message in enumerate(draft.conversation.messages, start=1):
        if not message.content.strip():
            return Rejected(reason="a turn is empty", detail=f"turn {number}")
    return draft


def merge_same_role(draft: Draft) -> Draft | Rejected:
    """Join turns of the same side that follow each other, with a blank line between."""
    merged: list[Message] = []
    for message in draft.conversation.messages:
        last = merged[-1] if merged else None
        if last is not None and (last.role, last.weight) == (message.role, message.weight):
            merged[-1] = dataclasses.replace(last, content=last.content + _MERGED_BY + message.content)
        else:
            merged.append(message)
    return _mended(draft, merged, "turns of the same role merged")


def drop_leading_answers(draft: Draft) -> Draft | Rejected:
    """Drop assistant turns that stand before the first user turn: they answer nothing."""
    messages = draft.conversation.messages
    first = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        return Rejected(reason="no user turn")
    return _mended(draft, messages[first:], "leading assistant turns dropped")


def require_answer(draft: Draft) -> Draft | Rejected:
    """Reject a conversation in which the assistant never speaks."""
    if any(message.role == "assistant" for message in draft.conversation.messages):
        return draft
    return Rejected(reason="no answer")


def set_class(draft: Draft) -> Draft | Rejected:
    """Set the condition from the item's `model`: GPT-4 gives `GPT4`, any other `GPT3`, none leaves it unset.

    Source: OpenChat 3.2.2, which takes `Model: GPT-4` alone for GPT4.
    """
    if draft.model is None or draft.conversation.condition:
        return draft
    name = draft.model.strip().casefold().removeprefix("model:").strip()
    condition = "GPT4" if name == "gpt-4" else "GPT3"
    return dataclasses.replace(draft, conversation=dataclasses.replace(draft.conversation, condition=condition))


class RejectDuplicates:
    """Rejects a conversation whose system message and turns equal those of an earlier one, in any input."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, draft: Draft) -> Draft | Rejected:
        key = _digest(draft.conversation)
        if key in self._seen:
            return Rejected(reason="a duplicate")
        self._seen.add(key)
        return draft


# In the order in which they are applied. Each call makes a new rule, since one may remember what it saw.
RULES: dict[str, Callable[[], Rule]] = {
    "empty": lambda: reject_empty_turns,
    "merge": lambda: merge_same_role,
    "lead": lambda: drop_leading_answers,
    "answer": lambda: require_answer,
    "duplicate": RejectDuplicates,
    "class": lambda: set_class,
}
RULE_SETS: dict[str, tuple[str, ...]] = {"plain": ("empty", "merge", "lead", "answer", "duplicate")}


def choose_rules(rule_set: str = "plain", *, add: Iterable[str] = (), leave_out: Iterable[str] = ()) -> list[str]:
    """Give the names of the rules to apply, in their order.

    Raises:
        ConfigError: an unknown set or rule.
    """
    if rule_set not in RULE_SETS:
        raise ConfigError(f"unknown rule set `{rule_set}`{did_you_mean(rule_set, RULE_SETS)}")
    add, leave_out = set(add), set(leave_out)
    for name in sorted(add | leave_out):
        if name not in RULES:
            known = ", ".join(f"`{rule}`" for rule in RULES)
            raise ConfigError(f"unknown rule `{name}`{did_you_mean(name, RULES)}", hint=f"the rules are {known}")
    wanted = (set(RULE_SETS[rule_set]) | add) - leave_out
    return [name for name in RULES if name in wanted]


def clean_items(items: Iterable[Item], report: CleanReport) -> Iterator[tuple[Item, Conversation | Rejected]]:
    """Apply the report's rules to items, one by one, and count into the report."""
    rules = [RULES[name]() for name in report.rules]
    for item in items:
        report.num_input += 1
        draft = Rejected(reason=item.problem) if item.problem else to_draft(item.value)
        for rule in rules:
            if isinstance(draft, Rejected):
                break
            draft = rule(draft)
        if isinstance(draft, Rejected):
            tally = report.rejected.setdefault(draft.reason, Tally(count=0, where=item.where, detail=draft.detail))
            tally.count += 1
            yield item, draft
        else:
            report.num_kept += 1
            report.mended.update(draft.mended)
            report.conditions[draft.conversation.condition] += 1
            yield item, draft.conversation


def rejected_path_of(out_path: Path) -> Path:
    """Give the file beside `F.jsonl` that takes what was rejected, `F.rejected.jsonl`."""
    return out_path.with_name(f"{out_path.name.removesuffix('.jsonl')}.rejected.jsonl")


def clean_files(
    paths: Sequence[Path], out_path: Path, *, rules: Sequence[str], advance: Callable[[int], None] = lambda count: None
) -> CleanReport:
    """Clean files into `out_path`, and write what was rejected beside it.

    Guarantees: the order is that of the files and of what they hold; both outputs appear whole or not at all.

    Raises:
        DataError: an input is missing.
    """
    rejected_path = rejected_path_of(out_path)
    report = CleanReport(rules=list(rules), out_path=str(out_path), rejected_path=str(rejected_path))
    items = (item for path in paths for item in read_items(path))
    with (
        atomic_file(rejected_path) as bad_part,
        atomic_file(out_path) as good_part,
        good_part.open("w", encoding="utf-8") as good,
        # In ASCII, a lone surrogate of what was rejected is JSON's own escape.
        bad_part.open("w", encoding="ascii") as bad,
    ):
        for item, result in clean_items(items, report):
            if isinstance(result, Conversation):
                good.write(json.dumps(to_json(result), ensure_ascii=False) + "\n")
            else:
                record = {"reason": result.reason, "detail": result.detail, "where": item.where, "item": item.value}
                bad.write(json.dumps(record, default=str) + "\n")
            advance(1)
    return report


def _mended(draft: Draft, messages: Sequence[Message], what: str) -> Draft:
    if len(messages) == len(draft.conversation.messages):
        return draft
    conversation = dataclasses.replace(draft.conversation, messages=tuple(messages))
    return dataclasses.replace(draft, conversation=conversation, mended=(*draft.mended, what))


def _digest(conversation: Conversation) -> bytes:
    text = json.dumps([conversation.system, [[m.role, m.content] for m in conversation.messages]], ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
