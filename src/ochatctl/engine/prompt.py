"""A conversation -> the prompt that an engine goes on from, with the room that is left for the answer.

Server, `chat` and benchmarks all come through here, so that they cannot disagree about where an answer ends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ochatctl.chat.conversation import Conversation
from ochatctl.chat.families import Family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.errors import DataError
from ochatctl.files import read_optional_table

# How much of a continued message the detokenizer sees: enough for any leading space and any split character.
CONTEXT_TOKENS = 16
_SHORTEN = "shorten the conversation, or start a new one"


class PromptTooLong(DataError):
    """The conversation alone fills the context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What goes into an engine. `context_ids` end the assistant message to be continued, if there is one.

    A `warning` says what was asked for and can hardly be had.
    """

    token_ids: list[int]
    max_tokens: int
    context_ids: tuple[int, ...] = ()
    warning: str = ""


def fit_prompt(
    conversation: Conversation,
    *,
    family: Family,
    tokenizer: Tokenizer,
    context_tokens: int,
    max_tokens: int | None = None,
    trained_conditions: tuple[str, ...] = (),
) -> Prompt:
    """Give the prompt of a conversation; `max_tokens` is cut to the room that is left, and None means all of it.

    `trained_conditions` are those that the model's card lists, empty where it does not say.

    Raises:
        PromptTooLong: no room for one token.
        DataError: text that cannot be encoded, or a condition that the family does not take.
    """
    if conversation.condition and not family.template.takes_condition:
        raise DataError(f"the family `{family.name}` takes no condition", hint="ask without `--condition`")
    check_size(
        (conversation.system, *(message.content for message in conversation.messages)),
        tokenizer=tokenizer,
        context_tokens=context_tokens,
    )
    token_ids = family.template.encode(conversation, tokenizer, inference=True).token_ids
    room = room_tokens(token_ids, context_tokens)
    last = conversation.messages[-1]
    context: tuple[int, ...] = ()
    if last.role == "assistant" and last.content:
        num_tokens = min(len(tokenizer.encode_text(last.content)), CONTEXT_TOKENS)
        context = tuple(token_ids[-num_tokens:])
    warning = ""
    if conversation.condition and trained_conditions and conversation.condition not in trained_conditions:
        warning = f"the condition asked for was not trained; trained: {', '.join(trained_conditions)}"
    return Prompt(
        token_ids=token_ids,
        max_tokens=room if max_tokens is None else min(max_tokens, room),
        context_ids=context,
        warning=warning,
    )


def check_size(texts: Iterable[str], *, tokenizer: Tokenizer, context_tokens: int) -> None:
    """Refuse, unencoded, texts that fill the context even if every token were the longest: encoding them takes seconds.

    Raises:
        PromptTooLong: names the bytes.
    """
    most = context_tokens * tokenizer.longest_token_bytes
    num_bytes = sum(len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in texts)
    if most and num_bytes > most:
        raise PromptTooLong(
            f"the prompt has {num_bytes} bytes, and the context of {context_tokens} tokens holds {most} at the most",
            hint=_SHORTEN,
        )


def room_tokens(token_ids: Sequence[int], context_tokens: int) -> int:
    """Give the tokens that are left for an answer.

    Raises:
        PromptTooLong: there are none.
    """
    room = context_tokens - len(token_ids)
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {len(token_ids)} tokens, and the context holds {context_tokens}, the answer included",
            hint=_SHORTEN,
        )
    return room


def stop_token_ids(family: Family, tokenizer: Tokenizer, model_dir: Path | None = None) -> tuple[int, ...]:
    """Give the ids that end an answer: the family's end-of-turn token, and what the model folder names as its eos."""
    out = {family.template.eot_id(tokenizer): None}
    if model_dir is not None:
        for name in ("generation_config.json", "config.json"):
            value = read_optional_table(model_dir / name).get("eos_token_id")
            for token_id in value if isinstance(value, list) else [value]:
                if isinstance(token_id, int) and 0 <= token_id < tokenizer.num_tokens:
                    out[token_id] = None
        eos = read_optional_table(model_dir / "tokenizer_config.json").get("eos_token")
        text = eos.get("content") if isinstance(eos, dict) else eos
        token = tokenizer.token_id(text) if isinstance(text, str) else None
        if token is not None:
            out[token] = None
    return tuple(out)
