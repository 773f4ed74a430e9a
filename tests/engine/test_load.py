"""What a model may be called, and which folder of a training run answers."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers_for_tests import byte_bpe, write_fast

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import get_family
from ochatctl.engine.choose import choose_engine
from ochatctl.engine.client import Ask
from ochatctl.engine.load import LoadConfig, find_model, load_model, model_names, open_local_client
from ochatctl.errors import ConfigError
from ochatctl.hub import chat_model

FAMILY = get_family("openchat_v3.2")


def test_a_model_answers_to_its_own_name_and_to_all_of_its_family(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    family = ("openchat_v3.2", "openchat_v3.2_super")
    assert model_names(str(tmp_path / "mine") + "/", FAMILY) == ("mine", *family)
    assert model_names("openchat/openchat_v3.2_super@main", FAMILY) == (
        "openchat/openchat_v3.2_super",
        "openchat_v3.2_super",
        "openchat_v3.2",
    )
    assert model_names(None, FAMILY) == ("echo", *family)


def test_of_a_training_run_the_last_whole_epoch_answers(tmp_path: Path) -> None:
    for name in ("ep_2", "ep_10", "ep_9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("ep_11", ".ep_12.x.part", "ep_last"):
        (tmp_path / name).mkdir()
    assert chat_model(str(tmp_path)).name == "ep_10"
    assert chat_model(str(tmp_path / "ep_2")).name == "ep_2"
    (tmp_path / "config.json").write_text("{}")
    assert chat_model(str(tmp_path)) == tmp_path


FIND = """
import sys
from ochatctl.engine.load import LoadConfig, find_model
found = find_model(LoadConfig(model=sys.argv[1], engine="hf", family="openchat_v3.2"), print)
print(found.choice.kind, found.family.name, *({"torch", "transformers", "vllm"} & set(sys.modules)))
"""


def test_a_model_is_found_without_importing_an_engine(tmp_path: Path) -> None:
    folder = write_fast(tmp_path, byte_bpe())
    done = subprocess.run([sys.executable, "-c", FIND, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["engine: hf: as asked", "hf openchat_v3.2"]


def test_what_no_engine_takes_is_said_before_a_model_is_looked_for() -> None:
    for config, words in (
        (LoadConfig(model="a/b/c", engine="hf", dtype="half"), "`--dtype half` is not one of `auto`"),
        (LoadConfig(model="a/b/c", engine="hf", engine_args={"seed": 1}), "`--engine-arg` is vLLM's"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_model(config, lambda text: None)


def test_what_vllm_does_not_take_is_said_without_importing_it(tmp_path: Path) -> None:
    if choose_engine().kind != "vllm":
        pytest.skip("vLLM does not run here")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 9}')
    for changes, words in (
        ({"engine_args": {"max_num_seq": 1}}, "no such engine argument; did you mean `max_num_seqs`"),
        ({"dtype": "nonsense"}, "`auto`, .*`half`"),
        ({"tensor_parallel": 4}, "9 attention heads"),
    ):
        config = LoadConfig(**({"model": str(tmp_path), "engine": "vllm"} | changes))
        with pytest.raises(ConfigError, match=words) as caught:
            find_model(config, lambda text: None)
    assert caught.value.hint.startswith("`--tp 3`")


def test_the_echo_engine_needs_no_folder_and_honours_the_context() -> None:
    said: list[str] = []
    model = load_model(LoadConfig(engine="echo", max_model_len=64), said.append)
    assert model.engine.context_tokens == 64
    assert model.family.name == "openchat_v3.2"
    assert said[0].startswith("engine: echo")
    with pytest.raises(ConfigError, match="gpu-memory-utilization"):
        load_model(LoadConfig(engine="echo", gpu_memory_utilization=0.5), said.append)


def test_a_local_client_is_ready_to_be_asked_and_closes_its_engine() -> None:
    async def ask() -> str:
        client = await open_local_client(LoadConfig(engine="echo", family="chatml"), lambda text: None)
        try:
            conversation = Conversation(messages=(Message(role="user", content="Hello"),))
            return (await client.complete(conversation, Ask(temperature=0.0))).text
        finally:
            await client.close()

    assert asyncio.run(ask()) == "Hello"
