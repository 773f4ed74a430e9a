"""The embedded engine on tiny random models: the contract, parity with `generate`, batching, and death."""

import asyncio
import functools
import itertools
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import contract
from engine.contract import LAWS, Case, ask
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.engine.base import SamplingSpec
from ochatctl.engine.hf import HfEngine
from ochatctl.errors import ConfigError, RunError

TOKENIZER = ByteTokenizer(["<|end_of_turn|>"])
SIZES: dict[str, Any] = {
    "vocab_size": TOKENIZER.num_tokens,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Wide enough that greedy answers do not hang on a rounding.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
}
PROMPTS = [list(f"{index}: {'words ' * (index * 3)}?".encode()) for index in range(16)]


def save(config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(LlamaConfig(**SIZES), tmp_path_factory.mktemp("llama"))


@dataclass
class Running:
    """An engine on a loop that outlives one test."""

    case: Case
    runner: asyncio.Runner


@pytest.fixture(scope="module")
def running(llama_dir: Path) -> Iterator[Running]:
    engine = HfEngine(llama_dir, TOKENIZER, device="cpu")
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        yield Running(Case(engine=engine, tokenizer=TOKENIZER, prompts=PROMPTS, slots=16), runner)
        runner.run(engine.close())


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_contract_holds(law: Callable[[Case], Awaitable[None]], running: Running) -> None:
    async def run() -> None:
        await law(running.case)

    running.runner.run(run())


def with_engine(folder: Path, body: Callable[[HfEngine, Case], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        engine = HfEngine(folder, TOKENIZER, device="cpu", **settings)
        await engine.start()
        try:
            await body(engine, Case(engine=engine, tokenizer=TOKENIZER, prompts=PROMPTS, slots=16))
        finally:
            await engine.close()

    asyncio.run(run())


def test_closing_leaves_nothing(llama_dir: Path) -> None:
    async def body(engine: HfEngine, case: Case) -> None:
        before = [thread for thread in threading.enumerate() if thread.name == "ochatctl-hf"]
        # The worker goes, and `asyncio.to_thread` keeps a thread of its own.
        await contract.closing_ends_what_is_under_way_and_leaves_nothing(case, threading.active_count())
        assert sum(thread.is_alive() for thread in before) == len(before) - 1

    with_engine(llama_dir, body)


CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    # Long prompts reach far beyond the window.
    "sliding window": MistralConfig(**SIZES, sliding_window=16),
    "tied, biased": Qwen2Config(**SIZES, tie_word_embeddings=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_answers_of_a_ragged_batch_equal_generate(name: str, tmp_path: Path) -> None:
    folder = save(CONFIGS[name], tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # Around the size of a chunk, and far from it.
    prompts = [(list(b"The quick brown fox. ") * 20)[:length] for length in (1, 7, 63, 64, 65, 130, 300)]
    counts = [40, 8, 40, 3, 25, 40, 12]

    async def body(engine: HfEngine, case: Case) -> None:
        jobs = [ask(case, prompt, max_tokens=count) for prompt, count in zip(prompts, counts, strict=True)]
        for prompt, count, got in zip(prompts, counts, await asyncio.gather(*jobs), strict=True):
            inputs = torch.tensor([prompt])
            whole = model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
            assert got.token_ids == whole[0, len(prompt) :].tolist()
            assert len(set(got.token_ids)) > 1

    with_engine(folder, body)


def test_requests_beyond_the_slots_wait_and_are_answered(llama_dir: Path) -> None:
    async def body(engine: HfEngine, case: Case) -> None:
        most = 0

        async def one(index: int) -> list[int]:
            nonlocal most
            out: list[int] = []
            async for delta in engine.generate(PROMPTS[index], SamplingSpec(max_tokens=20, temperature=0.0)):
                most = max(most, engine.num_running)
                out += delta.token_ids
            return out

        answers = await asyncio.gather(*(one(index) for index in range(9)))
        assert [len(answer) for answer in answers] == [20] * 9
        assert most == 3
        assert (await ask(case, PROMPTS[4], max_tokens=20)).token_ids == answers[4]

    with_engine(llama_dir, body, max_running=3)


def counted(monkeypatch: pytest.MonkeyPatch, may_go_on: threading.Event | None = None) -> list[int]:
    """Count, from now on, the tokens of a row in each of the model's steps, which the event can hold up."""
    widths: list[int] = []
    forward = LlamaForCausalLM.forward

    @functools.wraps(forward)  # the engine asks for the parameters by their names
    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        widths.append(kwargs["input_ids"].shape[1])
        if may_go_on is not None:
            assert may_go_on.wait(60)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counting)
    return widths


def test_a_long_prompt_lets_the_others_go_on(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = counted(monkeypatch)

    async def body(engine: HfEngine, case: Case) -> None:
        short = engine.generate(PROMPTS[0], SamplingSpec(max_tokens=400, temperature=0.0))
        await anext(short)
        widths.clear()
        await ask(case, (PROMPTS[3] * 40)[:480], max_tokens=1)
        chunks = [number for number, width in enumerate(widths) if width > 1]
        assert [widths[number] for number in chunks] == [64] * 7 + [32]
        # Between two, everybody else takes a step.
        assert all(1 in widths[chunk:following] for chunk, following in itertools.pairwise(chunks))
        await short.aclose()

    with_engine(llama_dir, body)


def test_a_prompt_is_read_in_chunks_of_64_and_given_up_between_two(
    llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    may_go_on.set()
    widths = counted(monkeypatch, may_go_on)

    async def body(engine: HfEngine, case: Case) -> None:
        prompt = (PROMPTS[3] * 40)[:480]
        await ask(case, prompt, max_tokens=2)
        assert widths == [64] * 7 + [32, 1]
        widths.clear()
        may_go_on.clear()
        task = asyncio.create_task(ask(case, prompt, max_tokens=400))
        while not widths:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        may_go_on.set()
        while engine.num_running:
            await asyncio.sleep(0)
        assert widths == [64], "the step under way, and none after it"

    with_engine(llama_dir, body)


@pytest.mark.slow
def test_eight_streams_at_once_give_twice_the_tokens_of_one_after_another(tmp_path: Path) -> None:
    sizes = SIZES | {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}
    folder = save(LlamaConfig(**sizes), tmp_path)

    # Short, for what is batched is the drawing: each prompt is read on its own either way.
    prompts = [list(f"{index}: words?".encode()) for index in range(8)]

    async def body(engine: HfEngine, case: Case) -> None:
        async def seconds(at_once: bool) -> float:
            # Of the processor, not of the clock: others may be at work here.
            began = time.process_time()
            asked = [ask(case, prompt, max_tokens=32) for prompt in prompts]
            if at_once:
                answers = await asyncio.gather(*asked)
            else:
                answers = [await each for each in asked]
            assert [len(got.token_ids) for got in answers] == [32] * 8
            return time.process_time() - began

        await seconds(True)
        ratios = [await seconds(False) / await seconds(True) for _ in range(3)]
        assert statistics.median(ratios) >= 2, ratios

    with_engine(folder, body)


def test_a_failing_step_ends_every_stream(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(engine: HfEngine, case: Case) -> None:
        streams = [engine.generate(prompt, SamplingSpec(max_tokens=300, temperature=0.0)) for prompt in PROMPTS[:4]]
        for stream in streams:
            await anext(stream)

        def broken(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("the roof fell in")

        monkeypatch.setattr(LlamaForCausalLM, "forward", broken)
        for stream in streams:
            with pytest.raises(RunError, match="the roof fell in"):
                async for _ in stream:
                    pass
        with pytest.raises(RunError, match="the roof fell in"):
            engine.check_alive()
        with pytest.raises(RunError, match="the roof fell in"):
            await ask(case, PROMPTS[0])

    with_engine(llama_dir, body)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_answer_too(llama_dir: Path, dtype: str) -> None:
    async def body(engine: HfEngine, case: Case) -> None:
        answers = await asyncio.gather(*(ask(case, prompt, temperature=0.8, seed=1) for prompt in PROMPTS[:4]))
        assert [len(got.token_ids) for got in answers] == [24] * 4

    with_engine(llama_dir, body, dtype=dtype)


def test_what_cannot_be_loaded_is_said(llama_dir: Path, tmp_path: Path) -> None:
    async def body(engine: HfEngine, case: Case) -> None:
        raise AssertionError("it started")

    with pytest.raises(ConfigError, match="cannot be loaded"):
        with_engine(tmp_path, body)
    with pytest.raises(ConfigError, match="the model has 512"):
        with_engine(llama_dir, body, context_tokens=513)
    with pytest.raises(ConfigError, match="`--dtype int3`"):
        with_engine(llama_dir, body, dtype="int3")


def test_a_smaller_context_is_kept(llama_dir: Path) -> None:
    async def body(engine: HfEngine, case: Case) -> None:
        got = await ask(case, PROMPTS[0], max_tokens=400)
        assert len(got.token_ids) + len(PROMPTS[0]) == 40
        assert got.finish_reason == "length"

    with_engine(llama_dir, body, context_tokens=40)
