"""The chunked loss against the plain one, which has all logits at once."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.train.linear_loss import CE, CORRECT, TOKENS, WEIGHT, WEIGHTED_CE, linear_cross_entropy


def plain(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """As the models of transformers and the paper have it: logits, their scaling, float32, then the loss."""
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return (F.cross_entropy(logits, labels, reduction="none", ignore_index=-100) * weights).sum()


def random_case(
    seed: int, *, tokens: int = 13, size: int = 6, vocab: int = 17, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weight, labels, loss weights and bias; a fifth of the labels are missing, a third of w are 0."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float32).to(dtype).requires_grad_()

    labels = torch.randint(vocab, (tokens,), generator=draw)
    labels[torch.rand(tokens, generator=draw) < 0.2] = -100
    weights = torch.tensor([0.0, 0.1, 1.0])[torch.randint(3, (tokens,), generator=draw)]
    return normal(tokens, size), normal(vocab, size), labels, weights, normal(vocab)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.integers(0, 20),
    size=st.integers(1, 8),
    vocab=st.integers(1, 30),
    chunk_rows=st.integers(1, 25),
    has_bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.25]),
    softcap=st.sampled_from([None, 2.0]),
    upstream=st.sampled_from([1.0, -3.0, 1e-4]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_value_and_gradients_are_those_of_the_plain_loss(
    seed: int, tokens: int, size: int, vocab: int, chunk_rows: int, has_bias: bool, scale: float,
    softcap: float | None, upstream: float, dtype: torch.dtype,
) -> None:  # fmt: skip
    hidden, weight, labels, weights, bias = random_case(seed, tokens=tokens, size=size, vocab=vocab, dtype=dtype)
    inputs = (hidden, weight, bias) if has_bias else (hidden, weight)
    got = linear_cross_entropy(
        hidden, weight, labels, weights,
        bias_V=bias if has_bias else None, scale=scale, softcap=softcap, chunk_rows=chunk_rows,
    ).weighted_sum  # fmt: skip
    wanted = plain(hidden, weight, labels, weights, bias if has_bias else None, scale, softcap)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(got, wanted, check_dtype=False, **tolerance)
    pairs = zip(
        torch.autograd.grad(got * upstream, inputs), torch.autograd.grad(wanted * upstream, inputs), strict=True
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, **{**tolerance, "atol": tolerance["atol"] * abs(upstream)})


def test_the_cases_are_worth_looking_at() -> None:
    _, _, labels, weights, _ = random_case(0, tokens=200)
    assert (labels == -100).any()
    assert (weights == 0).any()
    assert ((labels >= 0) & (weights > 0)).sum() > 50


def test_the_tally_counts_by_class() -> None:
    hidden, weight, labels, weights, _ = random_case(1, tokens=60)
    classes = torch.arange(60) % 3
    with torch.no_grad():
        weight[5] = hidden[(labels == 5).nonzero()[0, 0]] * 5  # one that is surely right
        tally = linear_cross_entropy(
            hidden, weight, labels, weights, classes_S=classes, num_classes=3, chunk_rows=7
        ).tally_C5
        logits = hidden @ weight.t()
        each = F.cross_entropy(logits, labels, reduction="none", ignore_index=-100)
    for number in range(3):
        of_class = (classes == number) & (labels >= 0) & (weights > 0)
        assert of_class.sum() > 5
        right = (logits.argmax(dim=1) == labels)[of_class]
        line = tally[number]
        assert line[WEIGHTED_CE] == pytest.approx(float((each * weights)[of_class].sum()), rel=1e-6)
        assert line[CE] == pytest.approx(float(each[of_class].sum()), rel=1e-6)
        assert line[CORRECT] == right.sum()
        assert line[TOKENS] == of_class.sum()
        assert line[WEIGHT] == pytest.approx(float(weights[of_class].sum()), rel=1e-6)
    assert tally[:, CORRECT].sum() > 0


def test_a_tie_is_no_right_guess() -> None:
    """An output layer of zeros knows nothing, and is not right of everything."""
    hidden, weight, labels, weights, _ = random_case(7, tokens=60)
    with torch.no_grad():
        of_zeros = linear_cross_entropy(hidden, torch.zeros_like(weight), labels, weights).tally_C5[0]
        first = int(((labels >= 0) & (weights > 0)).nonzero()[0, 0])
        weight[labels[first]] = hidden[first] * 5
        alone = linear_cross_entropy(hidden[[first]], weight, labels[[first]], weights[[first]]).tally_C5[0]
        weight[(labels[first] + 1) % len(weight)] = hidden[first] * 5
        tied = linear_cross_entropy(hidden[[first]], weight, labels[[first]], weights[[first]]).tally_C5[0]
    assert of_zeros[TOKENS] > 20
    assert of_zeros[CE] == pytest.approx(float(of_zeros[TOKENS]) * math.log(len(weight)))
    assert [float(tally[CORRECT]) for tally in (of_zeros, alone, tied)] == [0, 1, 0]


def test_in_bfloat16_it_is_no_further_from_the_truth_than_the_plain_loss() -> None:
    hidden, weight, labels, weights, _ = random_case(2, tokens=256, size=64, vocab=512, dtype=torch.bfloat16)
    truth = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    exact = plain(*truth, labels, weights)
    wanted = torch.autograd.grad(exact / 100, truth)
    ours = linear_cross_entropy(hidden, weight, labels, weights, chunk_rows=32).weighted_sum
    theirs = plain(hidden, weight, labels, weights)
    assert ours.dtype == torch.float32

    def error(gradient: torch.Tensor, reference: torch.Tensor) -> float:
        return float((gradient.double() - reference).norm() / reference.norm())

    right, own, other = (loss.detach().item() for loss in (exact, ours, theirs))
    assert abs(own - right) <= 1.05 * abs(other - right) + 1e-5 * right
    got, plainly = (torch.autograd.grad(loss / 100, (hidden, weight)) for loss in (ours, theirs))
    for mine, their, reference in zip(got, plainly, wanted, strict=True):
        assert mine.dtype == torch.bfloat16
        assert 0 < error(mine, reference) <= 1.05 * error(their, reference)


def test_the_gradient_becomes_the_parameters_own_without_a_copy() -> None:
    hidden, weight, labels, weights, _ = random_case(3, dtype=torch.bfloat16)
    linear_cross_entropy(hidden, weight, labels, weights).weighted_sum.backward()
    assert weight.grad is not None
    # In the memory that it was added up in, in float32.
    assert weight.grad.untyped_storage().nbytes() == 4 * weight.numel()


def test_a_gradient_is_taken_once() -> None:
    hidden, weight, labels, weights, _ = random_case(4)
    loss = linear_cross_entropy(hidden, weight, labels, weights).weighted_sum
    torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    with pytest.raises(RuntimeError, match="can be taken once"):
        torch.autograd.grad(loss, (hidden, weight))


def test_a_frozen_output_layer_costs_no_gradient() -> None:
    hidden, weight, labels, weights, _ = random_case(5)
    loss = linear_cross_entropy(hidden, weight.detach(), labels, weights).weighted_sum
    (got,) = torch.autograd.grad(loss, hidden)
    (wanted,) = torch.autograd.grad(plain(hidden, weight, labels, weights), hidden)
    torch.testing.assert_close(got, wanted)


_MEASURE = """
import re, sys, torch
from ochatctl.train.linear_loss import linear_cross_entropy, plain_cross_entropy
def peak():  # in kB; not `ru_maxrss`, which begins at that of whoever started us
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
torch.set_num_threads(1)
T, D, V = 2048, 256, 32768
hidden = torch.randn(T, D, requires_grad=True)
weight = torch.zeros(V, D, requires_grad=True)
labels, weights = torch.randint(V, (T,)), torch.ones(T)
small = slice(0, 64)  # what torch itself needs once
plain_cross_entropy(hidden[small] @ weight[:64].t(), labels[small] % 64, weights[small]).weighted_sum.backward()
weight.grad = hidden.grad = None
before = peak()
if sys.argv[1] == "ours":
    loss = linear_cross_entropy(hidden, weight, labels, weights).weighted_sum
else:
    loss = plain_cross_entropy(hidden @ weight.t(), labels, weights).weighted_sum
loss.backward()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_head_and_loss_take_an_eighth_of_the_plain_ones_memory() -> None:
    """At a quarter of V = 128k, an eighth of T = 16k and a sixteenth of D = 4096.

    Ours is 4 VD + 4 TD + a chunk, the plain one 12 TV + 4 VD + 4 TD: in the large, 1/11 of it in float32.
    """
    used = {}
    for way in ("ours", "plain"):
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, way], capture_output=True, text=True, check=True, timeout=120
        )
        used[way] = int(done.stdout)
    assert used["plain"] * 1024 > 2 * 4 * 2048 * 32768, "logits and their gradient at least: else nothing is proved"
    assert used["ours"] <= used["plain"] / 8, used


@pytest.mark.gpu
@pytest.mark.parametrize("size", [2048, 4096])
def test_on_a_gpu_head_and_loss_take_an_eighth_of_the_plain_ones_memory(size: int) -> None:
    def peak(take: Any) -> int:
        hidden = torch.randn(16384, size, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        weight = (torch.randn(128256, size, device="cuda") / size).bfloat16().requires_grad_()
        labels = torch.randint(128256, (16384,), device="cuda")
        weights = torch.ones(16384, device="cuda")
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        take(hidden, weight, labels, weights).backward()
        return torch.cuda.max_memory_allocated() - before

    rows = torch.arange(16384, device="cuda")
    ours = peak(lambda *given: linear_cross_entropy(*given, rows_S=rows).weighted_sum)
    assert ours <= peak(plain) / 8


@pytest.mark.gpu
def test_on_a_gpu_in_bfloat16_it_is_no_further_from_the_truth() -> None:
    hidden, weight, labels, weights, _ = (
        tensor.detach().cuda().requires_grad_(tensor.requires_grad)
        for tensor in random_case(6, tokens=512, size=128, vocab=1024, dtype=torch.bfloat16)
    )
    truth = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    wanted = torch.autograd.grad(plain(*truth, labels, weights), truth)
    got = torch.autograd.grad(
        linear_cross_entropy(hidden, weight, labels, weights, chunk_rows=100).weighted_sum, (hidden, weight)
    )
    plainly = torch.autograd.grad(plain(hidden, weight, labels, weights), (hidden, weight))
    for mine, other, reference in zip(got, plainly, wanted, strict=True):
        assert (mine.double() - reference).norm() <= 1.1 * (other.double() - reference).norm()
