"""The wire: what requests may hold, what answers hold, and how a fault is said. The one home of msgspec.

OpenAI's names throughout; beside them `top_k`, `min_p`, `repetition_penalty` and OpenChat's `condition`.
"""

import re
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MAX_CHOICES = 16
MAX_STOPS = 4
MAX_STOP_CHARS = 1024

_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Tokens = Annotated[int, Meta(ge=1, le=2**53)]


class RequestError(Exception):
    """A request that cannot be answered, as the client is told."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers


class ContentPart(Struct):
    """One part of a message; only text has a meaning here."""

    type: str
    text: str | None = None


class RequestMessage(Struct):
    """One message as it comes in."""

    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(Struct):
    """What a stream holds beside the text."""

    include_usage: bool = False


class ResponseFormat(Struct):
    """The form that the answer is to have."""

    type: str


class ChatCompletionRequest(Struct):
    """The body of `/v1/chat/completions`. None stands for the default, as in OpenAI's clients."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    messages: Annotated[list[RequestMessage], Meta(min_length=1)]
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    response_format: ResponseFormat | None = None
    condition: str | None = None
    user: str | None = None


class Usage(Struct):
    """Token counts; the stop token is one of the completion's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(Struct):
    """One alternative of a token. `bytes` is null where the token is part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TopLogprob):
    """One token of an answer, with its alternatives."""

    top_logprobs: list[TopLogprob]


class Logprobs(Struct):
    """The tokens of an answer or of a chunk."""

    content: list[ContentLogprob]


class AnswerMessage(Struct):
    """The message of a plain answer."""

    content: str
    role: str = "assistant"
    refusal: None = None


class Choice(Struct):
    """One answer of several."""

    index: int
    message: AnswerMessage
    finish_reason: str | None
    logprobs: Logprobs | None = None


class ChatCompletion(Struct, kw_only=True):
    """A plain answer."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str | None = None


class ChunkDelta(Struct, omit_defaults=True):
    """What a chunk adds; empty where it carries the finish reason."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct):
    """One choice's part of a chunk."""

    index: int
    delta: ChunkDelta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Chunk(Struct, kw_only=True):
    """One event of a stream. `usage` is absent where the client did not ask for it, null until the last."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    system_fingerprint: str | None = None


class ModelCard(Struct, kw_only=True):
    """One name under which the model is known; names of one model share `root`."""

    id: str
    object: str = "model"
    created: int
    root: str
    max_model_len: int
    owned_by: str = "ochatctl"


class ModelList(Struct, kw_only=True):
    """The answer of `/v1/models`."""

    object: str = "list"
    data: list[ModelCard]


class ErrorDetail(Struct):
    """What a client is told of a fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """OpenAI's error envelope."""

    error: ErrorDetail


_encoder = msgspec.json.Encoder()
_chat_decoder = msgspec.json.Decoder(ChatCompletionRequest)
_keys_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNSET_VALUES = (b"null", b"false", b"[]", b"{}", b'""')
# Parameters of OpenAI's and of other servers that would change the answer and that are not honoured here. They are
# refused: an answer that silently ignores one looks right and is not.
_REFUSED = frozenset({
    "add_generation_prompt", "allowed_token_ids", "audio", "bad_words", "best_of", "chat_template",
    "chat_template_kwargs", "continue_final_message", "documents", "echo", "function_call", "functions", "grammar",
    "guided_choice", "guided_grammar", "guided_json", "guided_regex", "ignore_eos", "include_stop_str_in_output",
    "length_penalty", "logits_processors", "min_tokens", "mirostat", "prompt_logprobs", "reasoning_effort",
    "skip_special_tokens", "stop_token_ids", "structured_outputs", "suffix", "tools", "truncate_prompt_tokens",
    "typical_p", "use_beam_search", "verbosity", "web_search_options",
})  # fmt: skip
# A value of these says what happens here anyhow.
_HARMLESS = {
    "add_generation_prompt": b"true",
    "best_of": b"1",
    "continue_final_message": b"true",
    "function_call": b'"none"',
    "length_penalty": b"1.0",
    "min_tokens": b"0",
    "skip_special_tokens": b"true",
    "tool_choice": b'"none"',
}
_AT = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")


def decode_chat_request(body: bytes) -> ChatCompletionRequest:
    """Parse and check the body of a chat completion.

    Raises:
        RequestError: 400, naming the parameter.
    """
    try:
        request = _chat_decoder.decode(body)
        keys = _keys_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise RequestError(400, "the body is nested too deeply", code="invalid_json") from error
    for name, raw in keys.items():
        value = bytes(raw).strip()
        if (name in _REFUSED or name == "tool_choice") and value not in (*_UNSET_VALUES, _HARMLESS.get(name, b"null")):
            raise RequestError(
                400, f"`{name}` is not supported by this server", param=name, code="unsupported_parameter"
            )
    return request


def encode(value: Any) -> bytes:
    """Give a wire type as JSON."""
    return _encoder.encode(value)


def error_body(error: RequestError) -> bytes:
    """Give a fault in OpenAI's envelope."""
    kind = "authentication_error" if error.status == 401 else "invalid_request_error"
    if error.status == 429:
        kind = "rate_limit_error"
    if error.status >= 500:
        kind = "server_error"
    return encode(ErrorBody(error=ErrorDetail(message=error.message, type=kind, param=error.param, code=error.code)))


def _invalid(message: str) -> RequestError:
    at = _AT.search(message)
    path = at.group(1) if at else ""
    text = message[: at.start()] if at else message
    if missing := _MISSING.search(text):
        name = f"{path}.{missing.group(1)}".lstrip(".")
        return RequestError(400, f"`{name}` is missing", param=name, code="missing_required_parameter")
    param = path.replace("[...]", "") or None
    text = text[0].lower() + text[1:]
    return RequestError(400, f"`{param}`: {text}" if param else text, param=param, code="invalid_value")
