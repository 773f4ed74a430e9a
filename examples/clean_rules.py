"""Cleaning rules of your own: every function here whose name has no leading underscore is one, in this order.

    ochatctl data clean CHATS --out clean.jsonl --rule-file examples/clean_rules.py

A rule sees one conversation, after the built-in rules. It gives the conversation back, as it is or a changed copy, or a
string: the reason to leave it out, by which the report counts.
"""

import dataclasses
import re

from ochatctl.chat.conversation import Conversation

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


def mask_addresses(conversation: Conversation) -> Conversation:
    """Put `[email]` in the place of every e-mail address."""
    messages = tuple(
        dataclasses.replace(message, content=_EMAIL.sub("[email]", message.content))
        for message in conversation.messages
    )
    return dataclasses.replace(conversation, messages=messages)


def answers_in_words(conversation: Conversation) -> Conversation | str:
    """Leave out conversations in which no answer has a letter."""
    answers = [message.content for message in conversation.messages if message.role == "assistant"]
    if any(char.isalpha() for answer in answers for char in answer):
        return conversation
    return "no answer has a word"
