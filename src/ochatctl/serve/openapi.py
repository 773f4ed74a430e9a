"""`/openapi.json`: what the server takes and gives, made from the wire types. in: settings, out: OpenAPI 3.1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ochatctl import __version__
from ochatctl.serve.config import LimitConfig
from ochatctl.serve.protocol import (
    ChatCompletion,
    ChatCompletionRequest,
    Chunk,
    Completion,
    CompletionRequest,
    DetokenizeAnswer,
    DetokenizeRequest,
    ErrorBody,
    ModelCard,
    ModelList,
    Status,
    TokenizeAnswer,
    TokenizeRequest,
    Version,
    schemas,
)

_REF = "#/components/schemas/{name}"
_ERRORS = {
    400: "a parameter is missing, wrong or not supported; `param` names it",
    401: "no key, or a wrong one",
    404: "there is no such address or model",
    405: "the address does not take this method",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "too many requests or tokens for this key; `Retry-After` says when to come again",
    431: "the headers are too large",
    500: "a bug of the server",
    503: "the engine cannot answer now, or the queue is full",
    504: "the answer took too long",
}
_ASKING = (400, 401, 404, 405, 408, 413, 415, 429, 431, 500, 503, 504)
_TELLING = (401, 405, 429, 431, 500, 503)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method of one address. `answer` is a wire type, or the media type of a text."""

    path: str
    name: str
    summary: str
    answer: Any
    request: Any = None
    # What one event of a stream holds, where the answer may be one.
    event: Any = None
    is_public: bool = False
    links: dict[str, Any] | None = None


OPERATIONS = (
    Operation(path="/", name="front", summary="A page for people", answer="text/html", is_public=True),
    Operation(path="/health", name="health", summary="Whether the engine lives", answer=Status, is_public=True),
    Operation(path="/ready", name="ready", summary="Whether requests are taken", answer=Status, is_public=True),
    Operation(path="/version", name="version", summary="What runs here", answer=Version),
    Operation(path="/metrics", name="metrics", summary="Prometheus' text format", answer="text/plain"),
    Operation(path="/openapi.json", name="openapi", summary="This document", answer={"type": "object"}),
    Operation(
        path="/v1/models",
        name="list_models",
        summary="The names of the model",
        answer=ModelList,
        links={"model": {"operationId": "retrieve_model", "parameters": {"model": "$response.body#/data/0/id"}}},
    ),
    Operation(path="/v1/models/{model}", name="retrieve_model", summary="One of them", answer=ModelCard),
    Operation(
        path="/v1/chat/completions",
        name="create_chat_completion",
        summary="Answer a conversation; where the last message is the assistant's, go on with it",
        answer=ChatCompletion,
        request=ChatCompletionRequest,
        event=Chunk,
    ),
    Operation(
        path="/v1/completions",
        name="create_completion",
        summary="Go on with a text or with token ids, in no template",
        answer=Completion,
        request=CompletionRequest,
        event=Completion,
    ),
    Operation(
        path="/tokenize",
        name="tokenize",
        summary="The token ids of a text or of a conversation",
        answer=TokenizeAnswer,
        request=TokenizeRequest,
        links={"text": {"operationId": "detokenize", "requestBody": {"tokens": "$response.body#/tokens"}}},
    ),
    Operation(
        path="/detokenize",
        name="detokenize",
        summary="The text of token ids",
        answer=DetokenizeAnswer,
        request=DetokenizeRequest,
    ),
)


def document(
    model_names: Sequence[str], *, needs_key: bool, limits: LimitConfig, root_path: str = ""
) -> dict[str, Any]:
    """Give the document of a server that knows its model by these names."""
    types: list[type] = [ErrorBody]
    for operation in OPERATIONS:
        for wire_type in (operation.answer, operation.request, operation.event):
            if isinstance(wire_type, type) and wire_type not in types:
                types.append(wire_type)
    references, named = schemas(types, _REF)
    reference = dict(zip(types, references, strict=True))
    _narrow(named, model_names, limits)
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        method = "get" if operation.request is None else "post"
        paths[operation.path] = {method: _operation(operation, reference, model_names, needs_key=needs_key)}
    out: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "ochatctl",
            "version": __version__,
            "description": "An OpenAI-compatible endpoint. Keys that are not named here are ignored, but for those of"
            " OpenAI and other servers that would change the answer: these are refused by name.",
        },
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {"schemas": named},
    }
    if needs_key:
        out["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return out


def _operation(
    operation: Operation, reference: dict[Any, dict[str, Any]], model_names: Sequence[str], *, needs_key: bool
) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if isinstance(operation.answer, str):
        content[operation.answer] = {"schema": {"type": "string"}}
    elif isinstance(operation.answer, dict):
        content["application/json"] = {"schema": operation.answer}
    else:
        content["application/json"] = {"schema": reference[operation.answer]}
    if operation.event is not None:
        event = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": [reference[operation.event], reference[ErrorBody]]},
        }
        content["text/event-stream"] = {
            # OpenAPI 3.2's word for the events of a stream; 3.1 has none, and ignores it.
            "itemSchema": {
                "type": "object",
                "properties": {"data": {"anyOf": [{"const": "[DONE]"}, event]}},
                "required": ["data"],
            },
        }
    told: dict[str, Any] = {"description": "the answer", "content": content}
    if operation.links:
        told["links"] = operation.links
    statuses = _ASKING if operation.request is not None else _TELLING
    if "{model}" in operation.path:
        statuses = (*statuses, 404)
    fault = {"application/json": {"schema": reference[ErrorBody]}}
    out: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": told,
            **{str(status): {"description": _ERRORS[status], "content": fault} for status in sorted(statuses)},
        },
    }
    if operation.request is not None:
        out["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": reference[operation.request],
                    "example": _example(operation.request, model_names[0]),
                }
            },
        }
    if "{model}" in operation.path:
        out["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": list(model_names)}}
        ]
    if needs_key and not operation.is_public:
        out["security"] = [{"key": []}]
    return out


def _narrow(named: dict[str, Any], model_names: Sequence[str], limits: LimitConfig) -> None:
    """Say what the handlers check beyond the types, where JSON schema can say it."""
    for name in ("ChatCompletionRequest", "CompletionRequest"):
        properties = named[name]["properties"]
        properties["model"] = {"type": "string", "enum": list(model_names)}
        text = {"type": "string", "minLength": 1, "maxLength": limits.max_stop_chars}
        texts = {"type": "array", "items": text, "maxItems": limits.max_stops}
        properties["stop"]["anyOf"] = [text, texts, {"type": "null"}]
        for part in properties["n"]["anyOf"]:
            if part.get("type") == "integer":
                part["maximum"] = limits.max_choices
        for part in properties["logit_bias"]["anyOf"]:
            if part.get("type") == "object":
                part["propertyNames"] = {"pattern": "^[0-9]{1,9}$"}
    for name in ("TokenizeRequest", "DetokenizeRequest"):
        named[name]["properties"]["model"]["anyOf"] = [{"enum": list(model_names)}, {"type": "null"}]
    given = {"prompt": {"type": "string"}, "messages": {"type": "array"}}
    named["TokenizeRequest"]["oneOf"] = [
        {"required": ["prompt"], "properties": {"prompt": given["prompt"], "messages": {"type": "null"}}},
        {"required": ["messages"], "properties": {"messages": given["messages"], "prompt": {"type": "null"}}},
    ]
    message = named["RequestMessage"]
    message["required"] = ["role", "content"]
    message["properties"]["role"] = {"enum": ["system", "developer", "user", "assistant"]}
    parts = {"type": "array", "items": {"$ref": _REF.format(name="ContentPart")}, "minItems": 1}
    message["properties"]["content"] = {"anyOf": [{"type": "string"}, parts]}
    for refused in ("tool_calls", "function_call"):
        message["properties"][refused] = {"type": "null"}
    part = named["ContentPart"]
    part["required"] = ["type", "text"]
    part["properties"] = {"type": {"const": "text"}, "text": {"type": "string"}}
    named["ResponseFormat"]["properties"]["type"] = {"enum": ["text", "json_object", "json_schema"]}
    # Whatever is sent is sent whole: a default of the type is no reason to expect a key to be absent.
    for name in ("ChatCompletion", "Completion", "Chunk", "ModelList", "ModelCard"):
        named[name]["required"] = [key for key in named[name]["properties"] if key != "usage"]


def _example(request: Any, model: str) -> dict[str, Any]:
    user = {"role": "user", "content": "Hello"}
    examples: dict[Any, dict[str, Any]] = {
        ChatCompletionRequest: {"model": model, "messages": [user]},
        CompletionRequest: {"model": model, "prompt": "Hello"},
        TokenizeRequest: {"messages": [user]},
        DetokenizeRequest: {"tokens": [72, 105]},
    }
    return examples[request]
