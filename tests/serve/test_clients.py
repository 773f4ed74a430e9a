"""Clients that others wrote drive every engine through everything: OpenAI's, LangChain's, a parser of raw events."""

import asyncio
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from serving_for_tests import byte_tokenizer, serving
from vllm_for_tests import ADAPTER, MODEL, VLLM_MARKS

from ochatctl.chat.families import get_family

pydantic = pytest.importorskip("pydantic", reason="it comes with OpenAI's client, which is not installed")
pytestmark = pytest.mark.slow
FAMILY = get_family("openchat_v3.2")
ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wörld 🌍, hello!"}]


class Ship(pydantic.BaseModel):
    """What an answer is to be."""

    kind: Literal["sloop", "brig"]
    masts: Literal[1, 2, 3]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A server, and what its engine and its family can do."""

    url: str
    model: str
    # Whether sampling fields change what is drawn; the echo engine says the same whatever they are.
    draws: bool = True
    has_schemas: bool = False
    has_conditions: bool = True
    adapter: str = ""

    @property
    def openai(self) -> Any:
        return openai_client(self.url)

    def langchain(self, **settings: Any) -> Any:
        langchain_openai = pytest.importorskip("langchain_openai")
        return langchain_openai.ChatOpenAI(
            base_url=f"{self.url}/v1", api_key="none", model=self.model, max_retries=0,
            **({"temperature": 0, "max_tokens": 16} | settings),
        )  # fmt: skip

    def chat(self, **change: Any) -> Any:
        asked = {"model": self.model, "messages": ASKED, "temperature": 0, "max_tokens": 16} | change
        return self.openai.chat.completions.create(**asked)

    def post(self, path: str, **body: Any) -> Any:
        response = httpx.post(self.url + path, json={"model": self.model} | body, timeout=120)
        assert response.status_code == 200, response.text
        return response.json()


@functools.cache
def openai_client(url: str) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module", params=["echo", "hf", pytest.param("vllm", marks=VLLM_MARKS)])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    if request.param == "vllm":
        served = request.getfixturevalue("served_vllm").served
        yield Subject(url=served.base_url, model=MODEL, has_schemas=True, has_conditions=False, adapter=ADAPTER)
    elif request.param == "hf":
        engine = tiny_hf(tmp_path_factory.mktemp("tiny"))
        with serving(engine=engine, model_names=("echo", ADAPTER), adapters=(ADAPTER,)) as served:
            yield Subject(url=served.base_url, model="echo", adapter=ADAPTER)
    else:
        with serving() as served:
            yield Subject(url=served.base_url, model="echo", draws=False)


def tiny_hf(folder: Path) -> Any:
    """Give an engine over a model of noise: its bytes are seldom whole characters, so every edge is met."""
    import torch
    from adapters_for_tests import save_adapters
    from transformers import LlamaConfig, LlamaForCausalLM

    from ochatctl.engine.adapters import find_adapters
    from ochatctl.engine.hf import HfEngine

    tokenizer = byte_tokenizer(FAMILY)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.num_tokens, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    adapters = save_adapters(folder / "base", folder / "adapters", seed=1)
    return HfEngine(folder / "base", tokenizer, device="cpu", adapters=find_adapters({ADAPTER: str(adapters)}, FAMILY))


def test_the_models_are_listed_and_told(subject: Subject) -> None:
    openai = pytest.importorskip("openai")
    names = [model.id for model in subject.openai.models.list()]
    assert subject.model in names
    assert subject.openai.models.retrieve(subject.model).id == subject.model
    with pytest.raises(openai.NotFoundError) as caught:
        subject.openai.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_adapters_are_a_model_of_their_own(subject: Subject) -> None:
    if not subject.adapter:
        pytest.skip("this engine has no weights")
    card = subject.openai.models.retrieve(subject.adapter)
    assert (card.root, card.parent) == (subject.adapter, subject.model)
    own, base = (subject.chat(model=model) for model in (subject.adapter, subject.model))
    assert (own.model, base.model) == (subject.adapter, subject.model)
    assert own.choices[0].message.content != base.choices[0].message.content
    assert subject.chat(model=subject.adapter).choices == own.choices


@pytest.mark.parametrize("num_choices", [1, 3])
def test_a_stream_is_what_the_plain_answer_is(subject: Subject, num_choices: int) -> None:
    more = {"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1}
    if subject.has_conditions:
        more["condition"] = "Math"
    asked: Any = {
        "max_completion_tokens": 24, "max_tokens": None, "n": num_choices, "seed": 3, "top_p": 0.9, "stop": ["zz"],
        "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {"65": 1}, "user": "someone",
        "logprobs": True, "top_logprobs": 2, "extra_body": more,
    }  # fmt: skip
    plain = subject.chat(**asked)
    chunks = list(subject.chat(**asked, stream=True, stream_options={"include_usage": True}))
    assert len(plain.choices) == num_choices
    for choice in plain.choices:
        own = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert own[0].delta.role == "assistant"
        assert "".join(each.delta.content or "" for each in own) == choice.message.content
        assert own[-1].finish_reason == choice.finish_reason
        assert own[-1].delta.content is None
        tokens = [token for each in own if each.logprobs for token in each.logprobs.content or []]
        assert [token.token for token in tokens] == [token.token for token in choice.logprobs.content]
        assert all(len(token.top_logprobs) <= 2 and token.logprob <= 0 for token in tokens)
        spelled = bytes(byte for token in tokens for byte in token.bytes or [])
        assert spelled.decode("utf-8", "replace") == choice.message.content
    assert chunks[-1].usage == plain.usage
    assert chunks[-1].choices == []


def test_a_raw_response_is_events_of_data_and_nothing_else(subject: Subject) -> None:
    create = subject.openai.chat.completions.with_streaming_response.create
    asked: Any = {"model": subject.model, "messages": ASKED, "temperature": 0, "max_tokens": 40}
    with create(**asked, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"]
        lines = list(response.iter_lines())
    body = asked | {"stream": True}
    with httpx.stream("POST", f"{subject.url}/v1/chat/completions", json=body, timeout=120) as raw_response:
        raw = b"".join(raw_response.iter_raw())
    text = raw.decode()  # no event splits a character
    assert text.endswith("data: [DONE]\n\n")
    frames = [frame for frame in text.split("\n\n") if frame and not frame.startswith(":")]
    assert len([line for line in lines if line.startswith("data: ")]) == len(frames)
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[-1] in ("stop", "length")
    assert not any(reasons[:-1])
    assert chunks[-1]["choices"][0]["delta"] == {}
    plain = subject.chat(max_tokens=40)
    joined = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert joined == plain.choices[0].message.content


def test_a_stop_string_cuts_an_answer_off(subject: Subject) -> None:
    free = subject.chat(max_tokens=24).choices[0].message.content
    stop = free[5:8]
    for stream in (False, True):
        got = subject.chat(max_tokens=24, stop=["never there", stop], stream=stream)
        if stream:
            parts = [chunk.choices[0] for chunk in got]
            text, reason = "".join(part.delta.content or "" for part in parts), parts[-1].finish_reason
        else:
            text, reason = got.choices[0].message.content, got.choices[0].finish_reason
        assert (text, reason) == (free[: free.index(stop)], "stop")


def test_a_seed_repeats_its_answer_and_another_does_not(subject: Subject) -> None:
    first, second, other = (
        subject.chat(temperature=1.5, seed=seed).choices[0].message.content for seed in (11, 11, 12)
    )
    assert first == second
    assert (first != other) == subject.draws


def test_a_bias_decides_what_is_drawn(subject: Subject) -> None:
    (token_id,) = subject.post("/tokenize", prompt="Z", add_special_tokens=False)["tokens"][-1:]
    got = subject.chat(logit_bias={str(token_id): 100}, max_tokens=3).choices[0].message.content
    assert (got == "ZZZ") == subject.draws


def test_texts_and_ids_are_completed(subject: Subject) -> None:
    prompts = [subject.post("/tokenize", prompt=text)["tokens"] for text in ("Once upon a time", "The sea")]
    asked: Any = {"model": subject.model, "temperature": 0, "max_tokens": 12, "logprobs": 1, "n": 2, "prompt": prompts}
    plain = subject.openai.completions.create(**asked)
    chunks = list(subject.openai.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert len(plain.choices) == 4
    for choice in plain.choices:
        own = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(each.text for each in own) == choice.text
        assert [token for each in own if each.logprobs for token in each.logprobs.tokens] == choice.logprobs.tokens
        assert len(choice.logprobs.text_offset) == len(choice.logprobs.tokens)
    assert plain.usage.prompt_tokens == sum(map(len, prompts)) == chunks[-1].usage.prompt_tokens
    text = subject.openai.completions.create(**asked | {"prompt": "The sea", "n": 1, "logprobs": None})
    assert text.choices[0].text == plain.choices[2].text
    echoed = subject.openai.completions.create(**asked | {"prompt": "The sea", "n": 1, "logprobs": None}, echo=True)
    assert echoed.choices[0].text == "The sea" + text.choices[0].text


def test_an_assistant_message_is_gone_on_with(subject: Subject) -> None:
    messages = [*ASKED, {"role": "assistant", "content": "Ahoy, my dear"}]
    ids = subject.post("/tokenize", messages=messages)["tokens"]
    text = subject.post("/detokenize", tokens=ids)["prompt"]
    assert text.endswith("Ahoy, my dear")
    chat = subject.chat(messages=messages)
    whole = subject.openai.completions.create(model=subject.model, prompt=ids, temperature=0, max_tokens=16)
    assert chat.choices[0].message.content == whole.choices[0].text
    assert chat.usage == whole.usage
    assert chat.choices[0].message.content != subject.chat().choices[0].message.content or not subject.draws


def test_text_parts_and_a_developer_are_understood(subject: Subject) -> None:
    parts = [{"type": "text", "text": "Wörld 🌍,"}, {"type": "text", "text": " hello!"}]
    asked = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert subject.chat(messages=asked).choices == subject.chat().choices


def test_what_an_engine_cannot_do_is_a_400_that_names_it(subject: Subject) -> None:
    openai = pytest.importorskip("openai")
    faults: list[tuple[Any, str]] = [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "long " * 20_000}]}, "messages"),
    ]
    if not subject.has_schemas:
        schema = {"type": "json_schema", "json_schema": {"name": "ship", "schema": Ship.model_json_schema()}}
        faults += [({"response_format": each}, "response_format") for each in ({"type": "json_object"}, schema)]
    if not subject.has_conditions:
        faults.append(({"extra_body": {"condition": "Math"}}, "condition"))
    for change, param in faults:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                subject.chat(stream=stream, **change)
            assert caught.value.param == param


def test_an_answer_meets_a_schema_that_openais_client_parses(subject: Subject) -> None:
    openai = pytest.importorskip("openai")
    parse = subject.openai.chat.completions.parse
    asked: Any = {"model": subject.model, "messages": ASKED, "temperature": 0, "max_tokens": 40}
    if not subject.has_schemas:
        with pytest.raises(openai.BadRequestError, match="response_format"):
            parse(**asked, response_format=Ship)
        return
    assert isinstance(parse(**asked, response_format=Ship).choices[0].message.parsed, Ship)
    with subject.openai.chat.completions.stream(**asked, response_format=Ship) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Ship)
    free = subject.chat(max_tokens=16, response_format={"type": "json_object"}).choices[0]
    assert free.message.content.lstrip().startswith("{")


def test_langchain_invokes_streams_and_batches(subject: Subject) -> None:
    model = subject.langchain()
    whole = model.invoke("Wörld, hello!")
    assert whole.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in model.stream("Wörld, hello!")) == whole.content
    assert [each.content for each in model.batch(["Wörld, hello!"] * 3)] == [whole.content] * 3

    async def streamed() -> str:
        # LangChain's own client of this kind is never closed.
        async with httpx.AsyncClient() as client:
            model = subject.langchain(http_async_client=client)
            return "".join([chunk.content async for chunk in model.astream("Wörld, hello!")])

    assert asyncio.run(streamed()) == whole.content
    stop = whole.content[4:6]
    cut = model.bind(stop=[stop]).invoke("Wörld, hello!")
    assert cut.content == whole.content[: whole.content.index(stop)]
    assert cut.response_metadata["finish_reason"] == "stop"
    told = subject.langchain(logprobs=True, top_logprobs=2).invoke("Wörld, hello!")
    spelled = bytes(byte for token in told.response_metadata["logprobs"]["content"] for byte in token["bytes"])
    assert spelled.decode("utf-8", "replace") == whole.content


def test_langchain_gets_structured_output_where_the_engine_can(subject: Subject) -> None:
    openai = pytest.importorskip("openai")
    model = subject.langchain(max_tokens=40).with_structured_output(Ship, method="json_schema")
    if subject.has_schemas:
        assert isinstance(model.invoke("Name a ship."), Ship)
    else:
        with pytest.raises(openai.BadRequestError, match="response_format"):
            model.invoke("Name a ship.")
