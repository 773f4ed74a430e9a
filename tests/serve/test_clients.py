"""Clients that others wrote drive the server through everything: OpenAI's, LangChain's, and a parser of raw events."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_for_tests import Served, byte_tokenizer, serving

from ochatctl.chat.families import get_family

pytestmark = pytest.mark.slow
FAMILY = get_family("openchat_v3.2")
ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wörld 🌍, hello!"}]


@pytest.fixture(scope="module", params=["echo", "hf"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if request.param == "echo":
        with serving() as served:
            yield served
        return
    with serving(engine=tiny_hf(tmp_path_factory.mktemp("tiny"))) as served:
        yield served


def tiny_hf(folder: Path) -> Any:
    """Give an engine over a model of noise: its bytes are seldom whole characters, so every edge is met."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ochatctl.engine.hf import HfEngine

    tokenizer = byte_tokenizer(FAMILY)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.num_tokens, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return HfEngine(folder, tokenizer, device="cpu")


def openai_client(served: Served) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none", max_retries=0)


def test_openais_client_lists_the_models(served: Served) -> None:
    client = openai_client(served)
    names = [model.id for model in client.models.list()]
    assert "openchat_v3.2" in names
    assert client.models.retrieve(names[0]).id == names[0]
    with pytest.raises(pytest.importorskip("openai").NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("num_choices", [1, 3])
def test_openais_client_streams_what_it_gets_plain(served: Served, num_choices: int) -> None:
    client = openai_client(served)
    asked: Any = {
        "model": "echo", "messages": ASKED, "temperature": 0, "max_tokens": 24, "n": num_choices, "seed": 3,
        "stop": ["zz"], "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {"65": 1},
        "logprobs": True, "top_logprobs": 2,
        "user": "someone",
        "extra_body": {"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1, "condition": "Math"},
    }  # fmt: skip
    plain = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert len(plain.choices) == num_choices
    for choice in plain.choices:
        own = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert own[0].delta.role == "assistant"
        assert "".join(each.delta.content or "" for each in own) == choice.message.content
        assert own[-1].finish_reason == choice.finish_reason
        assert own[-1].delta.content is None
        tokens = [token for each in own if each.logprobs for token in each.logprobs.content or []]
        assert tokens == choice.logprobs.content
        spelled = bytes(byte for token in tokens for byte in token.bytes or [])
        assert spelled.decode("utf-8", "replace") == choice.message.content
    assert chunks[-1].usage == plain.usage
    assert chunks[-1].choices == []


def test_openais_client_completes_texts_and_ids(served: Served) -> None:
    client = openai_client(served)
    asked: Any = {
        "model": "echo",
        "prompt": [[72, 105], [74]],
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": 1,
        "n": 2,
    }
    plain = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True))
    assert len(plain.choices) == 4
    for choice in plain.choices:
        own = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(each.text for each in own) == choice.text
        assert [token for each in own if each.logprobs for token in each.logprobs.tokens] == choice.logprobs.tokens
        assert len(choice.logprobs.text_offset) == len(choice.logprobs.tokens)
    assert plain.usage.prompt_tokens == 3


def test_openais_client_is_told_what_an_engine_cannot(served: Served) -> None:
    openai = pytest.importorskip("openai")
    client = openai_client(served)
    for change, param in (
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"max_tokens": 0}, "max_tokens"),
    ):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(model="echo", messages=ASKED, stream=stream, **change)
            assert caught.value.param == param


def test_the_same_seed_gives_the_same_answer(served: Served) -> None:
    client = openai_client(served)
    asked: Any = {"model": "echo", "messages": ASKED, "temperature": 1.5, "max_tokens": 16, "seed": 11}
    first, second = (client.chat.completions.create(**asked).choices[0].message.content for _ in range(2))
    assert first == second


def test_langchain_invokes_streams_and_batches(served: Served) -> None:
    chat_models = pytest.importorskip("langchain_openai")
    model = chat_models.ChatOpenAI(
        base_url=f"{served.base_url}/v1", api_key="none", model="echo", temperature=0, max_tokens=16, max_retries=0
    )
    whole = model.invoke("Wörld, hello!")
    assert whole.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in model.stream("Wörld, hello!")) == whole.content
    assert [each.content for each in model.batch(["Wörld, hello!"] * 3)] == [whole.content] * 3


def test_raw_events_are_lines_of_data_and_nothing_else(served: Served) -> None:
    body = {"model": "echo", "messages": ASKED, "temperature": 0, "max_tokens": 40, "stream": True}
    with httpx.stream("POST", f"{served.base_url}/v1/chat/completions", json=body, timeout=60) as response:
        raw = b"".join(response.iter_raw())
    text = raw.decode()  # no event splits a character
    assert text.endswith("data: [DONE]\n\n")
    frames = [frame for frame in text.split("\n\n") if frame and not frame.startswith(":")]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[-1] in ("stop", "length")
    assert not any(reasons[:-1])
    plain = httpx.post(f"{served.base_url}/v1/chat/completions", json=body | {"stream": False}, timeout=60).json()
    joined = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert joined == plain["choices"][0]["message"]["content"]
