"""A request -> the prompt and how answers are drawn, or the fault that the client is told.

in: ChatCompletionRequest, out: Prepared
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import Family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Engine, SamplingSpec
from ochatctl.engine.prompt import Prompt, PromptTooLong, fit_prompt
from ochatctl.errors import DataError
from ochatctl.serve.config import AppConfig
from ochatctl.serve.protocol import MAX_STOP_CHARS, MAX_STOPS, ChatCompletionRequest, RequestError, RequestMessage

# A text this short is encoded at once; a longer one in a thread, where the tokenizer lets go of the interpreter.
_INLINE_CHARS = 2_000
_SEED_STEP = 0x9E3779B97F4A7C15
_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """One prompt, and one spec a choice."""

    conversation: Conversation
    prompt_ids: list[int]
    specs: tuple[SamplingSpec, ...]
    # What is not wrong and yet worth knowing; holds nothing that the client sent.
    warning: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparer:
    """Turns requests into prompts for one model."""

    engine: Engine
    family: Family
    tokenizer: Tokenizer
    config: AppConfig

    async def prepare(self, request: ChatCompletionRequest) -> Prepared:
        """Give the prompt and the specs of a request.

        Raises:
            RequestError: naming the parameter.
        """
        if request.model not in self.config.model_names:
            raise RequestError(
                404,
                f"the model `{_shown(request.model)}` does not exist; this server has `{self.config.model_names[0]}`",
                param="model",
                code="model_not_found",
            )
        conversation = self._conversation(request)
        options = self._options(request)
        max_tokens = request.max_completion_tokens or request.max_tokens
        size = len(conversation.system) + sum(len(message.content) for message in conversation.messages)
        if size <= _INLINE_CHARS:
            prompt = self._prompt(conversation, max_tokens)
        else:
            prompt = await asyncio.to_thread(self._prompt, conversation, max_tokens)
        spec = SamplingSpec(
            max_tokens=prompt.max_tokens,
            stop_token_ids=self.config.stop_token_ids,
            stream_period=self.config.stream_period if request.stream else prompt.max_tokens,
            context_ids=prompt.context_ids,
            **options,
        )
        return Prepared(
            conversation=conversation,
            prompt_ids=prompt.token_ids,
            specs=_choices(spec, request.n or 1),
            warning=prompt.warning,
        )

    def _prompt(self, conversation: Conversation, max_tokens: int | None) -> Prompt:
        try:
            return fit_prompt(
                conversation,
                family=self.family,
                tokenizer=self.tokenizer,
                context_tokens=self.engine.context_tokens,
                max_tokens=max_tokens,
                trained_conditions=self.config.trained_conditions,
            )
        except PromptTooLong as error:
            raise RequestError(400, error.message, param="messages", code="context_length_exceeded") from error
        except DataError as error:
            raise RequestError(400, error.message, param="messages", code="invalid_value") from error

    def _conversation(self, request: ChatCompletionRequest) -> Conversation:
        system = ""
        messages: list[Message] = []
        for index, message in enumerate(request.messages):
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
        return Conversation(messages=tuple(messages), system=system, condition=self._condition(request.condition or ""))

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

    def _options(self, request: ChatCompletionRequest) -> dict[str, Any]:
        """Give the fields of the spec that the request sets."""
        if request.stream_options is not None and not request.stream:
            raise _invalid("stream_options", "only with `stream`")
        if request.top_logprobs and not request.logprobs:
            raise _invalid("top_logprobs", "only with `logprobs`")
        if request.response_format is not None and request.response_format.type != "text":
            raise RequestError(
                400,
                f"the form `{_shown(request.response_format.type)}` is not supported by this server",
                param="response_format",
                code="unsupported_value",
            )
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
            "stop": ("stop", _stops(request.stop) or None),
            "num_logprobs": ("logprobs", (request.top_logprobs or 0) if request.logprobs else None),
        }
        options = {field: value for field, (_, value) in asked.items() if value is not None}
        neutral = SamplingSpec(max_tokens=1)
        for field, value in options.items():
            if field in self.engine.unsupported and value != getattr(neutral, field):
                param = asked[field][0]
                raise RequestError(
                    400,
                    f"`{param}` is not supported by the engine `{self.engine.name}`",
                    param=param,
                    code="unsupported_parameter",
                )
        return {"temperature": self.config.default_temperature} | options

    def _logit_bias(self, request: ChatCompletionRequest) -> dict[int, float]:
        out: dict[int, float] = {}
        for key, bias in (request.logit_bias or {}).items():
            token_id = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else -1
            if not 0 <= token_id < self.tokenizer.num_tokens:
                raise _invalid("logit_bias", f"`{_shown(key)}` is not a token id of this model")
            out[token_id] = bias
        return out


def _text(message: RequestMessage, where: str) -> str:
    if message.tool_calls:
        raise RequestError(
            400, "tools are not supported by this server", param=f"{where}.tool_calls", code="unsupported_value"
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


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MAX_STOPS:
        raise _invalid("stop", f"{len(stops)} strings, and at most {MAX_STOPS} are allowed")
    for text in stops:
        if not text or len(text) > MAX_STOP_CHARS:
            raise _invalid("stop", f"each string must have 1 to {MAX_STOP_CHARS} characters")
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
