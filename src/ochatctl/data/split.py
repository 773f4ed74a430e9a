"""A record longer than the context -> pieces that fit, with every supervised token in exactly one of them.

in: a Conversation or Document with the Encoded of the whole, out: the Encoded of each piece, and how many prompts were
cut.

A conversation is split between exchanges (a user's turns and the answer to them); each piece begins with the system
message, and may repeat the last exchanges of the piece before at weight 0. An exchange that is itself too long is cut
in the ids of its one `encode()`: each part repeats the prompt, and some of what stands before the cut, at weight 0; of
a prompt longer than half the context, its header and its end, and that is counted. A part that ends inside a turn has
no end-of-turn token.

A document is cut after a paragraph or sentence; each later piece begins with the bos and the last token before the cut
at weight 0, so that the first new token is predicted as well.

The whole is encoded once and pieces are slices of it: the cost is linear in its length.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.template import ChatTemplate, Encoded
from ochatctl.chat.tokenizer import Tokenizer

SHORTEST_CONTEXT_TOKENS = 16

_SENTENCE_ENDS = (".", "!", "?", "\n", "。", "！", "？", "…")
_OVERLAP_RATIO = 1 / 8
# What is carried over takes at most this share, so that a conversation at most doubles.
_CARRY_RATIO = 1 / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """What a conversation was split into; of `num_cut_prompts` prompts no piece holds the whole."""

    encoded: list[Encoded]
    num_cut_prompts: int


def split(
    conversation: Conversation,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    context_tokens: int,
    carry_turns: int = 0,
    whole: Encoded | None = None,
) -> Pieces:
    """Give the pieces of a conversation, at least one.

    `carry_turns` exchanges of the piece before are repeated unsupervised, as many as fit beside what is new and in
    half the context. `whole` is the conversation's encoding where the caller has it, with weights of its own choice.

    Guarantees: no piece is longer than the context; the supervised ids of all pieces, joined, are those of the
    conversation, each with its weight; a piece that is not cut has the ids that its messages encode to.
    """
    whole = template.encode(conversation, tokenizer) if whole is None else whole
    if len(whole.token_ids) <= context_tokens:
        return Pieces(encoded=[whole], num_cut_prompts=0)
    slices = _Slices(conversation, template, tokenizer, whole)
    sentences = _Sentences(tokenizer)
    exchanges = _exchanges(conversation.messages)
    pieces: list[Encoded] = []
    num_cut_prompts = 0
    # The messages of the piece that is being filled: carried ones from `first`, its own from `own` up to `end`.
    first = own = end = 0
    for number, (start, stop) in enumerate(exchanges):
        if first < end and slices.num_tokens(first, stop) <= context_tokens:
            end = stop
            continue
        if first < end:
            pieces.append(slices.encoded(first, own, end))
        first = own = start
        end = stop
        if slices.num_tokens(start, stop) > context_tokens:
            alone = slices.encoded(start, start, stop)
            parts, is_prompt_cut = _cut(alone, sentences, slices, context_tokens)
            pieces += parts
            num_cut_prompts += is_prompt_cut
            first = end
            continue
        for before, _ in reversed(exchanges[max(0, number - carry_turns) : number]):
            fits = slices.num_tokens(before, start) <= context_tokens * _CARRY_RATIO
            if not fits or slices.num_tokens(before, stop) > context_tokens:
                break
            first = before
    if first < end:
        pieces.append(slices.encoded(first, own, end))
    return Pieces(encoded=pieces, num_cut_prompts=num_cut_prompts)


def split_document(whole: Encoded, tokenizer: Tokenizer, *, context_tokens: int) -> list[Encoded]:
    """Give the pieces of a document's encoding, at least one.

    Guarantees: no piece is longer than the context; every token but the first of all is supervised in exactly one
    piece, with its weight, and in order.
    """
    ids, weights = whole.token_ids, whole.loss_weights
    if len(ids) <= context_tokens:
        return [whole]
    sentences = _Sentences(tokenizer)
    pieces: list[Encoded] = []
    head: list[int] = []
    start = 0
    while start < len(ids):
        stop = min(start + context_tokens - len(head), len(ids))
        if stop < len(ids):
            stop = sentences.last_end(ids, start, stop)
        pieces.append(Encoded(token_ids=head + ids[start:stop], loss_weights=[0.0] * len(head) + weights[start:stop]))
        start, head = stop, [*tokenizer.bos_ids, ids[stop - 1]]
    return pieces


def truncate(encoded: Encoded, *, context_tokens: int) -> Encoded:
    """Give the first tokens, as many as the context holds."""
    return Encoded(token_ids=encoded.token_ids[:context_tokens], loss_weights=encoded.loss_weights[:context_tokens])


class _Slices:
    """Runs of a conversation's messages as conversations of their own, cut out of its one encoding.

    What comes after an end of turn may begin with the template's own text, so a message that begins a piece needs
    another role prefix than inside the whole; the rest is the same ids, since every piece of text is encoded by itself.
    """

    def __init__(
        self, conversation: Conversation, template: ChatTemplate, tokenizer: Tokenizer, whole: Encoded
    ) -> None:
        self._whole = whole
        self._roles = [message.role for message in conversation.messages]
        self.num_header = whole.turns[0].start
        self.num_bos = len(tokenizer.bos_ids)
        self._openings: dict[str, list[int]] = {}
        for role in set(self._roles):
            blank = dataclasses.replace(conversation, messages=(Message(role=role, content=""),))
            encoded = template.encode(blank, tokenizer)
            self._openings[role] = encoded.token_ids[: encoded.turns[0].content_start]

    def num_tokens(self, first: int, end: int) -> int:
        turns = self._whole.turns
        return len(self._openings[self._roles[first]]) + turns[end - 1].end - turns[first].content_start

    def encoded(self, first: int, own: int, end: int) -> Encoded:
        """Give the ids of messages `first` to `end`; those before `own` have the weight 0."""
        turns, whole = self._whole.turns, self._whole
        opening = self._openings[self._roles[first]]
        start, supervised, stop = turns[first].content_start, turns[own].content_start, turns[end - 1].end
        return Encoded(
            token_ids=opening + whole.token_ids[start:stop],
            loss_weights=[0.0] * (len(opening) + supervised - start) + whole.loss_weights[supervised:stop],
        )


class _Sentences:
    """Finds where sentences end in ids; each id is decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_end: dict[int, bool] = {}

    def last_end(self, ids: list[int], start: int, stop: int) -> int:
        """Give the last place after a sentence or paragraph in the second half of a part, else its end."""
        for index in range(stop, start + (stop - start) // 2, -1):
            if self._ends(ids[index - 1]):
                return index
        return stop

    def _ends(self, token_id: int) -> bool:
        is_end = self._is_end.get(token_id)
        if is_end is None:
            is_end = self._tokenizer.decode([token_id]).rstrip(" ").endswith(_SENTENCE_ENDS)
            self._is_end[token_id] = is_end
        return is_end


def _exchanges(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Give where each exchange begins and ends: a user's turn after another's begins one."""
    starts = [0]
    for index, (before, message) in enumerate(itertools.pairwise(messages), start=1):
        if message.role == "user" and before.role != "user":
            starts.append(index)
    return list(itertools.pairwise([*starts, len(messages)]))


def _cut(encoded: Encoded, sentences: _Sentences, slices: _Slices, context_tokens: int) -> tuple[list[Encoded], bool]:
    """Give the parts of an exchange, and whether its prompt lost tokens."""
    ids, weights = encoded.token_ids, encoded.loss_weights
    supervised = [index for index, weight in enumerate(weights) if weight != 0]
    if not supervised:
        return [truncate(encoded, context_tokens=context_tokens)], False
    first, end = supervised[0], supervised[-1] + 1
    head = _head(ids[:first], slices, context_tokens // 2)
    parts: list[Encoded] = []
    start = first
    while start < end:
        repeated = min(start - first, int(context_tokens * _OVERLAP_RATIO))
        stop = min(start + context_tokens - len(head) - repeated, end)
        if stop < end:
            stop = sentences.last_end(ids, start, stop)
        parts.append(
            Encoded(
                token_ids=head + ids[start - repeated : stop],
                loss_weights=[0.0] * (len(head) + repeated) + weights[start:stop],
            )
        )
        start = stop
    return parts, len(head) < first


def _head(prompt: list[int], slices: _Slices, most: int) -> list[int]:
    """Give the prompt that each part repeats: whole, or its header and its end."""
    if len(prompt) <= most:
        return prompt
    kept = slices.num_header if slices.num_header <= most // 2 else slices.num_bos
    return prompt[:kept] + prompt[len(prompt) - (most - kept) :]
