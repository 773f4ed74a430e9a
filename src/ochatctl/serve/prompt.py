"""A request -> the prompts and how answers are drawn, or the fault that the client is told.

in: a request's wire type, out: Prepared
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import Family
from ochatctl.chat.template import encode_document
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Engine, SamplingSpec
from ochatctl.engine.prompt import CONTEXT_TOKENS, Prompt, PromptTooLong, check_size, fit_prompt, room_tokens
from ochatctl.errors import DataError
from ochatctl.serve.config import AppConfig, LimitConfig
from ochatctl.serve.protocol import (
    Ask,
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    RequestError,
    RequestMessage,
    ResponseFormat,
    TokenizeRequest,
    encode,
)

# A text this short is encoded at once; a longer one in a thread, where the tokenizer lets go of the interpreter.
_INLINE_CHARS = 2_000
# What OpenAI draws where a completion does not say.
_COMPLETION_TOKENS = 16
_SEED_STEP = 0x9E3779B97F4A7C15
_SYSTEM_ROLES = ("system", "developer")
# What a request asks for that sets nothing.
_NEUTRAL = SamplingSpec(max_tokens=1)

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What answers are drawn from: a prompt and a spec a choice, choices of one prompt side by side."""

    draws: tuple[tuple[list[int], SamplingSpec], ...]
    # The prompts, each counted once.
    num_prompt_tokens: int
    # What stands before each choice's text, where the client asked for its prompt back; else empty.
    echoes: tuple[str, ...] = ()
    # What is not wrong and yet worth knowing; holds nothing that the client sent.
    warning: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparer:
    """Turns requests into prompts for one model. Every method raises RequestError, naming the parameter."""

    engine: Engine
    family: Family
    tokenizer: Tokenizer
    config: AppConfig

    async def chat(self, request: ChatCompletionRequest) -> Prepared:
        """Give what a chat request is answered from."""
        self.check_model(request.model)
        num_choices = self._num_choices(request)
        conversation = self._conversation(request.messages, request.condition or "")
        _check_continuation(request, conversation)
        if request.top_logprobs and not request.logprobs:
            raise _invalid("top_logprobs", "only with `logprobs`")
        options = self._options(request, (request.top_logprobs or 0) if request.logprobs else None)
        max_tokens = request.max_completion_tokens or request.max_tokens
        prompt = await _in_thread_if_long(_num_chars(conversation), self._prompt, conversation, max_tokens)
        spec = self._spec(request, options, prompt.max_tokens, prompt.context_ids)
        return Prepared(
            draws=tuple((prompt.token_ids, each) for each in _choices(spec, num_choices)),
            num_prompt_tokens=len(prompt.token_ids),
            warning="; ".join(filter(None, (prompt.warning, _warning(request.messages)))),
        )

    async def completion(self, request: CompletionRequest) -> Prepared:
        """Give what a completion is answered from: prompts as they stand, in no template."""
        self.check_model(request.model)
        num_choices = self._num_choices(request)
        prompts = _prompts(request.prompt)
        if len(prompts) * num_choices > self.config.limits.max_prompts:
            raise _invalid("prompt", f"prompts times `n` is more than {self.config.limits.max_prompts}")
        if request.echo and request.logprobs is not None:
            raise RequestError(
                400,
                "`echo` with `logprobs`: the log-probabilities of a prompt are not supported by this server",
                param="echo",
                code="unsupported_parameter",
            )
        options = self._options(request, request.logprobs)
        size = sum(len(prompt) for prompt in prompts)
        bos = request.add_special_tokens is not False
        encoded = await _in_thread_if_long(size, self._encode_prompts, prompts, bos)
        draws: list[tuple[list[int], SamplingSpec]] = []
        for token_ids in encoded:
            room = self.engine.context_tokens - len(token_ids)
            # A completion goes on in the middle of a text, so its first token keeps its leading space.
            context = tuple(token_ids[-CONTEXT_TOKENS:])
            spec = self._spec(request, options, min(request.max_tokens or _COMPLETION_TOKENS, room), context)
            draws += [(token_ids, each) for each in _choices(spec, num_choices)]
        echoes = [prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt) for prompt in prompts]
        return Prepared(
            draws=tuple(draws),
            num_prompt_tokens=sum(map(len, encoded)),
            echoes=tuple(text for text in echoes for _ in range(num_choices)) if request.echo else (),
        )

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Give the ids of a text or of a conversation; they need leave no room for an answer."""
        if request.model is not None:
            self.check_model(request.model)
        if (request.prompt is None) == (request.messages is None):
            raise RequestError(
                400, "either `prompt` or `messages` must be given", param="prompt", code="missing_required_parameter"
            )
        if request.messages is None:
            if request.condition:
                raise _invalid("condition", "only with `messages`")
            text, bos = request.prompt or "", request.add_special_tokens is not False
            return await _in_thread_if_long(len(text), self._encode_text, text, bos, "prompt")
        conversation = self._conversation(request.messages, request.condition or "")
        _check_continuation(request, conversation)
        return await _in_thread_if_long(_num_chars(conversation), self._encode_conversation, conversation)

    async def detokenize(self, request: DetokenizeRequest) -> str:
        """Give the text of ids."""
        if request.model is not None:
            self.check_model(request.model)
        self._check_ids(request.tokens, "tokens")
        bare = bool(request.skip_special_tokens)
        return await _in_thread_if_long(len(request.tokens), self._decode, request.tokens, bare)

    def check_model(self, model: str) -> None:
        """Refuse a model that this server does not have."""
        if model not in self.config.model_names:
            raise RequestError(
                404,
                f"the model `{_shown(model)}` does not exist; this server has `{self.config.model_names[0]}`",
                param="model",
                code="model_not_found",
            )

    def _num_choices(self, request: Ask) -> int:
        most = self.config.limits.max_choices
        if request.n is not None and request.n > most:
            raise _invalid("n", f"it is more than {most}")
        return request.n or 1

    def _spec(
        self, request: Ask, options: dict[str, Any], max_tokens: int, context_ids: tuple[int, ...]
    ) -> SamplingSpec:
        return SamplingSpec(
            max_tokens=max_tokens,
            stop_token_ids=self.config.stop_token_ids,
            stream_period=self.config.stream_period if request.stream else max_tokens,
            context_ids=context_ids,
            adapter=request.model if request.model in self.config.adapters else "",
            **options,
        )

    def _prompt(self, conversation: Conversation, max_tokens: int | None) -> Prompt:
        with _told_of("messages"):
            return fit_prompt(
                conversation,
                family=self.family,
                tokenizer=self.tokenizer,
                context_tokens=self.engine.context_tokens,
                max_tokens=max_tokens,
                trained_conditions=self.config.trained_conditions,
            )

    def _encode_prompts(self, prompts: list[str] | list[list[int]], add_special_tokens: bool) -> list[list[int]]:
        out: list[list[int]] = []
        for prompt in prompts:
            if isinstance(prompt, str):
                out.append(self._encode_text(prompt, add_special_tokens, "prompt"))
            else:
                self._check_ids(prompt, "prompt")
                out.append(prompt)
            if not out[-1]:
                raise _invalid("prompt", "it is empty, and this model puts nothing before a text")
            with _told_of("prompt"):
                room_tokens(out[-1], self.engine.context_tokens)
        return out

    def _encode_text(self, text: str, add_special_tokens: bool, param: str) -> list[int]:
        with _told_of(param):
            check_size((text,), tokenizer=self.tokenizer, context_tokens=self.engine.context_tokens)
            return encode_document(text, self.tokenizer, bos=add_special_tokens).token_ids

    def _encode_conversation(self, conversation: Conversation) -> list[int]:
        with _told_of("messages"):
            texts = (conversation.system, *(message.content for message in conversation.messages))
            check_size(texts, tokenizer=self.tokenizer, context_tokens=self.engine.context_tokens)
            return self.family.template.encode(conversation, self.tokenizer, inference=True).token_ids

    def _decode(self, token_ids: list[int], skip_special_tokens: bool) -> str:
        if skip_special_tokens:
            return self.tokenizer.decode(token_ids)
        parts: list[str] = []
        for is_control, group in itertools.groupby(token_ids, self.tokenizer.control_ids.__contains__):
            run = list(group)
            parts += map(self.tokenizer.token_text, run) if is_control else [self.tokenizer.decode(run)]
        return "".join(parts)

    def _check_ids(self, token_ids: list[int], param: str) -> None:
        outside = next((index for index in token_ids if index >= self.tokenizer.num_tokens), None)
        if outside is not None:
            raise _invalid(param, f"`{outside}` is not a token id of this model")

    def _conversation(self, asked: list[RequestMessage], condition: str) -> Conversation:
        system = ""
        messages: list[Message] = []
        for index, message in enumerate(asked):
            where = f"messages[{index}]"
            text = _text(message, where)
            if message.role in _SYSTEM_ROLES:
                if index > 0:
                    raise _invalid(f"{where}.role", "only the first message may be a system message")
                if text and self.family.template.system_prefix is None:
                    raise _invalid(f"{where}.role", f"the family `{self.family.name}` has no system role")
                system = text
            elif message.role in ("user", "assistant"):
                messages.append(Message(role=message.role, content=text))
            elif message.role in ("tool", "function"):
                raise RequestError(
                    400, "tools are not supported by this server", param=f"{where}.role", code="unsupported_value"
                )
            else:
                raise _invalid(
                    f"{where}.role",
                    f"`{_shown(message.role)}` is not one of `system`, `developer`, `user` and `assistant`",
                )
        if not messages:
            raise _invalid("messages", "there is no user or assistant message")
        return Conversation(messages=tuple(messages), system=system, condition=self._condition(condition))

    def _condition(self, condition: str) -> str:
        template = self.family.template
        if condition and not template.takes_condition:
            raise _invalid("condition", f"the family `{self.family.name}` takes no condition")
        try:
            template.check_condition(condition)
        except DataError as error:
            allowed = ", ".join(f"`{name}`" for name in template.conditions)
            raise _invalid("condition", f"`{_shown(condition)}` is not one of {allowed}") from error
        return condition

    def _options(self, request: Ask, num_logprobs: int | None) -> dict[str, Any]:
        """Give the fields of the spec that the request sets."""
        limits = self.config.limits
        if request.stream_options is not None and not request.stream:
            raise _invalid("stream_options", "only with `stream`")
        asked: dict[str, tuple[str, Any]] = {
            "temperature": ("temperature", request.temperature),
            "top_p": ("top_p", request.top_p),
            "top_k": ("top_k", None if request.top_k is None else max(request.top_k, 0)),
            "min_p": ("min_p", request.min_p),
            "presence_penalty": ("presence_penalty", request.presence_penalty),
            "frequency_penalty": ("frequency_penalty", request.frequency_penalty),
            "repetition_penalty": ("repetition_penalty", request.repetition_penalty),
            "logit_bias": ("logit_bias", self._logit_bias(request) or None),
            "seed": ("seed", request.seed),
            "stop": ("stop", _stops(request.stop, limits) or None),
            "json_schema": ("response_format", _json_schema(request.response_format, limits) or None),
            "num_logprobs": ("logprobs", num_logprobs),
        }
        options = {field: value for field, (_, value) in asked.items() if value is not None}
        for field, value in options.items():
            if field in self.engine.unsupported and value != getattr(_NEUTRAL, field):
                param = asked[field][0]
                raise RequestError(
                    400,
                    f"`{param}` is not supported by the engine `{self.engine.name}`",
                    param=param,
                    code="unsupported_parameter",
                )
        return {"temperature": self.config.default_temperature} | options

    def _logit_bias(self, request: Ask) -> dict[int, float]:
        out: dict[int, float] = {}
        for key, bias in (request.logit_bias or {}).items():
            token_id = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else -1
            if not 0 <= token_id < self.tokenizer.num_tokens:
                raise _invalid("logit_bias", f"`{_shown(key)}` is not a token id of this model")
            out[token_id] = bias
        return out


@contextlib.contextmanager
def _told_of(param: str) -> Iterator[None]:
    """Say what the trunk refuses as a fault of this parameter."""
    try:
        yield
    except PromptTooLong as error:
        raise RequestError(400, error.message, param=param, code="context_length_exceeded") from error
    except DataError as error:
        raise RequestError(400, error.message, param=param, code="invalid_value") from error


async def _in_thread_if_long(size: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    if size <= _INLINE_CHARS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _num_chars(conversation: Conversation) -> int:
    return len(conversation.system) + sum(len(message.content) for message in conversation.messages)


def _check_continuation(request: ChatCompletionRequest | TokenizeRequest, conversation: Conversation) -> None:
    """Refuse a request that expects something else of its last message than what is done with it here."""
    last = conversation.messages[-1]
    if last.role == "assistant" and not last.content:
        return  # to go on with nothing is to begin
    goes_on = last.role == "assistant"
    for name, done in (("continue_final_message", goes_on), ("add_generation_prompt", not goes_on)):
        asked = getattr(request, name)
        if asked is not None and asked != done:
            what = "a last message of the assistant's is gone on with" if goes_on else "a last user message is answered"
            raise RequestError(
                400, f"`{name}` must be {str(done).lower()} here: {what}", param=name, code="unsupported_parameter"
            )


def _warning(messages: list[RequestMessage]) -> str:
    return "the model is not shown the `name` of a message" if any(message.name for message in messages) else ""


def _prompts(asked: str | list[str | int | list[int]]) -> list[str] | list[list[int]]:
    """Give the prompts one by one; a list of ids is one prompt."""
    if isinstance(asked, str):
        return [asked]
    if not asked:
        raise _invalid("prompt", "there is none")
    texts = [prompt for prompt in asked if isinstance(prompt, str)]
    token_ids = [token_id for token_id in asked if isinstance(token_id, int)]
    several = [prompt for prompt in asked if isinstance(prompt, list)]
    if len(asked) not in (len(texts), len(token_ids), len(several)):
        raise _invalid("prompt", "texts, token ids and lists of token ids cannot be mixed")
    return texts or several or [token_ids]


def _json_schema(form: ResponseFormat | None, limits: LimitConfig) -> str:
    """Give the schema that the answer must meet, as JSON; empty for any text."""
    if form is None or form.type == "text":
        return ""
    if form.type == "json_object":
        return '{"type": "object"}'
    if form.type != "json_schema":
        raise RequestError(
            400,
            f"`{_shown(form.type)}` is not one of `text`, `json_object` and `json_schema`",
            param="response_format.type",
            code="unsupported_value",
        )
    if form.json_schema is None:
        raise RequestError(
            400,
            "`response_format.json_schema` is missing",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    schema = encode(form.json_schema.schema)
    if len(schema) > limits.max_schema_bytes:
        raise _invalid("response_format.json_schema.schema", f"it has more than {limits.max_schema_bytes} bytes")
    return schema.decode()


def _text(message: RequestMessage, where: str) -> str:
    for name, value in (("tool_calls", message.tool_calls), ("function_call", message.function_call)):
        if value:
            raise RequestError(
                400, "tools are not supported by this server", param=f"{where}.{name}", code="unsupported_value"
            )
    if message.content is None:
        raise RequestError(
            400, f"`{where}.content` is missing", param=f"{where}.content", code="missing_required_parameter"
        )
    if isinstance(message.content, str):
        return message.content
    if not message.content:
        raise _invalid(f"{where}.content", "there is no part")
    texts: list[str] = []
    for number, part in enumerate(message.content):
        at = f"{where}.content[{number}]"
        if part.type != "text":
            raise RequestError(
                400, f"`{at}`: only parts of type `text` are supported", param=f"{at}.type", code="unsupported_value"
            )
        if part.text is None:
            raise RequestError(400, f"`{at}.text` is missing", param=f"{at}.text", code="missing_required_parameter")
        texts.append(part.text)
    return "".join(texts)


def _stops(stop: str | list[str] | None, limits: LimitConfig) -> tuple[str, ...]:
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > limits.max_stops:
        raise _invalid("stop", f"{len(stops)} strings, and at most {limits.max_stops} are allowed")
    for text in stops:
        if not text or len(text) > limits.max_stop_chars:
            raise _invalid("stop", f"each string must have 1 to {limits.max_stop_chars} characters")
    return stops


def _choices(spec: SamplingSpec, num_choices: int) -> tuple[SamplingSpec, ...]:
    """Give one spec a choice; the first has the seed that was asked for, the others seeds derived from it."""
    if spec.seed is None or num_choices == 1:
        return (spec,) * num_choices
    seeds = [spec.seed, *((spec.seed + index * _SEED_STEP) % 2**63 for index in range(1, num_choices))]
    return tuple(replace(spec, seed=seed) for seed in seeds)


def _invalid(param: str, message: str) -> RequestError:
    return RequestError(400, f"`{param}`: {message}", param=param, code="invalid_value")


def _shown(text: str) -> str:
    """Give a client's string so that it is safe and short in a message."""
    shown = text.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= 100 else shown[:100] + "..."
