"""Ask a chat model that stands in this process."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from ochatctl.chat.conversation import Conversation
from ochatctl.chat.families import Family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Engine, SamplingSpec
from ochatctl.engine.client import Ask, Note, Reply, Warnings
from ochatctl.engine.prompt import fit_prompt, stop_token_ids
from ochatctl.errors import ConfigError


class LocalClient:
    """An engine that has been started, with the family and the tokenizer of its model; closed with this client."""

    def __init__(
        self,
        engine: Engine,
        family: Family,
        tokenizer: Tokenizer,
        *,
        stop_ids: tuple[int, ...] | None = None,
        trained_conditions: tuple[str, ...] = (),
        note: Note | None = None,
    ) -> None:
        self._engine = engine
        self._family = family
        self._tokenizer = tokenizer
        self._stop_ids = stop_token_ids(family, tokenizer) if stop_ids is None else stop_ids
        self._trained_conditions = trained_conditions
        self._warnings = Warnings(note)

    async def stream(self, conversation: Conversation, ask: Ask) -> AsyncGenerator[str, None]:
        prompt_ids, spec = self._prepare(conversation, ask)
        async with aclosing(self._engine.generate(prompt_ids, spec)) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield delta.text

    async def complete(self, conversation: Conversation, ask: Ask) -> Reply:
        prompt_ids, spec = self._prepare(conversation, ask)
        text: list[str] = []
        num_tokens, finish_reason = 0, ""
        spec = replace(spec, stream_period=spec.max_tokens)
        async with aclosing(self._engine.generate(prompt_ids, spec)) as deltas:
            async for delta in deltas:
                text.append(delta.text)
                num_tokens += len(delta.token_ids)
                finish_reason = delta.finish_reason or finish_reason
        return Reply(
            text="".join(text),
            finish_reason=finish_reason,
            num_prompt_tokens=len(prompt_ids),
            num_answer_tokens=num_tokens,
        )

    async def close(self) -> None:
        await self._engine.close()

    def _prepare(self, conversation: Conversation, ask: Ask) -> tuple[list[int], SamplingSpec]:
        for name, asked in (("seed", ask.seed is not None), ("stop", bool(ask.stop))):
            if asked and name in self._engine.unsupported:
                raise ConfigError(f"the engine `{self._engine.name}` cannot honour `{name}`")
        prompt = fit_prompt(
            conversation,
            family=self._family,
            tokenizer=self._tokenizer,
            context_tokens=self._engine.context_tokens,
            max_tokens=ask.max_tokens,
            trained_conditions=self._trained_conditions,
        )
        self._warnings.say(prompt.warning)
        return prompt.token_ids, SamplingSpec(
            max_tokens=prompt.max_tokens,
            temperature=ask.temperature,
            seed=ask.seed,
            stop=ask.stop,
            stop_token_ids=self._stop_ids,
            context_ids=prompt.context_ids,
        )
