"""Deltas -> OpenAI's chunks -> bytes. in: a choice's Delta, out: server-sent events.

The finish reason stands in a chunk of its own without text: OpenChat's web UI closes the stream when it sees it.
The plain path encodes only the text: everything round it is the same for every chunk of a choice, and encoded once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ochatctl.engine.base import Delta
from ochatctl.serve.protocol import (
    Chunk,
    ChunkChoice,
    ChunkDelta,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Logprobs,
    RequestError,
    Usage,
    encode,
    error_body,
)

DONE = b"data: [DONE]\n\n"
_MARK = "\x00"
_Kind = TypeVar("_Kind", Chunk, Completion)


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


class Chunks(Protocol):
    """How one endpoint writes the chunks of a stream."""

    @property
    def with_logprobs(self) -> bool:
        """Whether each text comes with its tokens."""
        ...

    def opening(self, index: int) -> Chunk | Completion | None:
        """Give what comes before a choice's first text."""
        ...

    def text(self, index: int, text: str) -> Chunk | Completion:
        """Give a piece of text."""
        ...

    def text_with_logprobs(self, index: int, delta: Delta) -> Chunk | Completion:
        """Give a piece of text with its tokens."""
        ...

    def finish(self, index: int, reason: str) -> Chunk | Completion:
        """Give the end of a choice."""
        ...

    def end(self) -> Chunk | Completion:
        """Give a chunk without a choice, for the usage."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatChunks:
    """Chunks of `/v1/chat/completions`."""

    head: StreamHead
    to_logprobs: Callable[[int, Delta], Logprobs]
    with_logprobs: bool

    def opening(self, index: int) -> Chunk:
        return self._chunk(ChunkChoice(index=index, delta=ChunkDelta(role="assistant", content="")))

    def text(self, index: int, text: str) -> Chunk:
        return self._chunk(ChunkChoice(index=index, delta=ChunkDelta(content=text)))

    def text_with_logprobs(self, index: int, delta: Delta) -> Chunk:
        logprobs = self.to_logprobs(index, delta)
        return self._chunk(ChunkChoice(index=index, delta=ChunkDelta(content=delta.text), logprobs=logprobs))

    def finish(self, index: int, reason: str) -> Chunk:
        return self._chunk(ChunkChoice(index=index, delta=ChunkDelta(), finish_reason=reason))

    def end(self) -> Chunk:
        return self._chunk()

    def _chunk(self, *choices: ChunkChoice) -> Chunk:
        return _headed(Chunk, self.head, choices)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextChunks:
    """Chunks of `/v1/completions`. `echoes` is what stands before each choice's text, or nothing."""

    head: StreamHead
    to_logprobs: Callable[[int, Delta], CompletionLogprobs]
    with_logprobs: bool
    echoes: tuple[str, ...]

    def opening(self, index: int) -> Completion | None:
        return self.text(index, self.echoes[index]) if self.echoes else None

    def text(self, index: int, text: str) -> Completion:
        return self._chunk(CompletionChoice(index=index, text=text))

    def text_with_logprobs(self, index: int, delta: Delta) -> Completion:
        logprobs = self.to_logprobs(index, delta)
        return self._chunk(CompletionChoice(index=index, text=delta.text, logprobs=logprobs))

    def finish(self, index: int, reason: str) -> Completion:
        return self._chunk(CompletionChoice(index=index, text="", finish_reason=reason))

    def end(self) -> Completion:
        return self._chunk()

    def _chunk(self, *choices: CompletionChoice) -> Completion:
        return _headed(Completion, self.head, choices)


def _headed(kind: type[_Kind], head: StreamHead, choices: Sequence[Any]) -> _Kind:
    chunk = kind(
        id=head.id, created=head.created, model=head.model, choices=list(choices), system_fingerprint=head.fingerprint
    )
    if head.include_usage:
        chunk.usage = None
    return chunk


class Events:
    """Writes the events of one stream: what opens a choice, its texts, its finish reason, usage if asked for, the end.

    Guarantees: the texts of a choice's chunks, joined, are the texts of its deltas, joined. A token's text is an event
    of its own wherever it came in a delta of its own.
    """

    def __init__(self, head: StreamHead, chunks: Chunks) -> None:
        self._head = head
        self._chunks = chunks
        self._with_logprobs = chunks.with_logprobs
        self._frames = [_frame(chunks, index) for index in range(head.num_choices)]
        self._begun = False
        self._num_tokens = 0

    def of(self, index: int, delta: Delta) -> bytes:
        """Give the events of a delta; before those of the first, what opens every choice."""
        self._num_tokens += len(delta.token_ids)
        if self._begun and delta.finish_reason is None and not self._with_logprobs:
            before, after = self._frames[index]
            return before + encode(delta.text) + after if delta.text else b""
        out: list[bytes] = []
        if not self._begun:
            self._begun = True
            openings = map(self._chunks.opening, range(self._head.num_choices))
            out += [_event(opening) for opening in openings if opening]
        if self._with_logprobs and (delta.text or delta.logprobs):
            out.append(_event(self._chunks.text_with_logprobs(index, delta)))
        elif delta.text:
            before, after = self._frames[index]
            out += (before, encode(delta.text), after)
        if delta.finish_reason is not None:
            out.append(_event(self._chunks.finish(index, delta.finish_reason)))
        return b"".join(out)

    def end(self) -> bytes:
        """Give what comes after the last delta."""
        if not self._head.include_usage:
            return DONE
        end = self._chunks.end()
        end.usage = Usage(
            prompt_tokens=self._head.num_prompt_tokens,
            completion_tokens=self._num_tokens,
            total_tokens=self._head.num_prompt_tokens + self._num_tokens,
        )
        return _event(end) + DONE


def error_event(error: RequestError) -> bytes:
    """Give the event that ends a stream which cannot go on; no `[DONE]` follows it."""
    return b"data: " + error_body(error) + b"\n\n"


def _event(chunk: Chunk | Completion) -> bytes:
    return b"data: " + encode(chunk) + b"\n\n"


def _frame(chunks: Chunks, index: int) -> tuple[bytes, bytes]:
    """Give what stands before and after the text of a plain chunk."""
    whole = _event(chunks.text(index, _MARK))
    before, _, after = whole.partition(encode(_MARK))
    return before, after
