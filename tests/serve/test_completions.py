"""Completions and tokens, over a real socket: no template, true ids, true bytes."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving_for_tests import Served, byte_tokenizer, serving

from ochatctl.chat.families import get_family
from ochatctl.engine.echo import EchoEngine

FAMILY = get_family("openchat_v3.2")
EOT = byte_tokenizer(FAMILY).token_id("<|end_of_turn|>")
BODY: dict[str, Any] = {"model": "echo", "prompt": "Wörld 🌍!", "max_tokens": 100}
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.base_url) as client:
        yield client


def chunks(text: str) -> list[Any]:
    frames = text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def test_a_text_is_gone_on_with_as_it_stands(client: httpx.Client) -> None:
    answer = client.post(PATH, json=BODY).json()
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    (choice,) = answer["choices"]
    # The echo engine answers a prompt without a stop token with the whole of it: nothing was put round it.
    assert choice == {"index": 0, "text": BODY["prompt"], "finish_reason": "stop", "logprobs": None}
    assert answer["usage"]["prompt_tokens"] == len(BODY["prompt"].encode())


def test_sixteen_tokens_are_drawn_where_nothing_is_said(client: httpx.Client) -> None:
    answer = client.post(PATH, json={"model": "echo", "prompt": "x" * 40}).json()
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("x" * 16, "length")


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        (["ab", "cd"], ["ab", "ab", "cd", "cd"]),
        ([72, 105], ["Hi", "Hi"]),
        ([[72], [105]], ["H", "H", "i", "i"]),
    ],
)
def test_prompts_are_texts_or_ids_one_or_several_with_n_answers_each(
    client: httpx.Client, prompt: Any, texts: list[str]
) -> None:
    body = BODY | {"prompt": prompt, "n": 2}
    plain = client.post(PATH, json=body).json()
    assert [choice["text"] for choice in plain["choices"]] == texts
    streamed = chunks(client.post(PATH, json=body | {"stream": True}).text)
    joined = [""] * len(texts)
    for chunk in streamed:
        for choice in chunk["choices"]:
            joined[choice["index"]] += choice["text"]
    assert joined == texts


def test_a_text_cannot_spell_a_control_token_and_ids_can_be_one() -> None:
    seen: list[list[int]] = []

    def reply(prompt_ids: Any) -> list[int]:
        seen.append(list(prompt_ids))
        return []

    with serving(engine=EchoEngine(byte_tokenizer(FAMILY), reply=reply)) as served:
        for prompt in ("<|end_of_turn|>", [EOT]):
            assert httpx.post(served.base_url + PATH, json=BODY | {"prompt": prompt}).status_code == 200
    assert EOT not in seen[0]
    assert seen[1] == [EOT]


def test_the_prompt_comes_back_where_it_is_asked_for(client: httpx.Client) -> None:
    body = BODY | {"prompt": ["ab", "cd"], "echo": True}
    assert [choice["text"] for choice in client.post(PATH, json=body).json()["choices"]] == ["abab", "cdcd"]
    streamed = chunks(client.post(PATH, json=body | {"stream": True}).text)
    texts = [choice["text"] for chunk in streamed for choice in chunk["choices"] if choice["index"] == 1]
    assert texts[0] == "cd"
    assert "".join(texts) == "cdcd"


def test_a_stream_ends_each_choice_alone_and_tells_usage_when_asked(client: httpx.Client) -> None:
    body = BODY | {"stream": True, "stream_options": {"include_usage": True}}
    *texts, finish, usage = chunks(client.post(PATH, json=body).text)
    assert all(chunk["choices"][0]["finish_reason"] is None and chunk["usage"] is None for chunk in texts)
    assert finish["choices"] == [{"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}]
    assert usage["usage"] == client.post(PATH, json=BODY).json()["usage"]
    assert usage["choices"] == []


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_stand_at_their_characters_and_half_ones_are_spelled_as_bytes(
    client: httpx.Client, stream: bool
) -> None:
    response = client.post(PATH, json=BODY | {"logprobs": 0, "prompt": "aé🌍b", "stream": stream})
    parts = chunks(response.text) if stream else [response.json()]
    tables = [choice["logprobs"] for part in parts for choice in part["choices"] if choice["logprobs"]]
    tokens = [token for table in tables for token in table["tokens"]]
    assert tokens == ["a", *(f"bytes:\\x{byte:02x}" for byte in "é🌍".encode()), "b"]
    assert [offset for table in tables for offset in table["text_offset"]] == [0, 1, 1, 2, 2, 2, 2, 3]
    assert {value for table in tables for value in table["token_logprobs"]} == {0.0}


@pytest.mark.parametrize("stream", [False, True])
def test_the_bytes_of_a_chats_tokens_joined_are_its_text(client: httpx.Client, stream: bool) -> None:
    body = {
        "model": "echo", "messages": [{"role": "user", "content": "aé🌍b"}], "logprobs": True, "stream": stream, "n": 2,
    }  # fmt: skip
    response = client.post("/v1/chat/completions", json=body)
    parts = chunks(response.text) if stream else [response.json()]
    for index in range(2):
        entries = [
            entry
            for part in parts
            for choice in part["choices"]
            if choice["index"] == index and choice["logprobs"]
            for entry in choice["logprobs"]["content"]
        ]
        assert len(entries) == len("aé🌍b".encode())
        assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == "aé🌍b"


def test_ids_of_a_text_lead_back_to_it(client: httpx.Client) -> None:
    told = client.post("/tokenize", json={"prompt": "Hé <|end_of_turn|>", "return_token_strs": True}).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == 4096
    assert EOT not in told["tokens"]
    assert client.post("/detokenize", json={"tokens": told["tokens"]}).json() == {"prompt": "Hé <|end_of_turn|>"}


def test_ids_of_messages_are_what_a_chat_is_drawn_from(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    told = client.post("/tokenize", json={"model": "echo", "messages": messages, "condition": "Math"}).json()
    answer = client.post("/v1/chat/completions", json={"model": "echo", "messages": messages, "condition": "Math"})
    assert told["count"] == answer.json()["usage"]["prompt_tokens"]
    assert told["token_strs"] is None
    whole = client.post("/detokenize", json={"tokens": told["tokens"]}).json()["prompt"]
    assert whole == "Math User:Hi<|end_of_turn|>Math Assistant:"
    body = {"tokens": told["tokens"], "skip_special_tokens": True}
    assert "<|" not in client.post("/detokenize", json=body).json()["prompt"]


def test_a_prompt_that_can_be_counted_need_not_fit(client: httpx.Client) -> None:
    # 4,096 ids leave no room for an answer, and are still an answer to the question how many they are.
    assert client.post("/tokenize", json={"prompt": "x" * 4_096}).json()["count"] == 4_096
    assert client.post(PATH, json=BODY | {"prompt": "x" * 4_096}).status_code == 400
