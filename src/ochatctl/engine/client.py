"""Ask a chat model, whether it stands in this process or behind an OpenAI-compatible endpoint."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from ochatctl.chat.conversation import Conversation, check_text
from ochatctl.chat.families import Family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Engine, SamplingSpec
from ochatctl.engine.prompt import PromptTooLong, fit_prompt, stop_token_ids
from ochatctl.errors import ConfigError, RemoteError

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_BUSY = frozenset({429, 503, 529})
# Out of money is a 429 as well, and waiting does not mend it.
_FINAL_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_SHOWN_CHARS = 500
Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long an endpoint is waited for, and how often it is asked again.

    `silence_seconds` is the longest time without a byte: an answer that is not streamed comes all at once, at its end.
    """

    max_retries: int = 3
    connect_seconds: float = 10.0
    # A long prompt on a CPU may take minutes before its first token.
    silence_seconds: float = 600.0
    # The wait between two tries doubles, up to the longest; an endpoint that asks for more is not waited for.
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 30.0
    # Whether silence is worth another try: not where somebody sits and waits.
    retry_silence: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How an endpoint differs from what most of them take: parameters under another name (None: left out)."""

    renamed: Mapping[str, str | None] = field(default_factory=dict)

    def body(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Give a request's body as the endpoint takes it."""
        names = {key: self.renamed.get(key, key) for key in table}
        return {name: table[key] for key, name in names.items() if name is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """How an answer is asked for. `max_tokens` None: all the room that is left; `seed` None: another draw each time.

    `top_logprobs`: how many candidates for the first token an endpoint is to name; a local engine names none.
    """

    max_tokens: int | None = None
    temperature: float = 0.7
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A whole answer. Token counts are 0, and `model` is empty, where an endpoint does not tell them.

    `first_logprobs` are the candidates for the first token, where they were asked for and came.
    """

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_answer_tokens: int
    model: str = field(default="", compare=False)
    first_logprobs: Mapping[str, float] | None = None


class Refusal(RemoteError):
    """An endpoint that answers, and will not do what was asked: its status, and the parameter that it names."""

    def __init__(self, message: str, *, hint: str = "", status: int = 0, param: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.param = param
        self.code = code


class ChatClient(Protocol):
    """Answers conversations; the last message of one may be an assistant's, which is then continued.

    Raises, from every method:
        PromptTooLong: a DataError; the conversation does not fit the context.
        DataError: a conversation that cannot be encoded.
        RemoteError: an endpoint failed or refused.
        RunError: the engine died.
    """

    def stream(self, conversation: Conversation, ask: Ask) -> AsyncGenerator[str, None]:
        """Give the pieces of an answer as they come; closing the generator stops the answer."""
        ...

    async def complete(self, conversation: Conversation, ask: Ask) -> Reply:
        """Give an answer as a whole."""
        ...

    async def close(self) -> None:
        """Let go of the engine or the connections."""
        ...


_PATIENCE = Patience()
_DIALECT = Dialect()


class _Warnings:
    """Says each warning once, however many answers it goes with."""

    def __init__(self, note: Note | None) -> None:
        self._note = note
        self._said: set[str] = set()

    def say(self, warning: str) -> None:
        if warning and warning not in self._said and self._note is not None:
            self._said.add(warning)
            self._note(f"warning: {warning}")


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
        self._warnings = _Warnings(note)

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


class HttpClient:
    """An OpenAI-compatible endpoint. The key goes to the host of `base_url` only: no redirect is followed.

    A request is sent again, a bounded number of times and after a growing wait, where the endpoint is busy, failed or
    cannot be reached; a stream only before its first piece. `on_busy` hears when it is busy, and for how long.
    """

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
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"`{base_url}` is not an HTTP address", hint="such as `http://localhost:18888/v1`")
        self._base_url = base_url.rstrip("/")
        self._model_name = model_name
        self._patience = patience if max_retries is None else replace(patience, max_retries=max_retries)
        self._dialect = dialect
        self._on_busy = on_busy
        self._extra = dict(extra or {})
        self._warnings = _Warnings(note)
        self._has_key = bool(api_key)
        # Checked here, for an HTTP library's own complaint would show the key.
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key holds a character that no HTTP header can carry")
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(patience.silence_seconds, connect=patience.connect_seconds, pool=None),
            follow_redirects=False,
            # To plain HTTP there is nothing to verify, and reading the certificates takes 50 ms.
            verify=parts.scheme == "https",
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
        )

    async def model_name(self) -> str:
        """Give the model that is asked: the one named, else the endpoint's only one.

        Raises:
            ConfigError: the endpoint has several.
        """
        if self._model_name is None:
            response = await self._send("GET", "/models", None)
            async with aclosing(response):
                table = _json(await response.aread())
            rows = [row for row in table.get("data") or [] if isinstance(row, dict) and isinstance(row.get("id"), str)]
            # Names of one model share its root, as in vLLM and in our own server.
            models: dict[str, str] = {}
            for row in rows:
                models.setdefault(row.get("root") or row["id"], row["id"])
            if len(models) != 1:
                names = ", ".join(f"`{name}`" for name in models.values()) or "none"
                raise ConfigError(f"`{self._base_url}` has not one model but: {names}", hint="add `--model-name NAME`")
            self._model_name = next(iter(models.values()))
        return self._model_name

    async def stream(self, conversation: Conversation, ask: Ask) -> AsyncGenerator[str, None]:
        body = await self._body(conversation, ask) | {"stream": True}
        response = await self._send("POST", "/chat/completions", body)
        async with aclosing(response):
            finished = False
            try:
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line[len("data:") :].strip()
                    if data == "[DONE]":
                        return
                    event = _json(data)
                    if "error" in event:
                        raise RemoteError(f"`{self._base_url}` failed in mid-answer: {_said(event)}")
                    for choice in event.get("choices") or []:
                        finished = finished or bool(choice.get("finish_reason"))
                        if text := (choice.get("delta") or {}).get("content"):
                            yield text
            except httpx.HTTPError as error:
                raise RemoteError(f"`{self._base_url}` broke off in mid-answer: {error}") from error
            if not finished:
                raise RemoteError(f"`{self._base_url}` broke off in mid-answer")

    async def complete(self, conversation: Conversation, ask: Ask) -> Reply:
        body = await self._body(conversation, ask)
        table = await self._whole(body)
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
            raise RemoteError(f"`{self._base_url}` gave no chat completion: {_short(str(table))}") from error

    async def close(self) -> None:
        await self._http.aclose()

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

    async def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """Give the table of a whole answer; one that breaks off in the middle is asked for once more."""
        for is_last in (False, True):
            response = await self._send("POST", "/chat/completions", body)
            async with aclosing(response):
                try:
                    return _json(await response.aread())
                except httpx.HTTPError as error:
                    silent = isinstance(error, httpx.TimeoutException) and not self._patience.retry_silence
                    if is_last or silent or not self._patience.max_retries:
                        reason = str(error) or type(error).__name__
                        raise RemoteError(f"`{self._base_url}` broke off in mid-answer: {reason}") from error
        raise AssertionError("the last try returns or raises")

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Give a response whose status is 2xx; its body is still to be read."""
        wait_seconds = self._patience.first_wait_seconds
        longest_seconds = self._patience.longest_wait_seconds
        for tries_left in range(self._patience.max_retries, -1, -1):
            request = self._http.build_request(method, self._base_url + path, json=body)
            told_seconds = 0.0
            try:
                response = await self._http.send(request, stream=True)
            except httpx.TransportError as error:
                silent = isinstance(error, httpx.ReadTimeout) and not self._patience.retry_silence
                if not tries_left or silent:
                    raise self._unreachable(error) from error
            else:
                if response.is_success:
                    self._warnings.say(_short(response.headers.get("x-ochatctl-warning", "")))
                    return response
                async with aclosing(response):
                    content = await response.aread()
                told_seconds = _retry_after_seconds(response)
                refusal = self._refused(response, content)
                if response.status_code in _BUSY:
                    self._on_busy(told_seconds)
                final = isinstance(refusal, Refusal) and refusal.code in _FINAL_CODES
                if response.status_code not in _RETRIED or final or not tries_left or told_seconds > longest_seconds:
                    raise refusal
            # Spread, so that many requests that were refused together do not come back together; never sooner than
            # the endpoint said.
            await asyncio.sleep(told_seconds + min(wait_seconds, longest_seconds) * random.uniform(0.5, 1.0))
            wait_seconds *= 2
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: httpx.TransportError) -> RemoteError:
        if isinstance(error, httpx.ConnectError):
            return RemoteError(
                f"nothing answers at `{self._base_url}`: {error}", hint="`ochatctl serve --model DIR` starts a server"
            )
        reason = str(error) or type(error).__name__
        return RemoteError(f"`{self._base_url}` failed: {reason}", hint="try again, or look at the server's log")

    def _refused(self, response: httpx.Response, content: bytes) -> RemoteError | PromptTooLong:
        status = response.status_code
        table = _json(content, strict=False)
        said = _said(table) or _short(content.decode(errors="replace"))
        error = table.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if status == 400 and (code == "context_length_exceeded" or "maximum context length" in said):
            return PromptTooLong(said, hint="shorten the conversation, or start a new one")
        hint = ""
        if status == 401:
            given = "the key that was given is wrong" if self._has_key else "no key was given"
            said, hint = f"{given}: {said}", "add `--api-key KEY`, or set `OCHATCTL_API_KEY`"
        elif status == 404 and code != "model_not_found":
            hint = "an address usually ends in `/v1`"
        elif code == "model_not_found":
            hint = "leave `--model-name` out, or give a name that the endpoint lists"
        elif response.is_redirect:
            said, hint = (
                "it redirects, which is not followed, so that a key stays with its host",
                "give the new address",
            )
        elif status in _RETRIED:
            hint = "try again later"
        param = error.get("param") if isinstance(error, dict) else None
        return Refusal(
            f"`{self._base_url}` answered {status}: {said}",
            hint=hint,
            status=status,
            param=str(param or ""),
            code=str(code or ""),
        )


def _json(content: bytes | str, *, strict: bool = True) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        if strict:
            raise RemoteError(f"the endpoint sent what is not JSON: {_short(str(content))}") from error
        value = None
    return value if isinstance(value, dict) else {}


def _first_logprobs(choice: Mapping[str, Any]) -> dict[str, float] | None:
    content = (choice.get("logprobs") or {}).get("content") or []
    rows = content[0].get("top_logprobs") if content else None
    return {str(row["token"]): float(row["logprob"]) for row in rows} if rows else None


def _said(table: Mapping[str, Any]) -> str:
    error = table.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return _short(str(message)) if message else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def _retry_after_seconds(response: httpx.Response) -> float:
    """Read what an endpoint says how long to wait: seconds, or a date."""
    said = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return 0.0  # neither; our own growing wait does
