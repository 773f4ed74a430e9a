"""Adapters: trained, saved and merged as peft does it; the base stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import tiny_config, write_base, write_data

from ochatctl.chat.families import load_family
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.data.packing import pack
from ochatctl.errors import ConfigError, UsageProblem
from ochatctl.memory import read_shape
from ochatctl.memory.training import adapter_params
from ochatctl.train.checkpoint import save_checkpoint
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.loss import batch_loss
from ochatctl.train.merge import merge
from ochatctl.train.model import load_model
from ochatctl.train.strategies.base import make_optimizer, trained_names

IDS = torch.arange(3, 40)[None]


def config_for(base: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model_dir": base, "data_path": base, "out_dir": base, "family": None, "strategy": "fsdp", "device": "cpu",
        "dtype": "float32", "num_ranks": 1, "num_epochs": 1, "batch_tokens": 256, "optim": OptimConfig(lr=1e-2),
        "lora": "r=4,alpha=6", "base_name": str(base),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def trained(config: TrainConfig, prefix: Path) -> Any:
    """Give the model after two steps."""
    model: Any = load_model(config)
    dataset = open_dataset(split_path(prefix, "train"))
    optimizer = make_optimizer(model, config.optim)
    rows = [dataset.row(index) for index in range(6)]
    for _ in range(2):
        batch_loss(
            model, pack(rows, step_loss_weight=float(dataset.step_weights[:6].sum())), torch.device("cpu")
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def save(model: Any, base: Path, folder: Path, *, as_adapter: bool) -> None:
    family, tokenizer = load_family(base)
    names = trained_names(model) if as_adapter else model.state_dict().keys()
    save_checkpoint(
        folder,
        model=model,
        state={name: value for name, value in model.state_dict().items() if name in names},
        base_dir=base,
        family=family,
        tokenizer=tokenizer,
        conditions={},
        as_adapter=as_adapter,
    )


def logits(model: Any) -> torch.Tensor:
    from transformers.models.llama import LlamaForCausalLM

    inner = model
    if getattr(model.config, "_attn_implementation", "") == "ochatctl_packed":
        model.config._attn_implementation = "eager"
    with torch.no_grad():
        out: torch.Tensor = (
            LlamaForCausalLM.forward(inner, IDS, use_cache=False)
            if isinstance(inner, LlamaForCausalLM)
            else inner(IDS, use_cache=False)
        ).logits
    return out


@pytest.mark.parametrize(("embeddings", "tied"), [(False, False), (True, False), (True, True)])
def test_an_adapter_is_read_by_peft_and_merged_as_peft_merges_it(embeddings: bool, tied: bool, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path / "base", config=tiny_config(tie_word_embeddings=tied))
    prefix = write_data(tmp_path / "chats", base)
    model = trained(config_for(base, train_embeddings=embeddings), prefix)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    before = logits(plain)
    expected = logits(model)
    assert (expected - before).abs().max() > 0.05, "nothing was learnt"
    frozen = {name.replace(".base_layer", ""): p for name, p in model.named_parameters() if not p.requires_grad}
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert num_trained == adapter_params(read_shape(base), 4, with_tables=embeddings)
    own = dict(plain.named_parameters())
    assert len(frozen) >= 18
    assert ("lm_head.weight" in frozen) != (embeddings or tied)
    assert all(torch.equal(value, own[name]) for name, value in frozen.items()), "a frozen weight has changed"

    save(model, base, tmp_path / "ep_1", as_adapter=True)
    assert not list((tmp_path / "ep_1").glob("model*.safetensors"))
    again = PeftModel.from_pretrained(plain, tmp_path / "ep_1").eval()
    torch.testing.assert_close(logits(again), expected, rtol=1e-5, atol=1e-5)
    save(model, base, tmp_path / "merged", as_adapter=False)
    whole, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    torch.testing.assert_close(logits(whole.eval()), expected, rtol=1e-4, atol=1e-4)

    done = merge(str(tmp_path / "ep_1"), tmp_path / "out")
    assert done.num_layers == 14
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    assert load_family(tmp_path / "out")[0].name == "openchat_v3.2"
    with pytest.raises(UsageProblem, match="exists"):
        merge(str(tmp_path / "ep_1"), tmp_path / "out")


@pytest.mark.parametrize("recompute", ["none", "full", "selective"])
def test_packed_rows_give_adapters_the_gradient_of_the_conversations_one_by_one(recompute: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path / "base")
    dataset = open_dataset(split_path(write_data(tmp_path / "chats", base), "train"))
    rows = [dataset.row(index) for index in range(5)]
    ours = load_model(config_for(base, recompute=recompute))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    theirs = get_peft_model(plain, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"))
    mine = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    other = {name.removeprefix("base_model.model."): p for name, p in theirs.named_parameters() if p.requires_grad}
    assert mine.keys() == other.keys()
    with torch.no_grad():
        for name, parameter in mine.items():
            other[name].copy_(torch.nn.init.normal_(parameter, std=0.1))
    weight = float(dataset.step_weights[:5].sum())
    loss = batch_loss(ours, pack(rows, step_loss_weight=weight), torch.device("cpu"))
    loss.backward()
    total = torch.zeros(())
    for row in rows:
        out = theirs(torch.tensor(row.input_ids).long()[None], use_cache=False).logits[0]
        each = torch.nn.functional.cross_entropy(out, torch.tensor(row.labels).long(), reduction="none")
        total = total + (each * torch.tensor(row.loss_weights)).sum() / weight
    total.backward()
    torch.testing.assert_close(loss, total, rtol=1e-6, atol=1e-6)
    for name, parameter in mine.items():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
        torch.testing.assert_close(parameter.grad, other[name].grad, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in ours.parameters() if not p.requires_grad)


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`q_prj` cannot be given adapters"):
        load_model(config_for(write_base(tmp_path / "base"), lora="r=4,alpha=6,targets=q_prj"))


def test_what_cannot_be_merged_is_refused_with_what_to_do(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    with pytest.raises(ConfigError, match="holds no adapters to merge"):
        merge(str(base), tmp_path / "out")
    save(load_model(config_for(base, base_name=str(tmp_path / "gone"))), base, tmp_path / "ep_1", as_adapter=True)
    with pytest.raises(ConfigError, match="gone`, which is neither a folder here nor a hub id") as caught:
        merge(str(tmp_path / "ep_1"), tmp_path / "out")
    assert "--base DIR" in str(caught.value.hint)
    assert merge(str(tmp_path / "ep_1"), tmp_path / "out", base=str(base)).base == base


def test_what_is_trained_is_in_float32_beside_a_base_in_half(tmp_path: Path) -> None:
    model = load_model(config_for(write_base(tmp_path / "base"), dtype="bfloat16", train_embeddings=True))
    dtypes = {flag: {p.dtype for p in model.parameters() if p.requires_grad == flag} for flag in (True, False)}
    assert dtypes == {True: {torch.float32}, False: {torch.bfloat16}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, in its compiler
def test_compiled_layers_give_the_same_loss_and_gradient(tmp_path: Path) -> None:
    import shutil

    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    base = write_base(tmp_path / "base", config=tiny_config(num_hidden_layers=1))
    dataset = open_dataset(split_path(write_data(tmp_path / "chats", base), "train"))
    found = []
    for compiled in (False, True):
        model = load_model(config_for(base, compile=compiled, lora=None))
        assert any(module._compiled_call_impl is not None for module in model.modules()) == compiled
        loss = batch_loss(
            model, pack([dataset.row(index) for index in range(5)], step_loss_weight=9.0), torch.device("cpu")
        )
        loss.backward()
        found.append((loss, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(*(loss for loss, _ in found), rtol=1e-5, atol=1e-5)
    for plain, compiled_gradient in zip(*(gradients for _, gradients in found), strict=True):
        torch.testing.assert_close(plain, compiled_gradient, rtol=1e-4, atol=1e-5)
