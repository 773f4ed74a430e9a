"""The two ways to ask for an answer, as one protocol: what differs between chats and completions, and nothing else.

in: a body, out: what to draw; in: what was drawn, out: the answer's wire type
"""

import time
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ochatctl import __version__
from ochatctl.engine.base import Delta, FinishReason
from ochatctl.serve.decoding import decode_chat_request
from ochatctl.serve.ids import new_id
from ochatctl.serve.logprobs import ChatLogprobs, TokenSpeller
from ochatctl.serve.prompt import Prepared, Preparer
from ochatctl.serve.protocol import (
    AnswerMessage,
    Ask,
    ChatCompletion,
    ChatCompletionRequest,
    Choice,
    Completion,
    Logprobs,
    Usage,
)
from ochatctl.serve.sse import ChatChunks, Chunks, StreamHead

FINGERPRINT = f"ochatctl-{__version__}"

AskT = TypeVar("AskT", bound=Ask)


@dataclass(kw_only=True, slots=True)
class Gathered:
    """One choice of a plain answer, while it grows. Deltas are kept only where their log-probabilities are told."""

    texts: list[str] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(self.texts)


class Form(Protocol[AskT]):
    """One endpoint's way to ask and to be answered."""

    def decode(self, body: bytes) -> AskT:
        """Read a body, or raise RequestError."""
        ...

    async def prepare(self, request: AskT) -> Prepared:
        """Give what is drawn, or raise RequestError."""
        ...

    def wants_logprobs(self, request: AskT) -> bool:
        """Tell whether log-probabilities are part of the answer."""
        ...

    def whole(
        self, request: AskT, prepared: Prepared, choices: list[Gathered], usage: Usage
    ) -> ChatCompletion | Completion:
        """Give a plain answer."""
        ...

    def chunks(self, request: AskT, prepared: Prepared) -> tuple[StreamHead, Chunks]:
        """Give what writes a stream."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatForm:
    """`/v1/chat/completions`."""

    preparer: Preparer
    spell: TokenSpeller

    def decode(self, body: bytes) -> ChatCompletionRequest:
        return decode_chat_request(body, max_depth=self.preparer.config.limits.max_depth)

    async def prepare(self, request: ChatCompletionRequest) -> Prepared:
        return await self.preparer.chat(request)

    def wants_logprobs(self, request: ChatCompletionRequest) -> bool:
        return bool(request.logprobs)

    def whole(
        self, request: ChatCompletionRequest, prepared: Prepared, choices: list[Gathered], usage: Usage
    ) -> ChatCompletion:
        to_logprobs = self._to_logprobs(prepared)
        return ChatCompletion(
            id=new_id("chatcmpl"),
            created=int(time.time()),
            model=request.model,
            choices=[
                Choice(
                    index=index,
                    message=AnswerMessage(content=choice.text),
                    finish_reason=choice.finish_reason,
                    logprobs=Logprobs(
                        content=[entry for delta in choice.deltas for entry in to_logprobs(index, delta).content]
                    )
                    if request.logprobs
                    else None,
                )
                for index, choice in enumerate(choices)
            ],
            usage=usage,
            system_fingerprint=FINGERPRINT,
        )

    def chunks(self, request: ChatCompletionRequest, prepared: Prepared) -> tuple[StreamHead, ChatChunks]:
        head = stream_head(request, prepared, "chatcmpl")
        to_logprobs = self._to_logprobs(prepared)
        return head, ChatChunks(head=head, to_logprobs=to_logprobs, with_logprobs=bool(request.logprobs))

    def _to_logprobs(self, prepared: Prepared) -> ChatLogprobs:
        return ChatLogprobs(self.spell, fresh=not prepared.draws[0][1].context_ids)


def stream_head(request: Ask, prepared: Prepared, prefix: str) -> StreamHead:
    """Give what the chunks of a stream share."""
    return StreamHead(
        id=new_id(prefix),
        created=int(time.time()),
        model=request.model,
        fingerprint=FINGERPRINT,
        num_choices=len(prepared.draws),
        num_prompt_tokens=prepared.num_prompt_tokens,
        include_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
    )
