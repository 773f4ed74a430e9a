"""The wire: what requests may hold, what answers hold, and how a fault is said.

OpenAI's names throughout; beside them `top_k`, `min_p`, `repetition_penalty` and OpenChat's `condition`. What
`LimitConfig` bounds is checked where a request is prepared, and the rest by these types as it is decoded. The lines of
the request log are here too.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MAX_LOGPROBS = 20

ModelName = Annotated[str, Meta(min_length=1, max_length=1024)]
Tokens = Annotated[int, Meta(ge=1, le=2**53)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]


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


class StreamOptions(Struct):
    """What a stream holds beside the text."""

    include_usage: bool | None = None


class JsonSchemaForm(Struct):
    """A JSON schema that the answer is to meet."""

    schema: dict[str, Any]
    name: str | None = None


class ResponseFormat(Struct):
    """The form that the answer is to have: `text`, `json_object` or `json_schema`."""

    type: str
    json_schema: JsonSchemaForm | None = None


class Ask(Struct, kw_only=True):
    """What every request for an answer may hold. None stands for the default, as in OpenAI's clients."""

    model: ModelName
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Tokens | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None


class ContentPart(Struct):
    """One part of a message; only text has a meaning here."""

    type: str
    text: str | None = None


class RequestMessage(Struct):
    """One message as it comes in. No template has a place for `name`: an answer then comes with a warning."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class ChatCompletionRequest(Ask, kw_only=True):
    """The body of `/v1/chat/completions`. `max_completion_tokens` wins over `max_tokens`.

    A last message of the assistant's is gone on with, any other answered; `continue_final_message` and
    `add_generation_prompt` may say which is expected.
    """

    messages: Annotated[list[RequestMessage], Meta(min_length=1)]
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    condition: str | None = None


class CompletionRequest(Ask, kw_only=True):
    """The body of `/v1/completions`: one prompt or several, each a text or token ids.

    `add_special_tokens` says whether what the tokenizer puts before a text (its `<s>`) is put before these too;
    token ids stay as they are.
    """

    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = True


class TokenizeRequest(Struct, kw_only=True):
    """The body of `/tokenize`: a text, or messages as the chat endpoint takes them."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Annotated[list[RequestMessage], Meta(min_length=1)] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    condition: str | None = None
    add_special_tokens: bool | None = True
    return_token_strs: bool | None = None


class TokenizeAnswer(Struct, kw_only=True):
    """The ids, as the model would see them. `token_strs` is how the vocabulary spells them."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Struct, kw_only=True):
    """The body of `/detokenize`."""

    tokens: list[TokenId]
    model: ModelName | None = None
    skip_special_tokens: bool | None = False


class DetokenizeAnswer(Struct, kw_only=True):
    """The text of ids, an unfinished character as U+FFFD."""

    prompt: str


class Usage(Struct):
    """Token counts; the stop token is one of the completion's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(Struct):
    """One alternative of a token. `bytes` are its own, half a character included; joined they are the text."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    """One token of an answer, with its alternatives."""

    top_logprobs: list[TopLogprob]


class Logprobs(Struct):
    """The tokens of an answer or of a chunk."""

    content: list[ContentLogprob]
    refusal: None = None


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


class CompletionLogprobs(Struct):
    """The tokens of a completion or of a chunk, each list as long as the first. Offsets count characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Struct, kw_only=True):
    """One answer of several, or what a chunk adds to it."""

    index: int
    text: str
    finish_reason: str | None = None
    logprobs: CompletionLogprobs | None = None


class Completion(Struct, kw_only=True):
    """A plain answer, or one event of a stream, whose `usage` is as a chat chunk's."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    system_fingerprint: str | None = None


class ModelCard(Struct, kw_only=True):
    """One name under which the model is known; names of one model share `root`, and `parent` is that of adapters.

    `default_condition` is what a request without `condition` gets, null where the family takes none. `conditions` are
    those that the model is known to be trained on; where it is empty, nothing is known.
    """

    id: str
    object: str = "model"
    created: int
    root: str
    parent: str | None = None
    max_model_len: int
    family: str
    default_condition: str | None
    conditions: list[str]
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


class Status(Struct):
    """The answer of `/health` and `/ready`."""

    status: str


class Version(Struct):
    """The answer of `/version`."""

    version: str
    engine: str
    family: str


class LogLine(Struct):
    """A line of the request log; what is not set is not in it."""

    time: str
    request_id: str | UnsetType = UNSET
    client: str | None = None
    key: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    endpoint: str = "other"
    status: int = 0
    seconds: float | UnsetType = UNSET
    stream: bool | UnsetType | None = UNSET
    prompt_tokens: int | UnsetType = UNSET
    answer_tokens: int | UnsetType = UNSET
    finish_reasons: list[str] | UnsetType = UNSET
    first_token_seconds: float | UnsetType | None = UNSET
    # Numbers and switches of what was asked; with the level `text`, all of it.
    params: dict[str, Any] | UnsetType = UNSET
    answers: list[str] | UnsetType = UNSET
    error: str | UnsetType = UNSET
    warning: str | UnsetType = UNSET


_encoder = msgspec.json.Encoder()


def schemas(types: Sequence[Any], ref_template: str) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """Give the JSON schema of each type, and the named ones that these refer to."""
    return msgspec.json.schema_components(types, ref_template=ref_template)


def encode(value: Any) -> bytes:
    """Give a wire type as JSON."""
    return _encoder.encode(value)


def encode_lines(values: Sequence[Any]) -> str:
    """Give wire types as JSON of ASCII, one a line: nothing can break it, or reach a terminal as a control sequence."""
    try:
        lines = _encoder.encode_lines(values)
        if lines.isascii():
            return lines.decode()
    except UnicodeEncodeError:
        pass  # half of a character that UTF-16 writes in two: below, it is escaped
    return "".join(json.dumps(msgspec.to_builtins(value)) + "\n" for value in values)


def error_body(error: RequestError) -> bytes:
    """Give a fault in OpenAI's envelope."""
    kind = "authentication_error" if error.status == 401 else "invalid_request_error"
    if error.status == 429:
        kind = "rate_limit_error"
    if error.status >= 500:
        kind = "server_error"
    return encode(ErrorBody(error=ErrorDetail(message=error.message, type=kind, param=error.param, code=error.code)))
