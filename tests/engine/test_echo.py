"""The echo engine: the contract, its rule, and its scripted faults."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engine import contract
from engine.contract import LAWS, Case, ask

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import FAMILIES
from ochatctl.engine.echo import EchoEngine
from ochatctl.errors import DataError, RunError

PROMPTS = [f"prompt {index} of {'many ' * index} with an é and a 🦜".encode() for index in range(16)]


def echo(**settings: Any) -> Case:
    tokenizer = ByteTokenizer(["<|end_of_turn|>"])
    return Case(
        engine=EchoEngine(tokenizer, **settings),
        tokenizer=tokenizer,
        prompts=[list(prompt) for prompt in PROMPTS],
        slots=8,
    )


def repeat(prompt_ids: Any) -> list[int]:
    return list(prompt_ids) * 500


async def started(case: Case) -> Case:
    await case.engine.start()
    return case


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_contract_holds(law: Callable[[Case], Awaitable[None]]) -> None:
    async def run() -> None:
        await law(await started(echo(reply=repeat)))

    asyncio.run(run())


def test_closing_leaves_nothing() -> None:
    async def run() -> None:
        before = threading.active_count()
        await contract.closing_ends_what_is_under_way_and_leaves_nothing(await started(echo(reply=repeat)), before)

    asyncio.run(run())


def test_an_unsupported_field_is_refused_and_its_default_is_not() -> None:
    async def run() -> None:
        case = await started(echo(unsupported=frozenset({"seed", "logit_bias"})))
        await contract.every_field_is_honoured_or_declared_unsupported(case)
        assert (await ask(case, case.prompts[0])).text

    asyncio.run(run())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_user_message_comes_back_in_every_family(name: str) -> None:
    template = FAMILIES[name].template
    tokenizer = ByteTokenizer(template.control_strings)
    said = ["Hello: there\nyou", "an answer", "Second: with\n\nlines"]

    async def run() -> None:
        engine = EchoEngine(tokenizer)
        await engine.start()
        case = Case(engine=engine, tokenizer=tokenizer, prompts=[], slots=1)
        for count in (1, 3):
            roles = ["user", "assistant", "user"][:count]
            messages = tuple(
                Message(role=role, content=text)  # type: ignore[arg-type]  # the three roles above
                for role, text in zip(roles, said, strict=False)
            )
            prompt = template.encode(Conversation(id="1", messages=messages), tokenizer, inference=True).token_ids
            got = await ask(case, prompt, max_tokens=99, stop_token_ids=(template.eot_id(tokenizer),))
            assert (got.text, got.finish_reason) == (said[count - 1], "stop")
            assert got.token_ids[-1] == template.eot_id(tokenizer)

    asyncio.run(run())


def test_a_prompt_without_a_template_comes_back_whole() -> None:
    async def run() -> None:
        case = await started(echo())
        assert (await ask(case, list(b"as it is"), max_tokens=99)).text == "as it is"

    asyncio.run(run())


def test_a_failing_answer_gives_what_it_had_and_leaves_the_engine_alive() -> None:
    async def run() -> None:
        case = await started(echo(fail_after_tokens=4))
        with pytest.raises(RunError, match="after 4 tokens"):
            await ask(case, case.prompts[0])
        case.engine.check_alive()
        assert (await ask(case, case.prompts[0], max_tokens=4)).finish_reason == "length"

    asyncio.run(run())


def test_a_dead_engine_ends_every_stream() -> None:
    async def run() -> None:
        case = await started(echo(reply=repeat, die_after_tokens=30))
        results = await asyncio.gather(
            *(ask(case, prompt, max_tokens=100) for prompt in case.prompts[:4]), return_exceptions=True
        )
        assert [type(result) for result in results] == [RunError] * 4
        with pytest.raises(RunError, match="told to die"):
            case.engine.check_alive()

    asyncio.run(run())


def test_half_a_character_is_shown_only_at_the_end() -> None:
    async def run() -> None:
        case = await started(echo(reply=lambda prompt_ids: list("aé".encode())[:2]))
        got = await ask(case, case.prompts[0])
        assert got.text == "a\ufffd"
        assert got.deltas[0].text == "a"

    asyncio.run(run())


def test_an_engine_that_is_not_started_answers_nothing() -> None:
    with pytest.raises(RunError, match="not started"):
        asyncio.run(ask(echo(), [1]))


def test_delay_passes_before_each_token() -> None:
    async def run() -> float:
        case = await started(echo(delay_seconds=0.01))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await ask(case, case.prompts[0], max_tokens=5)
        return loop.time() - begin

    assert asyncio.run(run()) >= 0.045


def test_an_answer_has_at_least_one_token() -> None:
    async def run() -> None:
        with pytest.raises(DataError, match="max_tokens"):
            await ask(await started(echo()), [1], max_tokens=0)

    asyncio.run(run())
