"""Ask a chat model behind an OpenAI-compatible endpoint."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from ochatctl.chat.conversation import Conversation, check_text
from ochatctl.engine.client import Ask, Note, Reply
from ochatctl.engine.endpoint import Endpoint, Patience, read_table, said_error, shorten
from ochatctl.errors import ConfigError, RemoteError


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How an endpoint differs from what most of them take: parameters under another name (None: left out)."""

    renamed: Mapping[str, str | None] = field(default_factory=dict)

    def body(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Give a request's body as the endpoint takes it."""
        names = {key: self.renamed.get(key, key) for key in table}
        return {name: table[key] for key, name in names.items() if name is not None}


_PATIENCE = Patience()
_DIALECT = Dialect()


class HttpClient:
    """Chat completions of an `Endpoint`, which says when a request is sent again. `extra` goes into every request."""

    def __init__(
        self,
        base_url: str,
        model_name: str | None = None,
        api_key: str | None = None,
        *,
        max_retries: int | None = None,
        patience: Patience = _PATIENCE,
        dialect: Dialect = _DIALECT,
        on_busy: Callable[[float], None] = lambda wait_seconds: None,
        extra: Mapping[str, Any] | None = None,
        note: Note | None = None,
    ) -> None:
        if max_retries is not None:
            patience = replace(patience, max_retries=max_retries)
        self._endpoint = Endpoint(base_url, api_key, patience=patience, on_busy=on_busy, note=note)
        self._model_name = model_name
        self._dialect = dialect
        self._extra = dict(extra or {})

    async def model_name(self) -> str:
        """Give the model that is asked: the one named, else the endpoint's only one.

        Raises:
            ConfigError: the endpoint has several.
        """
        if self._model_name is None:
            table = await self._endpoint.table("GET", "/models")
            rows = [row for row in table.get("data") or [] if isinstance(row, dict) and isinstance(row.get("id"), str)]
            # Names of one model share its root, as in vLLM and in our own server.
            models: dict[str, str] = {}
            for row in rows:
                models.setdefault(row.get("root") or row["id"], row["id"])
            if len(models) != 1:
                names = ", ".join(f"`{name}`" for name in models.values()) or "none"
                base_url = self._endpoint.base_url
                raise ConfigError(f"`{base_url}` has not one model but: {names}", hint="add `--model-name NAME`")
            self._model_name = next(iter(models.values()))
        return self._model_name

    async def stream(self, conversation: Conversation, ask: Ask) -> AsyncGenerator[str, None]:
        body = await self._body(conversation, ask) | {"stream": True}
        finished = False
        async with aclosing(self._endpoint.events("/chat/completions", body)) as events:
            async for data in events:
                if data == "[DONE]":
                    return
                event = read_table(data)
                if "error" in event:
                    raise RemoteError(f"`{self._endpoint.base_url}` failed in mid-answer: {said_error(event)}")
                for choice in event.get("choices") or []:
                    finished = finished or bool(choice.get("finish_reason"))
                    if text := (choice.get("delta") or {}).get("content"):
                        yield text
        if not finished:
            raise RemoteError(f"`{self._endpoint.base_url}` broke off in mid-answer")

    async def complete(self, conversation: Conversation, ask: Ask) -> Reply:
        body = await self._body(conversation, ask)
        table = await self._endpoint.table("POST", "/chat/completions", body)
        try:
            choice, usage = table["choices"][0], table.get("usage") or {}
            return Reply(
                text=choice["message"].get("content") or "",
                finish_reason=choice.get("finish_reason") or "",
                num_prompt_tokens=int(usage.get("prompt_tokens") or 0),
                num_answer_tokens=int(usage.get("completion_tokens") or 0),
                model=str(table.get("model") or ""),
                first_logprobs=_first_logprobs(choice),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise RemoteError(f"`{self._endpoint.base_url}` gave no chat completion: {shorten(str(table))}") from error

    async def close(self) -> None:
        await self._endpoint.close()

    async def _body(self, conversation: Conversation, ask: Ask) -> dict[str, Any]:
        for text in (conversation.system, conversation.condition, *(each.content for each in conversation.messages)):
            check_text(text, "the conversation")
        messages = [{"role": "system", "content": conversation.system}] if conversation.system else []
        messages += [{"role": message.role, "content": message.content} for message in conversation.messages]
        body: dict[str, Any] = {
            "model": await self.model_name(),
            "messages": messages,
            "temperature": ask.temperature,
        }
        optional = {
            "max_tokens": ask.max_tokens,
            "seed": ask.seed,
            "stop": ask.stop or None,
            "condition": conversation.condition or None,
            "logprobs": True if ask.top_logprobs is not None else None,
            "top_logprobs": ask.top_logprobs,
        }
        body |= {key: value for key, value in optional.items() if value is not None}
        return self._dialect.body(body) | self._extra


def _first_logprobs(choice: Mapping[str, Any]) -> dict[str, float] | None:
    content = (choice.get("logprobs") or {}).get("content") or []
    rows = content[0].get("top_logprobs") if content else None
    return {str(row["token"]): float(row["logprob"]) for row in rows} if rows else None
