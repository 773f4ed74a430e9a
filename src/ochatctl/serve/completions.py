"""`/v1/completions`: prompts as they stand, in no template; for base models, and for those who encode by themselves."""

import time
from dataclasses import dataclass

from ochatctl.serve.decoding import decode_completion_request
from ochatctl.serve.forms import FINGERPRINT, Gathered, stream_head
from ochatctl.serve.ids import new_id
from ochatctl.serve.logprobs import TextLogprobs, TokenSpeller
from ochatctl.serve.prompt import Prepared, Preparer
from ochatctl.serve.protocol import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    Usage,
)
from ochatctl.serve.sse import StreamHead, TextChunks


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionForm:
    """The form of a completion. Choices stand in the order of their prompts, `n` for each."""

    preparer: Preparer
    spell: TokenSpeller

    def decode(self, body: bytes) -> CompletionRequest:
        return decode_completion_request(body, max_depth=self.preparer.config.limits.max_depth)

    async def prepare(self, request: CompletionRequest) -> Prepared:
        return await self.preparer.completion(request)

    def wants_logprobs(self, request: CompletionRequest) -> bool:
        return request.logprobs is not None

    def whole(
        self, request: CompletionRequest, prepared: Prepared, choices: list[Gathered], usage: Usage
    ) -> Completion:
        to_logprobs = TextLogprobs(self.spell)
        echoes = prepared.echoes or ("",) * len(choices)
        return Completion(
            id=new_id("cmpl"),
            created=int(time.time()),
            model=request.model,
            choices=[
                CompletionChoice(
                    index=index,
                    text=echo + choice.text,
                    finish_reason=choice.finish_reason,
                    logprobs=_logprobs(to_logprobs, index, choice) if self.wants_logprobs(request) else None,
                )
                for index, (choice, echo) in enumerate(zip(choices, echoes, strict=True))
            ],
            usage=usage,
            system_fingerprint=FINGERPRINT,
        )

    def chunks(self, request: CompletionRequest, prepared: Prepared) -> tuple[StreamHead, TextChunks]:
        head = stream_head(request, prepared, "cmpl")
        with_logprobs = self.wants_logprobs(request)
        to_logprobs = TextLogprobs(self.spell)
        return head, TextChunks(head=head, to_logprobs=to_logprobs, with_logprobs=with_logprobs, echoes=prepared.echoes)


def _logprobs(to_logprobs: TextLogprobs, index: int, choice: Gathered) -> CompletionLogprobs:
    out = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for delta in choice.deltas:
        part = to_logprobs(index, delta)
        out.tokens += part.tokens
        out.token_logprobs += part.token_logprobs
        out.top_logprobs += part.top_logprobs
        out.text_offset += part.text_offset
    return out
