"""vLLM on SmolLM2: the contract, and answers that meet a schema. What becomes of it when it is killed: `serve/`."""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from engine.contract import LAWS, Case, ask
from vllm_for_tests import VLLM_MARKS, ServedVllm

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.engine.vllm import VllmEngine
from ochatctl.errors import ConfigError, DataError

pytestmark = VLLM_MARKS


@pytest.fixture(scope="module")
def case(served_vllm: ServedVllm) -> Case:
    prompts = []
    for index in range(16):
        said = f"Tell me {index} things about {'very ' * index}old ships."
        conversation = Conversation(id=str(index), messages=(Message(role="user", content=said),))
        encoded = served_vllm.family.template.encode(conversation, served_vllm.tokenizer, inference=True)
        prompts.append(encoded.token_ids)
    return Case(engine=served_vllm.engine, tokenizer=served_vllm.tokenizer, prompts=prompts, slots=16)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_contract_holds(law: Callable[[Case], Awaitable[None]], case: Case, served_vllm: ServedVllm) -> None:
    async def run() -> None:
        await law(case)

    served_vllm.run(run())


def test_an_answer_meets_its_schema_though_blanks_are_likelier_and_a_bad_one_is_refused(
    case: Case, served_vllm: ServedVllm
) -> None:
    schema = {
        "type": "object",
        "properties": {"ship": {"enum": ["sloop", "brig"]}, "masts": {"type": "integer", "minimum": 1, "maximum": 4}},
        "required": ["ship", "masts"],
        "additionalProperties": False,
    }

    # One that xgrammar does not know: vLLM has another library hold the answer to it.
    fives = {
        "type": "object",
        "properties": {"age": {"type": "integer", "multipleOf": 5, "maximum": 90, "minimum": 10}},
    }
    fives |= {"required": ["age"], "additionalProperties": False}
    blanks = {token_id: 100.0 for text in (" ", "\n", "\n\n", "\t") for token_id in case.tokenizer.encode_text(text)}

    async def run() -> None:
        for bias in ({}, blanks):
            asked: Any = {"max_tokens": 40, "logit_bias": bias}
            answer = json.loads((await ask(case, case.prompts[0], **asked, json_schema=json.dumps(schema))).text)
            assert set(answer) == {"ship", "masts"}
            assert answer["ship"] in ("sloop", "brig")
            answer = json.loads((await ask(case, case.prompts[0], **asked, json_schema=json.dumps(fives))).text)
            assert set(answer) == {"age"}
            assert answer["age"] % 5 == 0
        for bad in ({"type": "poem"}, {"type": "string", "pattern": "(x{1,30000}y{1,30000}){1,4000}"}):
            with pytest.raises(DataError, match="schema"):
                await ask(case, case.prompts[0], json_schema=json.dumps(bad))
        assert (await ask(case, case.prompts[0], max_tokens=3)).token_ids

    served_vllm.run(run())


def test_an_argument_that_vllm_does_not_have_is_refused(case: Case, served_vllm: ServedVllm) -> None:
    engine = VllmEngine(Path(os.environ["OCHATCTL_TEST_MODEL"]), case.tokenizer, extra_args={"max_num_sqs": 1})
    with pytest.raises(ConfigError, match="max_num_sqs"):
        served_vllm.run(engine.start())
