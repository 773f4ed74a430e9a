"""vLLM on SmolLM2: the contract, agreement with the embedded engine, and a killed process; one start for all."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine.contract import LAWS, Case, ask

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import load_family
from ochatctl.engine.base import SamplingSpec
from ochatctl.engine.vllm import VllmEngine
from ochatctl.errors import ConfigError, DataError, RunError
from ochatctl.extras import has

pytestmark = [
    pytest.mark.slow,
    # Looked for, not imported: that takes ten seconds, which a run that leaves these tests out would pay too.
    pytest.mark.skipif(not has("vllm"), reason="vLLM is not installed"),
    pytest.mark.skipif("OCHATCTL_TEST_MODEL" not in os.environ, reason="OCHATCTL_TEST_MODEL names no model folder"),
    # vLLM's own imports and processes are not ours to keep free of warnings.
    pytest.mark.filterwarnings("default"),
]


@dataclass
class Running:
    """An engine on a loop that outlives one test."""

    engine: VllmEngine
    case: Case
    runner: asyncio.Runner


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    model_dir = Path(os.environ["OCHATCTL_TEST_MODEL"])
    family, tokenizer = load_family(model_dir, "chatml")
    prompts = []
    for index in range(16):
        said = f"Tell me {index} things about {'very ' * index}old ships."
        conversation = Conversation(id=str(index), messages=(Message(role="user", content=said),))
        prompts.append(family.template.encode(conversation, tokenizer, inference=True).token_ids)
    # In float32 an answer does not hang on who shares its batch; thirty-two bits of SmolLM2 are half a gigabyte.
    engine = VllmEngine(
        model_dir, tokenizer, context_tokens=512, dtype="float32", extra_args={"max_num_seqs": 16, "seed": 0}
    )
    case = Case(engine=engine, tokenizer=tokenizer, prompts=prompts, slots=16)
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        try:
            yield Running(engine, case, runner)
        finally:
            runner.run(engine.close())


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_contract_holds(law: Callable[[Case], Awaitable[None]], running: Running) -> None:
    async def run() -> None:
        await law(running.case)

    running.runner.run(run())


def test_an_answer_meets_its_schema_and_a_bad_schema_is_refused(running: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"ship": {"enum": ["sloop", "brig"]}, "masts": {"type": "integer", "minimum": 1, "maximum": 4}},
        "required": ["ship", "masts"],
        "additionalProperties": False,
    }

    async def run() -> None:
        got = await ask(running.case, running.case.prompts[0], max_tokens=60, json_schema=json.dumps(schema))
        answer = json.loads(got.text)
        assert set(answer) == {"ship", "masts"}
        assert answer["ship"] in ("sloop", "brig")
        for bad in ({"type": "poem"}, {"type": "string", "pattern": "(x{1,30000}y{1,30000}){1,4000}"}):
            with pytest.raises(DataError, match="schema"):
                await ask(running.case, running.case.prompts[0], json_schema=json.dumps(bad))
        assert (await ask(running.case, running.case.prompts[0], max_tokens=3)).token_ids

    running.runner.run(run())


def test_an_argument_that_vllm_does_not_have_is_refused(running: Running) -> None:
    engine = VllmEngine(Path(os.environ["OCHATCTL_TEST_MODEL"]), running.case.tokenizer, extra_args={"max_num_sqs": 1})
    with pytest.raises(ConfigError, match="max_num_sqs"):
        running.runner.run(engine.start())


def test_a_killed_process_ends_every_stream_and_nothing_is_left(running: Running) -> None:
    """The last test of this module, for the engine is dead after it."""

    async def run() -> None:
        engine, prompts = running.engine, running.case.prompts
        streams = [engine.generate(prompt, SamplingSpec(max_tokens=400, temperature=0.0)) for prompt in prompts[:3]]
        for stream in streams:
            await anext(stream)
        cores = [child for child in multiprocessing.active_children() if child.name.startswith("EngineCore")]
        assert len(cores) == 1
        assert cores[0].pid is not None
        os.kill(cores[0].pid, signal.SIGKILL)
        for stream in streams:
            with pytest.raises(RunError):
                await asyncio.wait_for(_drain(stream), 60)
        with pytest.raises(RunError, match="has died"):
            engine.check_alive()
        with pytest.raises(RunError):
            await ask(running.case, prompts[0])
        await engine.close()
        assert not [child for child in multiprocessing.active_children() if child.name.startswith("EngineCore")]
        with contextlib.suppress(ProcessLookupError):
            os.kill(cores[0].pid, 0)
            raise AssertionError("the engine's process is still there")

    running.runner.run(run())


async def _drain(stream: object) -> None:
    async for _ in stream:  # type: ignore[attr-defined]  # an engine's stream
        pass
