import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.serve import decoding
from ochatctl.serve.protocol import ChatCompletionRequest, RequestError, error_body

BASE = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def decode_chat_request(body: bytes) -> ChatCompletionRequest:
    return decoding.decode_chat_request(body, max_depth=100)


def test_a_request_of_openais_own_client_is_read() -> None:
    request = decode_chat_request(
        json.dumps(BASE | {"temperature": 1, "n": None, "store": False, "tools": []}).encode()
    )
    assert request.temperature == 1.0
    assert request.n is None
    assert request.messages[0].content == "Hi"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("guided_json", {"type": "object"}),
        ("min_tokens", 5),
        ("tool_choice", "required"),
        ("web_search_options", {}),
        ("chat_template_kwargs", {"enable_thinking": True}),
        ("reasoning_effort", "low"),
        ("reasoning", {"effort": "high"}),
        ("verbosity", "low"),
        ("system", "Be brief."),
        ("options", {"temperature": 0}),
        ("format", "json"),
        ("max_output_tokens", 3),
        ("stop_sequences", ["x"]),
        ("return_token_ids", True),
        ("mirostat_mode", 2),
    ],
)
def test_a_parameter_that_would_change_the_answer_is_never_ignored(name: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        decode_chat_request(json.dumps(BASE | {name: value}).encode())
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, name, "unsupported_parameter")
    decode_chat_request(json.dumps(BASE | {name: None}).encode())


# What clients send though they ask for nothing that is not done anyhow: OpenAI's, LangChain, Open WebUI, LibreChat,
# Vercel's, SillyTavern, and whoever was written for vLLM.
NO_DEMANDS: dict[str, object] = {
    "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True, "prompt_cache_key": "x",
    "prompt_cache_retention": "24h", "safety_identifier": "x", "prediction": {"type": "content", "content": "x"},
    "tools": [], "tool_choice": "auto", "functions": [], "function_call": "auto", "modalities": ["text"],
    "reasoning_effort": "none", "reasoning": {"effort": "none"}, "thinking": {"type": "disabled"},
    "verbosity": "medium", "chat_template_kwargs": {"enable_thinking": False},
    "stream_options": {"include_usage": None},
    "response_format": {"type": "text"}, "logit_bias": {}, "stop": [], "top_k": -1, "mirostat": 0, "typical_p": 1.0,
    "dry_multiplier": 0.0, "xtc_probability": 0, "top_a": 0, "tfs_z": 1, "min_tokens": 0, "ignore_eos": False,
    "skip_special_tokens": True, "add_generation_prompt": True, "continue_final_message": False,
    "use_beam_search": False,
}  # fmt: skip


def test_what_asks_for_nothing_else_is_taken_one_by_one_and_at_once() -> None:
    for name, value in NO_DEMANDS.items():
        decode_chat_request(json.dumps(BASE | {name: value}).encode())
    decode_chat_request(json.dumps(BASE | NO_DEMANDS).encode())


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (decoding.decode_chat_request, BASE),
        (decoding.decode_completion_request, {"model": "m", "prompt": "Hi"}),
        (decoding.decode_tokenize_request, {"prompt": "Hi"}),
        (decoding.decode_detokenize_request, {"tokens": [1]}),
    ],
)
def test_null_is_the_same_as_nothing(decode: Any, body: dict[str, Any]) -> None:
    known = decode(json.dumps(body).encode(), max_depth=9)
    names = {*known.__struct_fields__, *decoding.CHAT_REFUSED, *decoding.COMPLETION_REFUSED, *decoding.TOKENIZE_REFUSED}
    for name in names - set(body):
        decode(json.dumps(body | {name: None}).encode(), max_depth=9)


KEYS = st.sampled_from([*BASE, "role", "content", "stop", "n", "logit_bias", "x"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@settings(deadline=None, max_examples=50)
@given(ANY_JSON)
def test_any_json_is_a_request_or_a_400(value: object) -> None:
    fault = None
    try:
        decode_chat_request(json.dumps(value).encode())
    except RequestError as error:
        fault = error
    if fault is not None:
        assert fault.status == 400
        assert set(json.loads(error_body(fault))["error"]) == {"message", "type", "param", "code"}


@settings(deadline=None, max_examples=100)
@given(st.binary())
def test_any_bytes_are_a_request_or_a_400(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        decode_chat_request(body)
    assert caught.value.status == 400


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


NESTED = st.recursive(
    st.text(st.sampled_from('[]{}"\\,: x')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('[}"\\')), inner),
    max_leaves=30,
)


@settings(deadline=None, max_examples=50)
@given(NESTED, st.booleans())
def test_a_body_nests_as_deep_as_its_arrays_and_objects_whatever_its_strings_hold(value: object, raw: bool) -> None:
    body = json.dumps(value, ensure_ascii=raw).encode()
    deep = depth(value)
    assert not decoding.is_deeper(body, deep)
    assert deep == 0 or decoding.is_deeper(body, deep - 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([b"[", b"]", b"{", b'"', b"\\", b"x"])).map(b"".join))
def test_what_is_no_json_is_measured_without_a_fault(body: bytes) -> None:
    assert decoding.is_deeper(body, 3) in (True, False)
