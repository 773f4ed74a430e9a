import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.serve.protocol import RequestError, decode_chat_request, error_body

BASE = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


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
        ("tool_choice", "auto"),
    ],
)
def test_a_parameter_that_would_change_the_answer_is_never_ignored(name: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        decode_chat_request(json.dumps(BASE | {name: value}).encode())
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, name, "unsupported_parameter")
    decode_chat_request(json.dumps(BASE | {name: None}).encode())


KEYS = st.sampled_from([*BASE, "role", "content", "stop", "n", "logit_bias", "x"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@settings(deadline=None, max_examples=80)
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
