"""What an OpenAI-compatible endpoint is sent, and how its answers are read."""

import json
from typing import Any

import pytest
from endpoint_stub_for_tests import chat, run, stub

from ochatctl.chat.conversation import Conversation
from ochatctl.engine.client import Ask
from ochatctl.engine.client_http import Dialect, HttpClient
from ochatctl.errors import ConfigError, DataError, RemoteError

GOOD = json.dumps({"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]}).encode()


async def streamed(client: HttpClient, conversation: Conversation) -> str:
    return "".join([piece async for piece in client.stream(conversation, Ask())])


def complete(url: str, **options: Any) -> Any:
    ask = Ask(max_tokens=5, temperature=0.5, seed=3, stop=("x",))
    return run(HttpClient(url, "m", **options), lambda client: client.complete(chat("Hi"), ask))


def test_what_is_sent_is_openais_and_only_what_was_asked_for() -> None:
    with stub([(200, {}, GOOD)]) as (url, asked):
        assert complete(url, api_key="sk-9").text == "ok"
    assert asked[0]["path"] == "/v1/chat/completions"
    assert asked[0]["key"] == "Bearer sk-9"
    assert asked[0]["body"] == {
        "model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "max_tokens": 5,
        "seed": 3, "stop": ["x"],
    }  # fmt: skip


def test_half_a_character_pair_is_refused_before_it_is_sent() -> None:
    with pytest.raises(DataError, match="surrogate"):
        run(HttpClient("http://127.0.0.1:9/v1", "m"), lambda client: streamed(client, chat("\ud800")))


def test_a_dialect_renames_parameters_and_leaves_them_out() -> None:
    dialect = Dialect(renamed={"max_tokens": "max_completion_tokens", "temperature": None})
    with stub([(200, {}, GOOD)]) as (url, asked):
        complete(url, dialect=dialect)
    assert asked[0]["body"]["max_completion_tokens"] == 5
    assert not {"max_tokens", "temperature"} & set(asked[0]["body"])


def test_the_candidates_for_the_first_token_are_given_where_they_come() -> None:
    rows = [{"token": "m", "logprob": -0.5}, {"token": "M", "logprob": -1.0}]
    choice = {"message": {"content": "m"}, "logprobs": {"content": [{"top_logprobs": rows}]}}
    ask = Ask(max_tokens=1, top_logprobs=5)
    with stub([(200, {}, json.dumps({"choices": [choice]}).encode()), (200, {}, GOOD)]) as (url, asked):
        replies = [run(HttpClient(url, "m"), lambda client: client.complete(chat("Hi"), ask)) for _ in range(2)]
    assert [reply.first_logprobs for reply in replies] == [{"m": -0.5, "M": -1.0}, None]
    assert (asked[0]["body"]["logprobs"], asked[0]["body"]["top_logprobs"]) == (True, 5)


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [3]}'])
def test_what_is_no_chat_completion_is_a_remote_error(content: bytes) -> None:
    with stub([(200, {}, content)]) as (url, _), pytest.raises(RemoteError):
        complete(url)


def test_a_stream_that_ends_too_soon_is_not_taken_for_an_answer() -> None:
    event = b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'
    with stub([(200, {}, event)]) as (url, _), pytest.raises(RemoteError, match="broke off"):
        run(HttpClient(url, "m"), lambda client: streamed(client, chat("Hi")))


def test_an_endpoint_with_several_models_wants_a_name() -> None:
    with stub([(200, {}, GOOD)]) as (url, _), pytest.raises(ConfigError, match="`a`, `b`") as caught:
        run(HttpClient(url), lambda client: streamed(client, chat("Hi")))
    assert "--model-name" in caught.value.hint
