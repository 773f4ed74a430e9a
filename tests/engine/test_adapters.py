"""LoRA adapters, chosen request by request, on real ones made by peft."""

import asyncio
from pathlib import Path

import pytest
from adapters_for_tests import save_adapters
from engine.contract import Case, ask

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.families import get_family
from ochatctl.engine.adapters import Adapter, find_adapters, read_adapter_flags
from ochatctl.engine.hf import HfEngine
from ochatctl.errors import ConfigError, DataError, EnvironmentProblem, OchatError, UsageProblem

FAMILY = get_family("openchat_v3.2")
TOKENIZER = ByteTokenizer(FAMILY.template.control_strings)
PROMPTS = [list(text.encode()) for text in ("Hello", "The quick brown fox jumps", "x" * 100, "Sing, goddess")]


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENIZER.num_tokens, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_each_row_of_a_batch_draws_by_its_own_adapters(base_dir: Path, tmp_path: Path) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    # A name of ours may hold what peft's own names may not.
    folders = {
        "v1.5": save_adapters(base_dir, tmp_path / "a", seed=1),
        "b": save_adapters(base_dir, tmp_path / "b", seed=2),
    }
    adapters = find_adapters({name: str(folder) for name, folder in folders.items()}, FAMILY)
    assert [(adapter.name, adapter.rank) for adapter in adapters] == [("v1.5", 4), ("b", 4)]

    def alone(name: str, prompt: list[int]) -> list[int]:
        model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
        if name:
            model = peft.PeftModel.from_pretrained(model, folders[name]).merge_and_unload()
        ids = torch.tensor([prompt])
        out = model.eval().generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=0
        )
        return out[0, len(prompt) :].tolist()

    async def run() -> None:
        engine = HfEngine(base_dir, TOKENIZER, device="cpu", adapters=adapters)
        await engine.start()
        try:
            case = Case(engine=engine, tokenizer=TOKENIZER, prompts=PROMPTS, slots=16)
            names = ["", "v1.5", "b", "v1.5"]
            for prompt in (PROMPTS[0], PROMPTS[2]):
                asked = [ask(case, prompt, max_tokens=16, adapter=name) for name in names]
                drawn = [got.token_ids for got in await asyncio.gather(*asked)]
                assert drawn == [alone(name, prompt) for name in names]
                assert len({tuple(ids) for ids in drawn}) == 3
            with pytest.raises(DataError, match="has no `c`"):
                await ask(case, PROMPTS[0], adapter="c")
        finally:
            await engine.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"hidden_size": 64}, "size mismatch"), ({"num_hidden_layers": 3}, "for 9 layers, and 6 can")],
)
def test_adapters_for_another_base_are_refused_when_they_are_loaded(
    base_dir: Path, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(base_dir, **change)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "larger")
    folder = save_adapters(tmp_path / "larger", tmp_path / "adapters", seed=1)

    async def run() -> None:
        engine = HfEngine(base_dir, TOKENIZER, device="cpu", adapters=[Adapter(name="a", folder=folder, rank=4)])
        try:
            await engine.start()
        finally:
            await engine.close()

    with pytest.raises(ConfigError, match=message):
        asyncio.run(run())


def test_what_is_no_adapter_is_refused_before_anything_is_loaded(base_dir: Path, tmp_path: Path) -> None:
    other = save_adapters(base_dir, tmp_path / "other", seed=1, model_type="openchat_v3.2_mistral")
    tables = save_adapters(base_dir, tmp_path / "tables", seed=1, modules_to_save=["lm_head"])
    cases: list[tuple[Path, type[OchatError], str]] = [
        (base_dir, ConfigError, "has no `adapter_config.json`"),
        (other, ConfigError, "trained as `openchat_v3.2_mistral`"),
        (tables, EnvironmentProblem, "it has `modules_to_save`"),
    ]
    for folder, kind, message in cases:
        with pytest.raises(kind, match=message):
            find_adapters({"a": str(folder)}, FAMILY)


@pytest.mark.parametrize("typed", [["a"], ["=b"], ["a="], ["a=b", "a=c"]])
def test_a_flag_that_is_no_pair_is_refused(typed: list[str]) -> None:
    with pytest.raises(UsageProblem, match="--adapter"):
        read_adapter_flags(typed)
    assert read_adapter_flags(["a=b=c", "d= e"]) == {"a": "b=c", "d": "e"}
