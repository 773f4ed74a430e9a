"""Deltas -> OpenAI's chunks -> bytes. in: (choice, Delta) as they come, out: server-sent events.

The finish reason stands in a chunk of its own with an empty delta: OpenChat's web UI closes the stream when it sees it.
The plain path encodes only the text: everything round it is the same for every chunk of a choice, and encoded once.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from ochatctl.engine.base import Delta
from ochatctl.serve.protocol import (
    Chunk,
    ChunkChoice,
    ChunkDelta,
    Logprobs,
    RequestError,
    Usage,
    encode,
    error_body,
)

DONE = b"data: [DONE]\n\n"
_MARK = "\x00"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamHead:
    """What all chunks of a stream share."""

    id: str
    created: int
    model: str
    fingerprint: str
    num_choices: int
    num_prompt_tokens: int
    include_usage: bool


async def events(
    deltas: AsyncIterator[tuple[int, Delta]],
    head: StreamHead,
    to_logprobs: Callable[[Delta], Logprobs] | None = None,
) -> AsyncGenerator[bytes, None]:
    """Give a stream's events: a role chunk and text chunks a choice, its finish reason, usage if asked for, the end.

    Guarantees: the contents of a choice's chunks, joined, are the texts of its deltas, joined. Nothing is given before
    the first delta, so that a fault up to there can still be told with a status.
    """
    frames = [_frame(head, index) for index in range(head.num_choices)]
    begun = False
    num_tokens = 0
    async for index, delta in deltas:
        if not begun:
            begun = True
            for each in range(head.num_choices):
                yield _event(_chunk(head, ChunkChoice(index=each, delta=ChunkDelta(role="assistant", content=""))))
        num_tokens += len(delta.token_ids)
        if to_logprobs is not None and (delta.text or delta.logprobs):
            choice = ChunkChoice(index=index, delta=ChunkDelta(content=delta.text), logprobs=to_logprobs(delta))
            yield _event(_chunk(head, choice))
        elif delta.text:
            before, after = frames[index]
            yield before + encode(delta.text) + after
        if delta.finish_reason is not None:
            yield _event(_chunk(head, ChunkChoice(index=index, delta=ChunkDelta(), finish_reason=delta.finish_reason)))
    if head.include_usage:
        usage = Usage(
            prompt_tokens=head.num_prompt_tokens,
            completion_tokens=num_tokens,
            total_tokens=head.num_prompt_tokens + num_tokens,
        )
        yield _event(_chunk(head, None, usage))
    yield DONE


def error_event(error: RequestError) -> bytes:
    """Give the event that ends a stream which cannot go on; no `[DONE]` follows it."""
    return b"data: " + error_body(error) + b"\n\n"


def _chunk(head: StreamHead, choice: ChunkChoice | None, usage: Usage | None = None) -> Chunk:
    chunk = Chunk(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=[] if choice is None else [choice],
        system_fingerprint=head.fingerprint,
    )
    if head.include_usage:
        chunk.usage = usage
    return chunk


def _event(chunk: Chunk) -> bytes:
    return b"data: " + encode(chunk) + b"\n\n"


def _frame(head: StreamHead, index: int) -> tuple[bytes, bytes]:
    """Give what stands before and after the text of a plain chunk."""
    whole = _event(_chunk(head, ChunkChoice(index=index, delta=ChunkDelta(content=_MARK))))
    before, _, after = whole.partition(encode(_MARK))
    return before, after
