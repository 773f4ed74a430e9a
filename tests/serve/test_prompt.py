"""Every parameter arrives at the engine as it was meant, and long texts do not hold up the others."""

import asyncio
import json
from dataclasses import fields
from typing import Any

import pytest
from serving_for_tests import byte_tokenizer

from ochatctl.chat.families import get_family
from ochatctl.engine.base import SamplingSpec
from ochatctl.engine.echo import EchoEngine
from ochatctl.serve.config import AppConfig
from ochatctl.serve.decoding import decode_chat_request, decode_completion_request
from ochatctl.serve.prompt import Prepared, Preparer
from ochatctl.serve.protocol import RequestError

FAMILY = get_family("openchat_v3.2")
TOKENIZER = byte_tokenizer(FAMILY)
EOT = FAMILY.template.eot_id(TOKENIZER)
USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


class AnyForm(EchoEngine):
    """An engine that says it can do everything."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER)
        self.unsupported = frozenset()


def prepared(path: str = "chat", **change: Any) -> Prepared:
    preparer = Preparer(
        engine=AnyForm(),
        family=FAMILY,
        tokenizer=TOKENIZER,
        config=AppConfig(model_names=("m", "lora"), adapters=("lora",), stop_token_ids=(EOT,), stream_period=6),
    )
    if path == "chat":
        request = decode_chat_request(json.dumps({"model": "m", "messages": [USER]} | change).encode(), max_depth=100)
        return asyncio.run(preparer.chat(request))
    body = json.dumps({"model": "m", "prompt": "Hi"} | change).encode()
    return asyncio.run(preparer.completion(decode_completion_request(body, max_depth=100)))


ROOM = 4096 - len(prepared().draws[0][0])
BOTH: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "temperature", 0.7),
    ({"temperature": 0}, "temperature", 0.0),
    ({"temperature": None}, "temperature", 0.7),
    ({"top_p": 0.5}, "top_p", 0.5),
    ({"top_k": 3}, "top_k", 3),
    ({"top_k": -1}, "top_k", 0),
    ({"min_p": 0.2}, "min_p", 0.2),
    ({"presence_penalty": 0.5}, "presence_penalty", 0.5),
    ({"frequency_penalty": -0.5}, "frequency_penalty", -0.5),
    ({"repetition_penalty": 1.5}, "repetition_penalty", 1.5),
    ({"logit_bias": {"65": 3, "66": -100}}, "logit_bias", {65: 3.0, 66: -100.0}),
    ({"seed": 7}, "seed", 7),
    ({"stop": "a"}, "stop", ("a",)),
    ({"stop": ["a", "\n"]}, "stop", ("a", "\n")),
    ({"stop": []}, "stop", ()),
    ({}, "stop_token_ids", (EOT,)),
    ({"max_tokens": 5}, "max_tokens", 5),
    ({"stream": True}, "stream_period", 6),
    ({"max_tokens": 9}, "stream_period", 9),
    ({"response_format": {"type": "text"}}, "json_schema", ""),
    ({"response_format": {"type": "json_object"}}, "json_schema", '{"type": "object"}'),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
        "json_schema",
        json.dumps(SCHEMA, separators=(",", ":")),
    ),
    ({"user": "someone"}, "seed", None),
    ({}, "adapter", ""),
    ({"model": "lora"}, "adapter", "lora"),
]
CHATS: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "max_tokens", ROOM),
    ({"max_tokens": 10**9}, "max_tokens", ROOM),
    ({"max_completion_tokens": 5}, "max_tokens", 5),
    ({"max_completion_tokens": 5, "max_tokens": 7}, "max_tokens", 5),
    ({"logprobs": True}, "num_logprobs", 0),
    ({"logprobs": True, "top_logprobs": 4}, "num_logprobs", 4),
    ({"logprobs": False}, "num_logprobs", None),
    ({}, "context_ids", ()),
    ({"messages": [USER, {"role": "assistant", "content": "So"}]}, "context_ids", tuple(b"So")),
]
COMPLETIONS: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "max_tokens", 16),
    ({"prompt": "x" * 4_090}, "max_tokens", 6),
    ({"logprobs": 0}, "num_logprobs", 0),
    ({"logprobs": 5}, "num_logprobs", 5),
    ({"prompt": "So"}, "context_ids", tuple(b"So")),
]
ROWS = [*(("chat", *row) for row in BOTH + CHATS), *(("completion", *row) for row in BOTH + COMPLETIONS)]


def test_a_parameter_arrives_at_the_engine() -> None:
    for path, change, field, value in ROWS:
        assert getattr(prepared(path, **change).draws[0][1], field) == value, (path, change, field)
    assert {row[2] for row in ROWS} == {field.name for field in fields(SamplingSpec)}


def test_n_choices_have_seeds_of_their_own_and_the_first_has_the_one_asked_for() -> None:
    draws = prepared(n=3, seed=5).draws
    assert draws[0][1].seed == 5
    assert len({spec.seed for _, spec in draws}) == 3
    assert prepared(n=3, seed=5) == prepared(n=3, seed=5)


def messages_text(messages: list[dict[str, Any]], **change: Any) -> str:
    return "".join(map(TOKENIZER.token_text, prepared(messages=messages, **change).draws[0][0]))


def test_parts_are_joined_and_a_developer_is_a_system() -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    assert messages_text([{"role": "user", "content": parts}]) == messages_text([USER])
    said = [messages_text([{"role": role, "content": "Be brief."}, USER]) for role in ("system", "developer")]
    assert said[0] == said[1]
    assert "Be brief." in said[0]


def test_what_follows_a_prefix_of_an_answer_goes_on_in_it() -> None:
    text = messages_text([USER, {"role": "assistant", "content": "So"}])
    assert text.endswith("Assistant:So")
    assert messages_text([USER], condition="Math").startswith("Math User:")


def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded() -> None:
    class Untouched(type(TOKENIZER)):  # type: ignore[misc]
        def encode_text(self, text: str) -> list[int]:
            assert len(text) < 5_000, "encoded"
            return super().encode_text(text)  # type: ignore[no-any-return]

    tokenizer = Untouched(FAMILY.template.control_strings)
    preparer = Preparer(
        engine=EchoEngine(tokenizer), family=FAMILY, tokenizer=tokenizer, config=AppConfig(model_names=("m",))
    )
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 5_000}]}
    with pytest.raises(RequestError, match="5000 bytes") as caught:
        asyncio.run(preparer.chat(decode_chat_request(json.dumps(body).encode(), max_depth=100)))
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
