"""A deterministic engine without a model: for client developers, examples and tests. Its faults can be scripted."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.answer import Answer
from ochatctl.engine.base import Delta, SamplingSpec, TokenLogprob, check_request
from ochatctl.errors import RunError

Reply = Callable[[Sequence[int]], Sequence[int]]


class EchoEngine:
    """Answers with the last user message, then the first stop token; sampling fields and the seed change nothing.

    The rule, which needs no template: of the prompt up to its last stop token, the text after the control token before
    that, without a role prefix, which ends at the first colon or line break. A prompt without a stop token is answered
    whole. `reply` takes the place of the rule: prompt ids -> answer ids, which may spell half a character.

    Every token has log-probability 0. `delay_seconds` passes before each token; `fail_after_tokens` breaks off an
    answer with RunError while the engine lives on; `die()` or `die_after_tokens`, counted over all answers, ends the
    engine.
    """

    name = "echo"

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context_tokens: int = 4096,
        reply: Reply | None = None,
        delay_seconds: float = 0.0,
        fail_after_tokens: int | None = None,
        die_after_tokens: int | None = None,
        unsupported: frozenset[str] = frozenset(),
    ) -> None:
        self.context_tokens = context_tokens
        self.unsupported = unsupported | {"json_schema", "adapter"}
        self._tokenizer = tokenizer
        self._reply = reply
        self._delay_seconds = delay_seconds
        self._fail_after_tokens = fail_after_tokens
        self._die_after_tokens = die_after_tokens
        self._num_tokens = 0
        self._dead = "it is not started"
        self._num_running = 0

    @property
    def num_running(self) -> int:
        return self._num_running

    @property
    def progress(self) -> int:
        return self._num_tokens

    async def start(self) -> None:
        self._dead = ""

    async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        self.check_alive()
        check_request(self, prompt_ids, spec, vocab_size=self._tokenizer.num_tokens)
        answer = Answer(self._tokenizer, spec, room_tokens=self.context_tokens - len(prompt_ids))
        reply = self._reply(prompt_ids) if self._reply else self._last_message(prompt_ids, spec.stop_token_ids)
        token_ids = [*reply, *spec.stop_token_ids[:1]]
        self._num_running += 1
        try:
            for token_id in token_ids:
                # Without a delay, still a turn for everybody else.
                await asyncio.sleep(self._delay_seconds)
                self._break_off(answer.num_tokens)
                logprob = None if spec.num_logprobs is None else TokenLogprob(token_id=token_id, logprob=0.0)
                if delta := answer.push(token_id, logprob):
                    yield delta
                if answer.finish_reason:
                    return
            yield answer.finish("stop")
        finally:
            self._num_running -= 1

    def check_alive(self) -> None:
        if self._dead:
            raise RunError(f"the engine `{self.name}` cannot answer: {self._dead}")

    async def close(self) -> None:
        self.die("it is closed")

    def die(self, reason: str = "it was told to die") -> None:
        """End as a crash would: every answer under way ends in RunError."""
        self._dead = reason

    def _break_off(self, num_tokens: int) -> None:
        self._num_tokens += 1
        if self._die_after_tokens is not None and self._num_tokens > self._die_after_tokens:
            self.die()
        self.check_alive()
        if self._fail_after_tokens is not None and num_tokens >= self._fail_after_tokens:
            raise RunError(f"the engine `{self.name}` failed after {num_tokens} tokens, as it was told to")

    def _last_message(self, prompt_ids: Sequence[int], stop_token_ids: Sequence[int]) -> list[int]:
        stops, controls = frozenset(stop_token_ids), self._tokenizer.control_ids
        # From the end, where they stand: prompts of benchmarks have thousands of tokens.
        end = next((index for index in range(len(prompt_ids) - 1, -1, -1) if prompt_ids[index] in stops), None)
        if end is None:
            return self._tokenizer.encode_text(self._tokenizer.decode(prompt_ids))
        start = next((index + 1 for index in range(end - 1, -1, -1) if prompt_ids[index] in controls), 0)
        text = self._tokenizer.decode(prompt_ids[start:end])
        if not text.startswith("\n"):  # a prefix made of control tokens leaves only the line breaks after it
            marks = [index for mark in ":\n" if (index := text.find(mark)) >= 0]
            text = text[min(marks, default=-1) + 1 :]
        return self._tokenizer.encode_text(text.strip())
