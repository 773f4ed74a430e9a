"""A conversation longer than the context -> pieces that fit, with every supervised token in exactly one of them.

in: Conversation, out: the Encoded of each piece, and how many prompts were cut.

It is split between exchanges (a user's turns and the answer to them); each piece begins with the system message. An
exchange that is itself too long is cut in the ids of its one `encode()`: each part repeats the prompt, and some of what
stands before the cut, at weight 0; of a prompt longer than half the context, its header and its end, and that is
counted. A part that ends inside a turn has no end-of-turn token.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.template import ChatTemplate, Encoded
from ochatctl.chat.tokenizer import Tokenizer

SHORTEST_CONTEXT_TOKENS = 16

_SENTENCE_ENDS = (".", "!", "?", "\n", "。", "！", "？", "…")
_OVERLAP_RATIO = 1 / 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """What a conversation was split into; of `num_cut_prompts` prompts no piece holds the whole."""

    encoded: list[Encoded]
    num_cut_prompts: int


def split(conversation: Conversation, template: ChatTemplate, tokenizer: Tokenizer, *, context_tokens: int) -> Pieces:
    """Give the pieces of a conversation, at least one.

    Guarantees: no piece is longer than the context; the supervised ids of all pieces, joined, are those of the
    conversation, each with its weight.
    """
    whole = template.encode(conversation, tokenizer)
    if len(whole.token_ids) <= context_tokens:
        return Pieces(encoded=[whole], num_cut_prompts=0)

    def encode(*messages: Message) -> Encoded:
        return template.encode(dataclasses.replace(conversation, messages=messages), tokenizer)

    blank = Message(role="user", content="")
    num_header, num_blank = len(encode().token_ids), len(encode(blank).token_ids)
    pieces: list[Encoded] = []
    pending: list[Message] = []
    num_pending = num_cut_prompts = 0
    for exchange in _exchanges(conversation.messages):
        # What comes after an end of turn may begin with the template's own text, so a later exchange differs from a
        # first one; apart from that, lengths add up, since every piece of text is encoded by itself.
        num_more = len(encode(blank, *exchange).token_ids) - num_blank
        if pending and num_pending + num_more <= context_tokens:
            pending += exchange
            num_pending += num_more
            continue
        if pending:
            pieces.append(encode(*pending))
        alone = encode(*exchange)
        pending, num_pending = list(exchange), len(alone.token_ids)
        if num_pending > context_tokens:
            parts, is_prompt_cut = _cut(alone, tokenizer, num_header=num_header, context_tokens=context_tokens)
            pieces += parts
            num_cut_prompts += is_prompt_cut
            pending = []
    if pending:
        pieces.append(encode(*pending))
    return Pieces(encoded=pieces, num_cut_prompts=num_cut_prompts)


def truncate(encoded: Encoded, *, context_tokens: int) -> Encoded:
    """Give the first tokens, as many as the context holds."""
    return Encoded(token_ids=encoded.token_ids[:context_tokens], loss_weights=encoded.loss_weights[:context_tokens])


def _exchanges(messages: Sequence[Message]) -> Iterator[list[Message]]:
    exchange: list[Message] = []
    for message in messages:
        if exchange and message.role == "user" and exchange[-1].role != "user":
            yield exchange
            exchange = []
        exchange.append(message)
    yield exchange


def _cut(encoded: Encoded, tokenizer: Tokenizer, *, num_header: int, context_tokens: int) -> tuple[list[Encoded], bool]:
    """Give the parts of an exchange, and whether its prompt lost tokens."""
    ids, weights = encoded.token_ids, encoded.loss_weights
    supervised = [index for index, weight in enumerate(weights) if weight != 0]
    if not supervised:
        return [truncate(encoded, context_tokens=context_tokens)], False
    first, end = supervised[0], supervised[-1] + 1
    head = _head(ids[:first], num_header, len(tokenizer.bos_ids), context_tokens // 2)
    parts: list[Encoded] = []
    start = first
    while start < end:
        repeated = min(start - first, int(context_tokens * _OVERLAP_RATIO))
        stop = min(start + context_tokens - len(head) - repeated, end)
        if stop < end:
            stop = _after_sentence(ids, start, stop, tokenizer)
        parts.append(
            Encoded(
                token_ids=head + ids[start - repeated : stop],
                loss_weights=[0.0] * (len(head) + repeated) + weights[start:stop],
            )
        )
        start = stop
    return parts, len(head) < first


def _head(prompt: list[int], num_header: int, num_bos: int, most: int) -> list[int]:
    """Give the prompt that each part repeats: whole, or its header and its end."""
    if len(prompt) <= most:
        return prompt
    kept = num_header if num_header <= most // 2 else num_bos
    return prompt[:kept] + prompt[len(prompt) - (most - kept) :]


def _after_sentence(ids: list[int], start: int, stop: int, tokenizer: Tokenizer) -> int:
    """Give the last place after a sentence or paragraph in the second half of a part, else its end."""
    for index in range(stop, start + (stop - start) // 2, -1):
        if tokenizer.decode([ids[index - 1]]).rstrip(" ").endswith(_SENTENCE_ENDS):
            return index
    return stop
