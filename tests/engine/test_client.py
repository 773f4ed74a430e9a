"""Both clients against the same model give the same answers; the HTTP one over a real socket."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from endpoint_stub_for_tests import chat, run
from serving_for_tests import byte_tokenizer, serving

from ochatctl.chat.conversation import Conversation
from ochatctl.chat.families import get_family
from ochatctl.engine.client import Ask, ChatClient, Reply
from ochatctl.engine.client_http import HttpClient
from ochatctl.engine.client_local import LocalClient
from ochatctl.engine.echo import EchoEngine
from ochatctl.engine.prompt import PromptTooLong
from ochatctl.errors import RemoteError, RunError

FAMILY = get_family("openchat_v3.2")
TOKENIZER = byte_tokenizer(FAMILY)
GREEDY = Ask(temperature=0.0)


async def streamed(client: ChatClient, conversation: Conversation, ask: Ask = GREEDY) -> str:
    return "".join([piece async for piece in client.stream(conversation, ask)])


async def started(engine: EchoEngine) -> LocalClient:
    await engine.start()
    return LocalClient(engine, FAMILY, TOKENIZER)


def test_both_clients_give_the_same_answer_and_counts() -> None:
    conversation = chat("Hello", "Hi there", "wörld 🌍", system="Be brief.", condition="GPT3")

    async def ask(client: ChatClient) -> tuple[str, Reply]:
        settings = Ask(temperature=0.0, stop=("!",))
        return await streamed(client, conversation, settings), await client.complete(conversation, settings)

    async def here() -> Any:
        client = await started(EchoEngine(TOKENIZER))
        try:
            return await ask(client)
        finally:
            await client.close()

    with serving() as served:
        there = run(HttpClient(served.base_url + "/v1"), ask)
    assert there == asyncio.run(here())
    assert there[0] == there[1].text == "wörld 🌍"
    assert there[1].num_prompt_tokens > 40
    assert there[1].num_answer_tokens == len("wörld 🌍".encode()) + 1


def test_the_room_that_is_left_limits_an_answer_and_a_full_context_is_said() -> None:
    async def ask(client: ChatClient) -> Reply:
        with pytest.raises(PromptTooLong):
            await client.complete(chat("x" * 5_000), GREEDY)
        return await client.complete(chat("abcdef"), Ask(max_tokens=3, temperature=0.0))

    async def here() -> Reply:
        return await ask(await started(EchoEngine(TOKENIZER)))

    with serving() as served:
        replies = [asyncio.run(here()), run(HttpClient(served.base_url + "/v1"), ask)]
    assert [(reply.text, reply.finish_reason) for reply in replies] == [("abc", "length")] * 2


def test_leaving_a_stream_frees_the_slot() -> None:
    engine = EchoEngine(TOKENIZER, delay_seconds=0.01)

    async def here() -> int:
        client = await started(engine)
        async with aclosing(client.stream(chat("x" * 999), GREEDY)) as pieces:
            assert await anext(pieces) == "x"
            assert engine.num_running == 1
        return engine.num_running

    assert asyncio.run(here()) == 0


def test_a_dead_engine_is_a_run_error_here_and_a_remote_error_there() -> None:
    async def ask(client: ChatClient) -> str:
        return await streamed(client, chat("Hello"))

    async def here() -> str:
        return await ask(await started(EchoEngine(TOKENIZER, die_after_tokens=2)))

    with pytest.raises(RunError):
        asyncio.run(here())
    with (
        serving(engine=EchoEngine(TOKENIZER, die_after_tokens=2)) as served,
        pytest.raises(RemoteError, match="mid-answer"),
    ):
        run(HttpClient(served.base_url + "/v1", max_retries=0), ask)


def test_an_untrained_condition_is_warned_of_once_by_both_clients() -> None:
    async def ask(client: ChatClient) -> None:
        for condition in ("GPT4", "Code", "Code"):
            await client.complete(chat("Hello", condition=condition), GREEDY)

    async def here(note: Callable[[str], None]) -> None:
        engine = EchoEngine(TOKENIZER)
        await engine.start()
        client = LocalClient(engine, FAMILY, TOKENIZER, trained_conditions=("GPT4",), note=note)
        await ask(client)
        await client.close()

    local: list[str] = []
    asyncio.run(here(local.append))
    remote: list[str] = []
    with serving(trained_conditions=("GPT4",)) as served:
        run(HttpClient(served.base_url + "/v1", note=remote.append), ask)
    assert local == remote == ["warning: the condition asked for was not trained; trained: GPT4"]
