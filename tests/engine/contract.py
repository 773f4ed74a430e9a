"""What every engine must do. Each law takes a `Case`; a test module runs them all against its own engine."""

import asyncio
import contextlib
import multiprocessing
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pytest

from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Delta, Engine, SamplingSpec
from ochatctl.errors import DataError, RunError

# A value beside the default for every field that changes how an answer is drawn.
OTHER_VALUES: dict[str, Any] = {
    "json_schema": '{"type": "object"}',
    "adapter": "pirate",
    "temperature": 1.3,
    "top_p": 0.8,
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.2,
    "logit_bias": {5: 3.0, 6: -100.0},
    "seed": 7,
    "stop": ("zzz",),
    "stop_token_ids": (9,),
    "num_logprobs": 3,
    "stream_period": 4,
    "context_ids": (65, 66),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """An engine that has been started, and what the laws need to know of it.

    `prompts` are at least 16, of different lengths, each answered with at least 24 tokens where nothing stops them.
    """

    engine: Engine
    tokenizer: Tokenizer
    prompts: Sequence[Sequence[int]]
    # How many answers it draws at once.
    slots: int


@dataclass(frozen=True, kw_only=True)
class Got:
    deltas: list[Delta]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    @property
    def finish_reason(self) -> str | None:
        return self.deltas[-1].finish_reason


async def ask(case: Case, prompt: Sequence[int], **settings: Any) -> Got:
    spec = SamplingSpec(**({"max_tokens": 24, "temperature": 0.0} | settings))
    async with contextlib.aclosing(case.engine.generate(prompt, spec)) as deltas:
        return Got(deltas=[delta async for delta in deltas])


async def deltas_join_to_the_text_and_only_the_last_is_finished(case: Case) -> None:
    for prompt in case.prompts[:3]:
        got = await ask(case, prompt)
        assert got.text == case.tokenizer.decode(got.token_ids)
        assert [delta.finish_reason is not None for delta in got.deltas] == [False] * (len(got.deltas) - 1) + [True]
        assert all(delta.text for delta in got.deltas[:-1])
        assert len(got.deltas) > 3


async def max_tokens_counts_tokens_and_ends_with_length(case: Case) -> None:
    for count in (1, 2, 7):
        got = await ask(case, case.prompts[0], max_tokens=count)
        assert (len(got.token_ids), got.finish_reason) == (count, "length")


async def a_stop_token_ends_the_answer_and_gives_no_text(case: Case) -> None:
    free = (await ask(case, case.prompts[0])).token_ids
    stop = free[10]
    end = free.index(stop)
    got = await ask(case, case.prompts[0], stop_token_ids=(stop,))
    assert (got.token_ids, got.finish_reason) == (free[: end + 1], "stop")
    assert got.text == case.tokenizer.decode(free[:end])


async def a_stop_string_cuts_exactly_whatever_the_chunks(case: Case) -> None:
    text = (await ask(case, case.prompts[0])).text
    stop = text[5:9]
    expected = text[: text.index(stop)]
    seen = set()
    for period in (1, 2, 3, 24):
        got = await ask(case, case.prompts[0], stop=("never there", stop), stream_period=period)
        assert (got.text, got.finish_reason) == (expected, "stop")
        seen.add(tuple(got.token_ids))
    assert len(seen) == 1
    assert len(next(iter(seen))) < 24


async def a_stream_period_gathers_tokens(case: Case) -> None:
    one = await ask(case, case.prompts[1])
    four = await ask(case, case.prompts[1], stream_period=4)
    assert four.text == one.text
    assert four.token_ids == one.token_ids
    assert len(four.deltas) < len(one.deltas)
    assert all(len(delta.token_ids) >= 4 for delta in four.deltas[1:-1])


async def progress_grows_though_no_delta_is_due(case: Case) -> None:
    before = case.engine.progress
    got = await ask(case, case.prompts[1], max_tokens=60, stream_period=60)
    assert len(got.token_ids) > 32 or got.finish_reason == "stop"
    assert len(got.deltas) <= 2
    # The first token, one output of vLLM's on the way, and the end.
    assert case.engine.progress - before >= 3


async def the_first_token_comes_at_once_whatever_the_period(case: Case) -> None:
    got = await ask(case, case.prompts[1], stream_period=6)
    one = await ask(case, case.prompts[1])
    assert len(got.deltas[0].token_ids) == len(one.deltas[0].token_ids)
    assert all(len(delta.token_ids) >= 6 for delta in got.deltas[1:-1])


async def greedy_answers_repeat(case: Case) -> None:
    first = await ask(case, case.prompts[2])
    assert (await ask(case, case.prompts[2])).token_ids == first.token_ids


async def a_seed_repeats_its_answer_alone_and_among_others(case: Case) -> None:
    async def seeded(index: int, seed: int | None) -> list[int]:
        return (await ask(case, case.prompts[index], temperature=1.0, top_p=0.95, seed=seed)).token_ids

    alone = await seeded(0, 11)
    crowd = await asyncio.gather(seeded(0, 11), *(seeded(index, None) for index in range(1, 9)), seeded(0, 11))
    assert crowd[0] == crowd[-1] == alone


async def sixteen_at_once_answer_as_each_would_alone(case: Case) -> None:
    counts = [5 + index for index in range(16)]
    jobs = [ask(case, prompt, max_tokens=count) for prompt, count in zip(case.prompts, counts, strict=False)]
    together = await asyncio.gather(*jobs)
    assert [len(got.token_ids) for got in together] == counts
    for index in (0, 3, 15):
        assert (await ask(case, case.prompts[index], max_tokens=counts[index])).token_ids == together[index].token_ids


async def an_aborted_answer_frees_its_slot(case: Case) -> None:
    spec = SamplingSpec(max_tokens=10_000, temperature=0.0)
    streams = [case.engine.generate(case.prompts[index % 16], spec) for index in range(case.slots)]
    for stream in streams:
        await anext(stream)
    assert case.engine.num_running > 0
    for stream in streams[1:]:
        await stream.aclose()
    reader = asyncio.create_task(anext(streams[0]))  # type: ignore[arg-type]  # an awaitable serves
    await asyncio.sleep(0)
    reader.cancel()
    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
        await reader
    await streams[0].aclose()
    got = await ask(case, case.prompts[0], max_tokens=3)
    assert len(got.token_ids) == 3
    async with asyncio.timeout(20):
        while case.engine.num_running:
            await asyncio.sleep(0.01)


async def the_context_is_never_exceeded(case: Case) -> None:
    context = case.engine.context_tokens
    prompt = (list(case.prompts[0]) * context)[: context - 5]
    got = await ask(case, prompt, max_tokens=100)
    assert (len(got.token_ids), got.finish_reason) == (5, "length")
    for bad in ([], prompt + prompt[:5]):
        with pytest.raises(DataError):
            await ask(case, bad)


async def what_is_outside_the_vocabulary_is_refused(case: Case) -> None:
    with pytest.raises(DataError, match="outside the vocabulary"):
        await ask(case, [1, 10_000_000])
    with pytest.raises(DataError, match="outside the vocabulary"):
        await ask(case, case.prompts[0], logit_bias={-1: 1.0})


async def every_field_is_honoured_or_declared_unsupported(case: Case) -> None:
    assert set(OTHER_VALUES) == {each.name for each in fields(SamplingSpec)} - {"max_tokens"}
    for name, value in OTHER_VALUES.items():
        asked = ask(case, case.prompts[0], max_tokens=3, **{name: value})
        if name in case.engine.unsupported:
            with pytest.raises(DataError, match=name):
                await asked
        elif name == "adapter":
            with pytest.raises(DataError, match="has no `someone else`"):
                await ask(case, case.prompts[0], max_tokens=3, adapter="someone else")
            assert (await asked).token_ids != (await ask(case, case.prompts[0], max_tokens=3)).token_ids
        else:
            assert (await asked).token_ids


async def log_probabilities_come_one_a_token(case: Case) -> None:
    got = await ask(case, case.prompts[0], num_logprobs=3)
    entries = [entry for delta in got.deltas for entry in delta.logprobs]
    assert [entry.token_id for entry in entries] == got.token_ids
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top) <= 3
        if entry.top:  # greedy: the chosen token is the likeliest
            assert entry.top[0] == (entry.token_id, pytest.approx(entry.logprob))
            assert [value for _, value in entry.top] == sorted((value for _, value in entry.top), reverse=True)
    assert not (await ask(case, case.prompts[0])).deltas[0].logprobs


LAWS: list[Callable[[Case], Awaitable[None]]] = [
    deltas_join_to_the_text_and_only_the_last_is_finished,
    max_tokens_counts_tokens_and_ends_with_length,
    a_stop_token_ends_the_answer_and_gives_no_text,
    a_stop_string_cuts_exactly_whatever_the_chunks,
    a_stream_period_gathers_tokens,
    the_first_token_comes_at_once_whatever_the_period,
    progress_grows_though_no_delta_is_due,
    greedy_answers_repeat,
    a_seed_repeats_its_answer_alone_and_among_others,
    sixteen_at_once_answer_as_each_would_alone,
    an_aborted_answer_frees_its_slot,
    the_context_is_never_exceeded,
    what_is_outside_the_vocabulary_is_refused,
    every_field_is_honoured_or_declared_unsupported,
    log_probabilities_come_one_a_token,
]


async def closing_ends_what_is_under_way_and_leaves_nothing(case: Case, threads_before: int) -> None:
    """The last law: the engine is of no use afterwards."""
    stream = case.engine.generate(case.prompts[0], SamplingSpec(max_tokens=10_000, temperature=0.0))
    await anext(stream)
    await case.engine.close()
    await case.engine.close()
    with pytest.raises(RunError):
        await asyncio.wait_for(_drain(stream), 20)
    with pytest.raises(RunError):
        case.engine.check_alive()
    with pytest.raises(RunError):
        await ask(case, case.prompts[0])
    assert not multiprocessing.active_children()
    assert threading.active_count() <= threads_before


async def _drain(stream: AsyncIterator[Delta]) -> None:
    async for _ in stream:
        pass
