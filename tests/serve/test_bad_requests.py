"""Every bad request gets its status, code and parameter in OpenAI's envelope, and none a 500."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving_for_tests import Served, serving

USER = {"role": "user", "content": "Hi"}
BASE: dict[str, Any] = {"model": "echo", "messages": [USER]}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(max_body_bytes=100_000) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.base_url) as client:
        yield client


def with_message(message: Any) -> dict[str, Any]:
    return BASE | {"messages": [message]}


def with_content(content: Any) -> dict[str, Any]:
    return with_message({"role": "user", "content": content})


def form(kind: str | None, schema: Any = None) -> dict[str, Any]:
    return BASE | {"response_format": {"type": kind} | ({} if schema is None else {"json_schema": schema})}


INVALID, MISSING, NOT_JSON = "invalid_value", "missing_required_parameter", "invalid_json"
UNSUPPORTED, NO_VALUE = "unsupported_parameter", "unsupported_value"
RAW = json.dumps(BASE).encode()[:-1]
RESPONSE_FORMAT = "response_format"
TEXT = {"type": "text", "text": "x"}
FIRST, LAST_ROLE, SCHEMA = "messages[0]", "messages[1].role", "response_format.json_schema.schema"
FIRST_PART, SECOND_PART = f"{FIRST}.content[0]", f"{FIRST}.content[1]"
LATE = {"role": "system", "content": "x"}
# (name, body, status, code, param)
TABLE: list[tuple[str, Any, int, str, str | None]] = [
    ("half an object", b"{", 400, NOT_JSON, None),
    ("a list", b"[]", 400, INVALID, None),
    ("a string", b'"x"', 400, INVALID, None),
    ("null", b"null", 400, INVALID, None),
    ("nothing", b"", 400, NOT_JSON, None),
    ("more after the end", json.dumps(BASE).encode() + b"{}", 400, NOT_JSON, None),
    ("NaN", RAW + b',"temperature":NaN}', 400, NOT_JSON, None),
    ("a byte order mark", b"\xef\xbb\xbf{}", 400, NOT_JSON, None),
    ("UTF-16", json.dumps(BASE).encode("utf-16"), 400, NOT_JSON, None),
    ("bytes that are not UTF-8", b'{"model":"\xff","messages":[]}', 400, NOT_JSON, None),
    ("a lone surrogate", b'{"model":"echo","messages":[{"role":"user","content":"\\ud800"}]}', 400, NOT_JSON, None),
    ("a lone surrogate in the condition", RAW + b',"condition":"\\udc00!"}', 400, NOT_JSON, None),
    ("deep nesting", b'{"x":' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400, "too_deep", None),
    ("deep nesting in messages", b'{"messages":' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400, "too_deep", None),
    ("100 levels and one", RAW + b',"x":' + b"[" * 100 + b"]" * 100 + b"}", 400, "too_deep", None),
    ("no model", {"messages": [USER]}, 400, MISSING, "model"),
    ("model null", BASE | {"model": None}, 400, INVALID, "model"),
    ("model 3", BASE | {"model": 3}, 400, INVALID, "model"),
    ("model empty", BASE | {"model": ""}, 400, INVALID, "model"),
    ("model too long", BASE | {"model": "m" * 10_000}, 400, INVALID, "model"),
    ("model unknown", BASE | {"model": "gpt-4"}, 404, "model_not_found", "model"),
    ("no messages", {"model": "echo"}, 400, MISSING, "messages"),
    ("messages null", BASE | {"messages": None}, 400, INVALID, "messages"),
    ("messages a string", BASE | {"messages": "hi"}, 400, INVALID, "messages"),
    ("messages empty", BASE | {"messages": []}, 400, INVALID, "messages"),
    ("a message that is a number", BASE | {"messages": [1]}, 400, INVALID, "messages[0]"),
    ("a message without role", BASE | {"messages": [USER, {"content": "x"}]}, 400, MISSING, "messages[1].role"),
    ("role unknown", with_message({"role": "User ", "content": "x"}), 400, INVALID, "messages[0].role"),
    ("role with a line break", with_message({"role": "a\nb", "content": "x"}), 400, INVALID, "messages[0].role"),
    ("role a number", with_message({"role": 1, "content": "x"}), 400, INVALID, "messages[0].role"),
    ("role tool", BASE | {"messages": [USER, {"role": "tool", "content": "x"}]}, 400, NO_VALUE, "messages[1].role"),
    ("no content", with_message({"role": "user"}), 400, MISSING, "messages[0].content"),
    ("content null", with_content(None), 400, MISSING, "messages[0].content"),
    ("content a number", with_content(3), 400, INVALID, "messages[0].content"),
    ("content no part", with_content([]), 400, INVALID, "messages[0].content"),
    ("a part without type", with_content([{"text": "x"}]), 400, MISSING, "messages[0].content[0].type"),
    ("a part without text", with_content([{"type": "text"}]), 400, MISSING, "messages[0].content[0].text"),
    ("an image", with_content([{"type": "image_url"}]), 400, NO_VALUE, "messages[0].content[0].type"),
    ("tool calls", with_message(USER | {"tool_calls": [{}]}), 400, NO_VALUE, "messages[0].tool_calls"),
    ("only a system message", with_message({"role": "system", "content": "x"}), 400, INVALID, "messages"),
    ("a late system message", BASE | {"messages": [USER, LATE]}, 400, INVALID, "messages[1].role"),
    ("two system messages", BASE | {"messages": [LATE, LATE, USER]}, 400, INVALID, "messages[1].role"),
    ("temperature below", BASE | {"temperature": -1}, 400, INVALID, "temperature"),
    ("temperature above", BASE | {"temperature": 3}, 400, INVALID, "temperature"),
    ("temperature text", BASE | {"temperature": "x"}, 400, INVALID, "temperature"),
    ("temperature true", BASE | {"temperature": True}, 400, INVALID, "temperature"),
    ("temperature endless", RAW + b',"temperature":1e999}', 400, INVALID, "temperature"),
    ("top_p 0", BASE | {"top_p": 0}, 400, INVALID, "top_p"),
    ("top_p 1.1", BASE | {"top_p": 1.1}, 400, INVALID, "top_p"),
    ("top_k -2", BASE | {"top_k": -2}, 400, INVALID, "top_k"),
    ("min_p 2", BASE | {"min_p": 2}, 400, INVALID, "min_p"),
    ("n 0", BASE | {"n": 0}, 400, INVALID, "n"),
    ("n 17", BASE | {"n": 17}, 400, INVALID, "n"),
    ("n 2.5", BASE | {"n": 2.5}, 400, INVALID, "n"),
    ("n 10^18", BASE | {"n": 10**18}, 400, INVALID, "n"),
    ("n of 400 digits", BASE | {"n": 10**400}, 400, INVALID, "n"),
    ("max_tokens 0", BASE | {"max_tokens": 0}, 400, INVALID, "max_tokens"),
    ("max_tokens 2^63", BASE | {"max_tokens": 2**63}, 400, INVALID, "max_tokens"),
    ("max_completion_tokens -1", BASE | {"max_completion_tokens": -1}, 400, INVALID, "max_completion_tokens"),
    ("stop empty", BASE | {"stop": ""}, 400, INVALID, "stop"),
    ("stop one of them empty", BASE | {"stop": ["a", ""]}, 400, INVALID, "stop"),
    ("stop five", BASE | {"stop": list("abcde")}, 400, INVALID, "stop"),
    ("stop numbers", BASE | {"stop": [1]}, 400, INVALID, "stop[0]"),
    ("stop long", BASE | {"stop": "x" * 2_000}, 400, INVALID, "stop"),
    ("presence_penalty 3", BASE | {"presence_penalty": 3}, 400, INVALID, "presence_penalty"),
    ("frequency_penalty -3", BASE | {"frequency_penalty": -3}, 400, INVALID, "frequency_penalty"),
    ("repetition_penalty 0", BASE | {"repetition_penalty": 0}, 400, INVALID, "repetition_penalty"),
    ("logit_bias list", BASE | {"logit_bias": [1]}, 400, INVALID, "logit_bias"),
    ("logit_bias of a word", BASE | {"logit_bias": {"a": 1}}, 400, INVALID, "logit_bias"),
    ("logit_bias outside", BASE | {"logit_bias": {"999999": 1}}, 400, INVALID, "logit_bias"),
    ("logit_bias digits of another script", BASE | {"logit_bias": {"١": 1}}, 400, INVALID, "logit_bias"),
    ("logit_bias text", BASE | {"logit_bias": {"1": "x"}}, 400, INVALID, "logit_bias"),
    ("logit_bias 101", BASE | {"logit_bias": {"1": 101}}, 400, INVALID, "logit_bias"),
    ("top_logprobs 21", BASE | {"logprobs": True, "top_logprobs": 21}, 400, INVALID, "top_logprobs"),
    ("top_logprobs alone", BASE | {"top_logprobs": 2}, 400, INVALID, "top_logprobs"),
    ("logprobs a number", BASE | {"logprobs": 3}, 400, INVALID, "logprobs"),
    ("seed 2^64", BASE | {"seed": 2**64}, 400, INVALID, "seed"),
    ("stream text", BASE | {"stream": "true"}, 400, INVALID, "stream"),
    ("stream_options alone", BASE | {"stream_options": {"include_usage": True}}, 400, INVALID, "stream_options"),
    ("response_format json_object", form("json_object"), 400, UNSUPPORTED, "response_format"),
    ("response_format unknown", form("poem"), 400, NO_VALUE, "response_format.type"),
    ("response_format text", BASE | {"response_format": "json"}, 400, INVALID, "response_format"),
    ("tools", BASE | {"tools": [{"type": "function"}]}, 400, UNSUPPORTED, "tools"),
    ("tool_choice", BASE | {"tool_choice": "required"}, 400, UNSUPPORTED, "tool_choice"),
    ("functions", BASE | {"functions": [{"name": "f"}]}, 400, UNSUPPORTED, "functions"),
    ("guided_json", BASE | {"guided_json": {"type": "object"}}, 400, UNSUPPORTED, "guided_json"),
    ("a file", with_content([{"type": "file", "file": {}}]), 400, NO_VALUE, "messages[0].content[0].type"),
    ("an audio part after a text", with_content([TEXT, {"type": "input_audio"}]), 400, NO_VALUE, SECOND_PART + ".type"),
    ("a part that is a string", with_content([TEXT, "x"]), 400, INVALID, SECOND_PART),
    ("a part whose text is a number", with_content([{"type": "text", "text": 1}]), 400, INVALID, FIRST_PART + ".text"),
    ("a part whose text is null", with_content([{"type": "text", "text": None}]), 400, MISSING, FIRST_PART + ".text"),
    ("a refusal part", with_content([{"type": "refusal", "refusal": "x"}]), 400, NO_VALUE, FIRST_PART + ".type"),
    ("a function call", with_message(USER | {"function_call": {"name": "f"}}), 400, NO_VALUE, FIRST + ".function_call"),
    ("role function", BASE | {"messages": [USER, {"role": "function", "content": "x"}]}, 400, NO_VALUE, LAST_ROLE),
    ("role null", with_message({"role": None, "content": "x"}), 400, INVALID, FIRST + ".role"),
    ("role empty", with_message({"role": "", "content": "x"}), 400, INVALID, FIRST + ".role"),
    ("a late developer message", BASE | {"messages": [USER, LATE | {"role": "developer"}]}, 400, INVALID, LAST_ROLE),
    ("content an object", with_content({"text": "x"}), 400, INVALID, FIRST + ".content"),
    ("messages an object", BASE | {"messages": USER}, 400, INVALID, "messages"),
    ("a message null", BASE | {"messages": [USER, None]}, 400, INVALID, "messages[1]"),
    ("temperature a list", BASE | {"temperature": [1]}, 400, INVALID, "temperature"),
    ("top_p below", BASE | {"top_p": -0.1}, 400, INVALID, "top_p"),
    ("top_p text", BASE | {"top_p": "1"}, 400, INVALID, "top_p"),
    ("top_k 1.5", BASE | {"top_k": 1.5}, 400, INVALID, "top_k"),
    ("top_k 2^31", BASE | {"top_k": 2**31}, 400, INVALID, "top_k"),
    ("min_p -1", BASE | {"min_p": -1}, 400, INVALID, "min_p"),
    ("n true", BASE | {"n": True}, 400, INVALID, "n"),
    ("n text", BASE | {"n": "2"}, 400, INVALID, "n"),
    ("max_tokens text", BASE | {"max_tokens": "all"}, 400, INVALID, "max_tokens"),
    ("max_tokens 1.5", BASE | {"max_tokens": 1.5}, 400, INVALID, "max_tokens"),
    ("max_completion_tokens 0", BASE | {"max_completion_tokens": 0}, 400, INVALID, "max_completion_tokens"),
    ("stop an object", BASE | {"stop": {}}, 400, INVALID, "stop"),
    ("stop true", BASE | {"stop": True}, 400, INVALID, "stop"),
    ("presence_penalty text", BASE | {"presence_penalty": "1"}, 400, INVALID, "presence_penalty"),
    ("frequency_penalty 2.1", BASE | {"frequency_penalty": 2.1}, 400, INVALID, "frequency_penalty"),
    ("repetition_penalty 11", BASE | {"repetition_penalty": 11}, 400, INVALID, "repetition_penalty"),
    ("logit_bias negative", BASE | {"logit_bias": {"-1": 1}}, 400, INVALID, "logit_bias"),
    ("logit_bias of nothing", BASE | {"logit_bias": {"": 1}}, 400, INVALID, "logit_bias"),
    ("logit_bias of many digits", BASE | {"logit_bias": {"1" * 5_000: 1}}, 400, INVALID, "logit_bias"),
    ("logit_bias null", BASE | {"logit_bias": {"1": None}}, 400, INVALID, "logit_bias"),
    ("top_logprobs -1", BASE | {"logprobs": True, "top_logprobs": -1}, 400, INVALID, "top_logprobs"),
    ("top_logprobs without", BASE | {"logprobs": False, "top_logprobs": 2}, 400, INVALID, "top_logprobs"),
    ("seed text", BASE | {"seed": "1"}, 400, INVALID, "seed"),
    ("seed 0.5", BASE | {"seed": 0.5}, 400, INVALID, "seed"),
    ("user a number", BASE | {"user": 3}, 400, INVALID, "user"),
    ("stream_options a list", BASE | {"stream_options": []}, 400, INVALID, "stream_options"),
    ("response_format null type", form(None), 400, INVALID, "response_format.type"),
    ("response_format empty", BASE | {"response_format": {}}, 400, MISSING, "response_format.type"),
    ("json_schema missing", form("json_schema"), 400, MISSING, "response_format.json_schema"),
    ("json_schema without schema", form("json_schema", {}), 400, MISSING, "response_format.json_schema.schema"),
    ("json_schema a list", form("json_schema", {"schema": []}), 400, INVALID, "response_format.json_schema.schema"),
    ("json_schema", form("json_schema", {"schema": {"type": "object"}}), 400, UNSUPPORTED, "response_format"),
    ("json_schema too large", form("json_schema", {"schema": {"x": "x" * 65_000}}), 400, INVALID, SCHEMA),
    ("min_tokens", BASE | {"min_tokens": 3}, 400, UNSUPPORTED, "min_tokens"),
    ("best_of", BASE | {"best_of": 3}, 400, UNSUPPORTED, "best_of"),
    ("ignore_eos", BASE | {"ignore_eos": True}, 400, UNSUPPORTED, "ignore_eos"),
    ("stop_token_ids", BASE | {"stop_token_ids": [1]}, 400, UNSUPPORTED, "stop_token_ids"),
    ("chat_template", BASE | {"chat_template": "x"}, 400, UNSUPPORTED, "chat_template"),
    ("no generation prompt", BASE | {"add_generation_prompt": False}, 400, UNSUPPORTED, "add_generation_prompt"),
    ("greedy by another name", BASE | {"do_sample": False}, 400, UNSUPPORTED, "do_sample"),
    ("audio", BASE | {"modalities": ["text", "audio"]}, 400, UNSUPPORTED, "modalities"),
    ("reasoning_effort", BASE | {"reasoning_effort": "high"}, 400, UNSUPPORTED, "reasoning_effort"),
    ("max_new_tokens", BASE | {"max_new_tokens": 3}, 400, UNSUPPORTED, "max_new_tokens"),
    ("repeat_penalty", BASE | {"repeat_penalty": 1.1}, 400, UNSUPPORTED, "repeat_penalty"),
    ("structured_outputs", BASE | {"structured_outputs": {"regex": "a"}}, 400, UNSUPPORTED, "structured_outputs"),
    ("a prompt for a chat", BASE | {"prompt": "x"}, 400, UNSUPPORTED, "prompt"),
    ("a prompt of many bytes", with_content("é" * 10_000), 400, "context_length_exceeded", "messages"),
    ("condition a list", BASE | {"condition": ["GPT4"]}, 400, INVALID, "condition"),
    ("condition a number", BASE | {"condition": 4}, 400, INVALID, "condition"),
    ("prompt too long", with_content("x" * 5_000), 400, "context_length_exceeded", "messages"),
    ("body too large", with_content("x" * 100_001), 413, "request_too_large", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "code", "param"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_bad_request_is_told_what_is_wrong(
    client: httpx.Client, body: Any, status: int, code: str, param: str | None, stream: bool
) -> None:
    if stream and isinstance(body, dict) and "stream" not in body and "stream_options" not in body:
        body = body | {"stream": True}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post("/v1/chat/completions", content=content, headers=JSON)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["type"] == "invalid_request_error"
    assert len(response.content) < 4_096
    assert "Traceback" not in error["message"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]


TEXT_BASE: dict[str, Any] = {"model": "echo", "prompt": "Hi"}
COMPLETION, TOKENIZE, DETOKENIZE = "/v1/completions", "/tokenize", "/detokenize"
TOO_LONG = "context_length_exceeded"
# (path, name, body, status, code, param)
OTHERS: list[tuple[str, str, Any, int, str, str | None]] = [
    (COMPLETION, "no prompt", {"model": "echo"}, 400, MISSING, "prompt"),
    (COMPLETION, "prompt null", TEXT_BASE | {"prompt": None}, 400, INVALID, "prompt"),
    (COMPLETION, "prompt a number", TEXT_BASE | {"prompt": 3}, 400, INVALID, "prompt"),
    (COMPLETION, "prompt an object", TEXT_BASE | {"prompt": {}}, 400, INVALID, "prompt"),
    (COMPLETION, "no prompt in the list", TEXT_BASE | {"prompt": []}, 400, INVALID, "prompt"),
    (COMPLETION, "prompt empty", TEXT_BASE | {"prompt": ""}, 400, INVALID, "prompt"),
    (COMPLETION, "one prompt empty", TEXT_BASE | {"prompt": ["a", ""]}, 400, INVALID, "prompt"),
    (COMPLETION, "no id in a prompt", TEXT_BASE | {"prompt": [[1], []]}, 400, INVALID, "prompt"),
    (COMPLETION, "text and id", TEXT_BASE | {"prompt": ["a", 1]}, 400, INVALID, "prompt"),
    (COMPLETION, "id and ids", TEXT_BASE | {"prompt": [1, [1]]}, 400, INVALID, "prompt"),
    (COMPLETION, "an id below", TEXT_BASE | {"prompt": [-1]}, 400, INVALID, "prompt[0]"),
    (COMPLETION, "an id outside", TEXT_BASE | {"prompt": [99_999]}, 400, INVALID, "prompt"),
    (COMPLETION, "an id of 40 digits", TEXT_BASE | {"prompt": [10**40]}, 400, INVALID, "prompt[0]"),
    (COMPLETION, "an id 1.5", TEXT_BASE | {"prompt": [1.5]}, 400, INVALID, "prompt[0]"),
    (COMPLETION, "an id true", TEXT_BASE | {"prompt": [True]}, 400, INVALID, "prompt[0]"),
    (COMPLETION, "a text among ids", TEXT_BASE | {"prompt": [[1, "a"]]}, 400, INVALID, "prompt[0][1]"),
    (COMPLETION, "many prompts", TEXT_BASE | {"prompt": ["a"] * 65}, 400, INVALID, "prompt"),
    (COMPLETION, "prompts times n", TEXT_BASE | {"prompt": ["a"] * 5, "n": 16}, 400, INVALID, "prompt"),
    (COMPLETION, "too long", TEXT_BASE | {"prompt": "x" * 5_000}, 400, TOO_LONG, "prompt"),
    (COMPLETION, "too many ids", TEXT_BASE | {"prompt": [1] * 5_000}, 400, TOO_LONG, "prompt"),
    (COMPLETION, "one of them too long", TEXT_BASE | {"prompt": ["a", "x" * 5_000]}, 400, TOO_LONG, "prompt"),
    (COMPLETION, "suffix", TEXT_BASE | {"suffix": "x"}, 400, UNSUPPORTED, "suffix"),
    (COMPLETION, "best_of", TEXT_BASE | {"best_of": 2}, 400, UNSUPPORTED, "best_of"),
    (COMPLETION, "echo text", TEXT_BASE | {"echo": "yes"}, 400, INVALID, "echo"),
    (COMPLETION, "echo with logprobs", TEXT_BASE | {"echo": True, "logprobs": 1}, 400, UNSUPPORTED, "echo"),
    (COMPLETION, "logprobs true", TEXT_BASE | {"logprobs": True}, 400, INVALID, "logprobs"),
    (COMPLETION, "logprobs 21", TEXT_BASE | {"logprobs": 21}, 400, INVALID, "logprobs"),
    (COMPLETION, "top_logprobs", TEXT_BASE | {"top_logprobs": 2}, 400, UNSUPPORTED, "top_logprobs"),
    (COMPLETION, "messages", TEXT_BASE | {"messages": [USER]}, 400, UNSUPPORTED, "messages"),
    (COMPLETION, "condition", TEXT_BASE | {"condition": "GPT4"}, 400, UNSUPPORTED, "condition"),
    (COMPLETION, "tools", TEXT_BASE | {"tools": [{}]}, 400, UNSUPPORTED, "tools"),
    (COMPLETION, "max_tokens 0", TEXT_BASE | {"max_tokens": 0}, 400, INVALID, "max_tokens"),
    (COMPLETION, "temperature 3", TEXT_BASE | {"temperature": 3}, 400, INVALID, "temperature"),
    (COMPLETION, "n 17", TEXT_BASE | {"n": 17}, 400, INVALID, "n"),
    (COMPLETION, "a form", TEXT_BASE | {"response_format": {"type": "json_object"}}, 400, UNSUPPORTED, RESPONSE_FORMAT),
    (COMPLETION, "model unknown", TEXT_BASE | {"model": "gpt-4"}, 404, "model_not_found", "model"),
    (COMPLETION, "model missing", {"prompt": "x"}, 400, MISSING, "model"),
    (COMPLETION, "stream_options", TEXT_BASE | {"stream_options": {}}, 400, INVALID, "stream_options"),
    (COMPLETION, "half an object", b"{", 400, NOT_JSON, None),
    (COMPLETION, "a lone surrogate", b'{"model":"echo","prompt":"\\ud800"}', 400, NOT_JSON, None),
    (COMPLETION, "deep nesting", b'{"prompt":' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400, "too_deep", None),
    (COMPLETION, "too large", TEXT_BASE | {"prompt": "x" * 100_001}, 413, "request_too_large", None),
    (TOKENIZE, "nothing", {}, 400, MISSING, "prompt"),
    (TOKENIZE, "both", {"prompt": "x", "messages": [USER]}, 400, MISSING, "prompt"),
    (TOKENIZE, "prompt a list", {"prompt": ["x"]}, 400, INVALID, "prompt"),
    (TOKENIZE, "messages empty", {"messages": []}, 400, INVALID, "messages"),
    (TOKENIZE, "role unknown", {"messages": [{"role": "x", "content": "x"}]}, 400, INVALID, "messages[0].role"),
    (TOKENIZE, "a condition alone", {"prompt": "x", "condition": "GPT4"}, 400, INVALID, "condition"),
    (TOKENIZE, "model unknown", {"prompt": "x", "model": "gpt-4"}, 404, "model_not_found", "model"),
    (TOKENIZE, "far too long", {"prompt": "x" * 5_000}, 400, TOO_LONG, "prompt"),
    (TOKENIZE, "far too long messages", {"messages": [USER | {"content": "x" * 5_000}]}, 400, TOO_LONG, "messages"),
    (TOKENIZE, "tools", {"messages": [USER], "tools": [{}]}, 400, UNSUPPORTED, "tools"),
    (TOKENIZE, "a list", [], 400, INVALID, None),
    (DETOKENIZE, "nothing", {}, 400, MISSING, "tokens"),
    (DETOKENIZE, "tokens text", {"tokens": "x"}, 400, INVALID, "tokens"),
    (DETOKENIZE, "a token text", {"tokens": ["1"]}, 400, INVALID, "tokens[0]"),
    (DETOKENIZE, "a token below", {"tokens": [-1]}, 400, INVALID, "tokens[0]"),
    (DETOKENIZE, "a token outside", {"tokens": [1, 99_999]}, 400, INVALID, "tokens"),
    (DETOKENIZE, "model unknown", {"tokens": [1], "model": "gpt-4"}, 404, "model_not_found", "model"),
    (DETOKENIZE, "model a number", {"tokens": [1], "model": 4}, 400, INVALID, "model"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [(row[0], *row[2:]) for row in OTHERS],
    ids=[f"{row[0].rsplit('/', 1)[1]} {row[1]}" for row in OTHERS],
)
def test_so_it_is_at_the_other_addresses(
    client: httpx.Client, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    response = client.post(path, content=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=JSON)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["type"] == "invalid_request_error"
    assert len(response.content) < 4_096


@pytest.mark.parametrize(
    ("family", "change", "param"),
    [
        ("chatml", {"condition": "GPT4"}, "condition"),
        ("openchat_v2_llama2", {"condition": "GPT5"}, "condition"),
        ("gemma_it", {"messages": [{"role": "system", "content": "x"}, USER]}, "messages[0].role"),
    ],
)
def test_what_a_family_cannot_say_is_refused(family: str, change: dict[str, Any], param: str) -> None:
    with serving(family) as served:
        response = httpx.post(f"{served.base_url}/v1/chat/completions", json=BASE | change)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/v1/chat/completions", {}, 405, "method_not_allowed"),
        ("POST", "/v1/models", {}, 405, "method_not_allowed"),
        ("GET", "/v1/nothing", {}, 404, "not_found"),
        ("GET", "/v1/models/", {}, 404, "model_not_found"),
        ("GET", "/v1/models/gpt-4", {}, 404, "model_not_found"),
        ("POST", "/v1/chat/completions", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/v1/chat/completions", {}, 415, "unsupported_media_type"),
        ("POST", "/v1/chat/completions", JSON | {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
    ],
)
def test_a_wrong_address_or_kind_is_said_in_the_same_words(
    served: Served, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    response = httpx.request(
        method, served.base_url + path, headers=headers, content=b"{}" if method == "POST" else b""
    )
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    if status == 405:
        assert response.headers["allow"]


def test_an_encoding_that_is_none_is_none(client: httpx.Client) -> None:
    headers = JSON | {"content-encoding": "Identity"}
    assert client.post("/v1/chat/completions", json=BASE, headers=headers).status_code == 200


def test_a_client_that_sends_all_of_a_body_that_is_too_large_hears_why(served: Served) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(1_000):
            yield b"x" * 10_000

    for content in (chunks(), b"x" * 10_000_000):
        response = httpx.post(f"{served.base_url}/v1/chat/completions", content=content, headers=JSON)
        assert response.status_code == 413, "and not a connection that breaks"


def test_a_body_without_end_is_not_read_for_ever(served: Served) -> None:
    host, port = served.base_url.removeprefix("http://").split(":")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    sent = 0
    with socket.create_connection((host, int(port))) as client, contextlib.suppress(OSError):
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        while sent < 500_000_000:
            client.sendall(chunk)
            sent += len(chunk)
    assert sent < 200_000_000


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with serving(body_timeout_seconds=0.2) as served:
        host, port = served.base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert client.recv(4096).startswith(b"HTTP/1.1 408")


def test_what_an_engine_cannot_do_is_refused_by_name() -> None:
    from serving_for_tests import byte_tokenizer

    from ochatctl.chat.families import get_family
    from ochatctl.engine.echo import EchoEngine

    engine = EchoEngine(byte_tokenizer(get_family("chatml")), unsupported=frozenset({"num_logprobs", "min_p"}))
    with serving("chatml", engine) as served:
        for change, param in (({"logprobs": True}, "logprobs"), ({"min_p": 0.1}, "min_p")):
            response = httpx.post(f"{served.base_url}/v1/chat/completions", json=BASE | change)
            error = response.json()["error"]
            assert (response.status_code, error["param"], error["code"]) == (400, param, UNSUPPORTED)
        # What says nothing is no demand.
        assert httpx.post(f"{served.base_url}/v1/chat/completions", json=BASE | {"min_p": 0}).status_code == 200


def test_the_table_is_long_enough_to_mean_something() -> None:
    assert len(TABLE) >= 150
    assert len(OTHERS) >= 50


def test_limits_that_are_set_are_the_ones_that_hold_and_are_told() -> None:
    at_most = {"max_depth": 5, "max_choices": 2, "max_prompts": 3, "max_stops": 1, "max_stop_chars": 4}
    deep = {"x": [[[[[]]]]]}
    # What goes, and what is one too many: the fault's message names the limit.
    rows: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
        ("max_depth", {"x": [[[[]]]]}, deep, "the body nests deeper than 5 levels"),
        ("max_choices", {"n": 2}, {"n": 3}, "`n`: it is more than 2"),
        ("max_stops", {"stop": ["a"]}, {"stop": ["a", "b"]}, "`stop`: 2 strings, and at most 1 are allowed"),
        ("max_stop_chars", {"stop": "abcd"}, {"stop": "abcde"}, "`stop`: each string must have 1 to 4 characters"),
    ]
    with serving(**at_most) as served:
        client = httpx.Client(base_url=served.base_url)
        for name, good, bad, message in rows:
            for stream in (False, True):
                body = BASE | {"stream": stream}
                assert client.post("/v1/chat/completions", json=body | good).status_code == 200, name
                refused = client.post("/v1/chat/completions", json=body | bad)
                assert (refused.status_code, refused.json()["error"]["message"]) == (400, message)
        several = {"model": "echo", "prompt": ["a", "b"], "n": 2}
        refused = client.post("/v1/completions", json=several)
        assert refused.json()["error"]["message"] == "`prompt`: prompts times `n` is more than 3"
        assert client.post("/v1/completions", json=several | {"n": 1}).status_code == 200
        for path in ("/tokenize", "/detokenize"):
            assert client.post(path, json=deep).json()["error"]["code"] == "too_deep"
        told = client.get("/openapi.json").json()["components"]["schemas"]
        for name in ("ChatCompletionRequest", "CompletionRequest"):
            properties = told[name]["properties"]
            assert {"minimum": 1, "maximum": 2, "type": "integer"} in properties["n"]["anyOf"]
            text = {"type": "string", "minLength": 1, "maxLength": 4}
            assert properties["stop"]["anyOf"][:2] == [text, {"type": "array", "items": text, "maxItems": 1}]
        client.close()
