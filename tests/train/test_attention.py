"""Packed attention against the textbook's formula, row by row."""

import inspect
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.errors import ConfigError
from ochatctl.train.attention import block_mask, choose_way, flex, packed_attention, varlen


def textbook(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, window: int | None, softcap: float | None
) -> torch.Tensor:
    """Attention of one row, [H, L, D], with its mask written out token by token."""
    repeats = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(repeats, dim=0), value.repeat_interleave(repeats, dim=0)
    scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    for at_q, at_k in itertools.product(range(query.shape[1]), repeat=2):
        if at_k > at_q or (window is not None and at_q - at_k >= window):
            scores[:, at_q, at_k] = float("-inf")
    return scores.softmax(dim=-1) @ value


def random_packed(
    lengths: list[int], seed: int, *, head_size: int = 8
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    query = torch.randn(1, 4, total, head_size, generator=draw, dtype=torch.float64, requires_grad=True)
    key, value = (
        torch.randn(1, 2, total, head_size, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    return query, key, value, torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.none() | st.integers(1, 10),
    st.sampled_from([None, 2.0]),
    st.integers(0, 1000),
)
def test_each_row_sees_itself_alone(lengths: list[int], window: int | None, softcap: float | None, seed: int) -> None:
    query, key, value, bounds = random_packed(lengths, seed)
    out, _ = packed_attention(
        torch.nn.Module(), query, key, value, None,
        cu_seq_lens_q=bounds, max_length_q=max(lengths), sliding_window=window, softcap=softcap,
    )  # fmt: skip
    rows = [
        textbook(query[0, :, a:b], key[0, :, a:b], value[0, :, a:b], window=window, softcap=softcap)
        for a, b in itertools.pairwise(bounds.tolist())
    ]
    expected = torch.cat(rows, dim=1).transpose(0, 1)[None]
    tolerance = 1e-5 if softcap else 1e-12  # a soft-capped softmax is taken in float32
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = torch.autograd.grad((out * weight).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def test_a_row_never_attends_to_its_neighbour() -> None:
    query, key, value, bounds = random_packed([5, 7], 0)
    out, _ = packed_attention(torch.nn.Module(), query, key, value, None, cu_seq_lens_q=bounds, max_length_q=7)
    for first, second in ((slice(0, 5), slice(5, 12)), (slice(5, 12), slice(0, 5))):
        (touched,) = torch.autograd.grad(out[:, first].sum(), value, retain_graph=True)
        assert touched[:, :, second].abs().max() == 0
        assert touched[:, :, first].abs().max() > 0


@pytest.mark.parametrize(
    "asked",
    [{"attention_mask": torch.ones(1, 1, 3, 3)}, {"dropout": 0.1}, {"s_aux": torch.zeros(4)}, {"is_causal": False}],
)
def test_what_it_cannot_do_is_refused_and_not_left_out(asked: dict[str, object]) -> None:
    query, key, value, bounds = random_packed([3], 0)
    mask = asked.pop("attention_mask", None)
    with pytest.raises(ConfigError, match="which padding-free training cannot do"):
        packed_attention(torch.nn.Module(), query, key, value, mask, cu_seq_lens_q=bounds, max_length_q=3, **asked)


def test_the_way_is_chosen_aloud() -> None:
    way = choose_way(torch.device("cpu"), torch.bfloat16, 128, softcapped=False)
    assert way.name == "rows"
    assert "row by row" in way.why
    assert "CPU" not in choose_way(torch.device("mps"), torch.float16, 128, softcapped=False).why


@pytest.mark.parametrize(
    ("capability", "dtype", "head_size", "softcapped", "name"),
    [
        ((9, 0), torch.bfloat16, 128, False, "varlen"),
        ((8, 0), torch.float16, 100, False, "varlen"),
        ((8, 9), torch.bfloat16, 256, True, "flex"),
        ((8, 0), torch.bfloat16, 8, True, "rows"),  # flex_attention takes no head below 16
        ((9, 0), torch.bfloat16, 264, False, "rows"),
        ((9, 0), torch.float32, 128, False, "rows"),
        ((7, 5), torch.float16, 128, False, "rows"),
        ((7, 0), torch.float16, 128, True, "rows"),
    ],
)
def test_each_gpu_is_given_what_runs_on_it(
    capability: tuple[int, int], dtype: torch.dtype, head_size: int, softcapped: bool, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    choose_way.cache_clear()
    try:
        assert choose_way(torch.device("cuda"), dtype, head_size, softcapped=softcapped).name == name
    finally:
        choose_way.cache_clear()


@pytest.mark.slow  # flex_attention takes seconds to import
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.none() | st.integers(1, 500), st.integers(0, 1000))
def test_flex_attention_gives_the_same_and_looks_at_no_block_in_vain(
    lengths: list[int], window: int | None, seed: int
) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    query, key, value, bounds = (tensor.detach() for tensor in random_packed(lengths, seed))
    mask, total = block_mask(bounds, sum(lengths), window), sum(lengths)
    want, _ = packed_attention(
        torch.nn.Module(), query, key, value, None,
        cu_seq_lens_q=bounds, max_length_q=max(lengths), sliding_window=window, softcap=2.0,
    )  # fmt: skip
    got = flex(query.float(), key.float(), value.float(), mask, 8**-0.5, 2.0, flex_attention).transpose(1, 2)
    torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=1e-5)

    # On CPU flex_attention asks for each pair; the GPU kernel goes by the blocks, so they are looked at here.
    row = torch.bucketize(torch.arange(total), bounds[1:], right=True)
    back = torch.arange(total)[:, None] - torch.arange(total)
    pairs = (row[:, None] == row) & (back >= 0) & (back < (window or total))
    num_blocks = mask.kv_num_blocks.shape[-1]
    for query_block in range(num_blocks):
        some, whole = (
            set(which[0, 0, query_block, : counts[0, 0, query_block]].tolist())
            for counts, which in (
                (mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices)
            )
        )  # fmt: skip
        of_query = pairs[query_block * 128 : (query_block + 1) * 128]
        for key_block in range(num_blocks):
            block = of_query[:, key_block * 128 : (key_block + 1) * 128]
            if block.all() and block.shape == (128, 128):
                assert key_block in whole
            elif block.any():
                assert key_block in some
            elif (query_block + 1) * 128 <= total:
                assert key_block not in some | whole


@pytest.mark.parametrize("head_size", [16, 20])
@pytest.mark.parametrize("window", [None, 3])
def test_the_varlen_kernel_is_called_as_it_wants_to_be(
    window: int | None, head_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.nn.attention import varlen as theirs

    asked = set(inspect.signature(theirs.varlen_attn).parameters)

    def kernel(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
        max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        """What torch's `mha_varlen_fwd` and `varlen_attn` refuse, and what they give; the kernel itself needs a GPU."""
        assert query.shape[-1] % 8 == 0
        assert query.shape[-1] <= 256
        assert all(tensor.dtype == torch.bfloat16 and tensor.stride(-1) == 1 for tensor in (query, key, value))
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert enable_gqa or query.shape[1] == key.shape[1]
        assert max_q == max_k == max(cu_seq_q.diff())
        causal, own_scale = window_size == (-1, 0), scale * query.shape[-1] ** 0.5
        assert causal or window_size == (2, 0), "torch compares with a tuple"
        rows = [
            textbook(
                *(tensor[a:b].double().transpose(0, 1) for tensor in (query * own_scale, key, value)),
                window=None if causal else window_size[0] + 1, softcap=None,
            )
            for a, b in itertools.pairwise(cu_seq_q.tolist())
        ]  # fmt: skip
        return torch.cat(rows, dim=1).transpose(0, 1).to(query.dtype)

    assert set(inspect.signature(kernel).parameters) <= asked
    monkeypatch.setattr(theirs, "varlen_attn", kernel)
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 13, head_size, generator=draw).bfloat16().requires_grad_() for heads in (4, 2, 2)
    )
    bounds = torch.tensor([0, 5, 12, 13], dtype=torch.int32)
    got = varlen(query, key, value, bounds, 7, 0.3, window)
    want, _ = packed_attention(
        torch.nn.Module(), *(tensor.float() for tensor in (query, key, value)), None,
        cu_seq_lens_q=bounds, max_length_q=7, scaling=0.3, sliding_window=window,
    )  # fmt: skip
    torch.testing.assert_close(got.float(), want[0], rtol=2e-2, atol=2e-2)
    mine, theirs_too = (torch.autograd.grad(out.float().square().sum(), (query, key, value)) for out in (got, want))
    for one, other in zip(mine, theirs_too, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=5e-2, atol=1e-1)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # torch's own, as it compiles
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 5])
def test_the_gpus_kernels_give_what_the_cpu_gives(window: int | None, softcap: float | None) -> None:
    query, key, value, bounds = random_packed([5, 64, 17, 1], 0, head_size=16)
    assert choose_way(torch.device("cuda"), torch.bfloat16, 16, softcapped=softcap is not None).name != "rows"
    calls = [
        [tensor.detach().to(device, dtype) for tensor in (query, key, value)]
        for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16))
    ]
    want, got = (
        packed_attention(
            torch.nn.Module(), *tensors, None,
            cu_seq_lens_q=bounds.to(tensors[0].device), max_length_q=64, sliding_window=window, softcap=softcap,
        )[0]
        for tensors in calls
    )  # fmt: skip
    torch.testing.assert_close(got.float().cpu(), want, rtol=3e-2, atol=3e-2)
