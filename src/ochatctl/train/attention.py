"""Attention over packed rows: a token sees the tokens before it in its own row, and nothing of its neighbours.

One function, registered with transformers' AttentionInterface, serves every model that calls that interface. No mask of
T x T is ever made: transformers builds none for a name that it does not know, and a row needs none of its own.

Three ways, and `choose_way` says which and why: torch's varlen kernel, all rows at once; flex_attention for soft-capped
scores, which that kernel does not know; row by row, on CPU and wherever else the two do not run.

    T = packed tokens, L = tokens of one row, H = query heads, K = key-value heads, D = head size, B = blocks of tokens
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from ochatctl.errors import ConfigError

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

NAME = "ochatctl_packed"
_VARLEN_DTYPES = (torch.float16, torch.bfloat16)
_VARLEN_MAX_HEAD_SIZE = 256
_VARLEN_HEAD_SIZES = 8  # or a multiple of it
_FLEX_MIN_HEAD_SIZE = 16
_KERNELS_WANT = (8, 0)
_BLOCK = 128  # flex_attention's


class Way(NamedTuple):
    """How attention is computed, and why so, in a sentence for the user."""

    name: Literal["varlen", "flex", "rows"]
    why: str


@functools.cache
def choose_way(device: torch.device, dtype: torch.dtype, head_size: int, *, softcapped: bool) -> Way:
    """Choose for this device and kind of attention."""
    if device.type == "cpu":
        return Way("rows", "attention row by row, by torch's SDPA: the packed kernels are for GPUs")
    if device.type != "cuda":
        return Way("rows", f"attention row by row, by torch's SDPA: `{device.type}` has no kernel for packed rows")
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < _KERNELS_WANT:
        return Way(
            "rows",
            f"attention row by row, by torch's SDPA: this GPU is sm{major}{minor}, and the packed kernels want sm80",
        )
    if softcapped and head_size < _FLEX_MIN_HEAD_SIZE:
        return Way(
            "rows", f"attention row by row, by torch's SDPA: heads of {head_size}, and flex_attention takes 16 and more"
        )
    if softcapped:
        return Way("flex", "attention by flex_attention, since the scores are soft-capped")
    if dtype not in _VARLEN_DTYPES:
        name = str(dtype).removeprefix("torch.")
        return Way("rows", f"attention row by row, by torch's SDPA: the packed kernel does not take {name}")
    if head_size > _VARLEN_MAX_HEAD_SIZE:
        return Way(
            "rows", f"attention row by row, by torch's SDPA: heads of {head_size}, and the packed kernel takes 256"
        )
    return Way("varlen", "attention over all rows at once, by torch's varlen kernel")


def way_of(model: Any, device: torch.device, dtype: torch.dtype) -> Way:
    """Choose for a model of transformers."""
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    softcapped = getattr(config, "attn_logit_softcapping", None) is not None
    return choose_way(device, dtype, head_size, softcapped=softcapped)


def register(function: Callable[..., Any] | None = None) -> None:
    """Make the function, or one that wraps it, known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, function or packed_attention)


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Give [1, T, H, D], as transformers calls it; `cu_seq_lens_q` are the rows' boundaries, int32 [S + 1].

    Raises:
        ConfigError: the model asks for something that is not done here, and would be wrong if left out.
    """
    _refuse_unknown(module, attention_mask, dropout, other)
    scale = query_1HTD.shape[-1] ** -0.5 if scaling is None else scaling
    way = choose_way(query_1HTD.device, query_1HTD.dtype, query_1HTD.shape[-1], softcapped=softcap is not None).name
    if way == "flex" and softcap is not None:
        mask = block_mask(cu_seq_lens_q, query_1HTD.shape[2], sliding_window)
        out_1HTD = flex(query_1HTD, key_1KTD, value_1KTD, mask, scale, softcap, _compiled_flex())
        return out_1HTD.transpose(1, 2), None
    if way == "varlen":
        out_THD = varlen(query_1HTD, key_1KTD, value_1KTD, cu_seq_lens_q, max_length_q, scale, sliding_window)
        return out_THD.unsqueeze(0), None
    bounds = cu_seq_lens_q.tolist()
    rows = [
        _row(query_1HTD[:, :, a:b], key_1KTD[:, :, a:b], value_1KTD[:, :, a:b], scale, sliding_window, softcap)
        for a, b in itertools.pairwise(bounds)
    ]
    out_1HTD = rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)
    return out_1HTD.transpose(1, 2), None


def _refuse_unknown(
    module: torch.nn.Module, attention_mask: torch.Tensor | None, dropout: float, other: dict[str, Any]
) -> None:
    reason = ""
    if attention_mask is not None:
        reason = "brings an attention mask of its own"
    elif dropout:
        reason = "has attention dropout"
    elif other.get("s_aux") is not None:
        reason = "has attention sinks"
    elif getattr(module, "is_causal", True) is False or other.get("is_causal") is False:
        reason = "has attention that is not causal"
    if reason:
        raise ConfigError(f"`{type(module).__name__}` {reason}, which padding-free training cannot do")


def _row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention within one row, [1, H, L, D]."""
    length, grouped = query.shape[2], query.shape[1] != key.shape[1]
    if softcap is None and (not window or length <= window):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
    # In blocks of queries, so that the mask stays at block x (block + window).
    block = window if window and window < length else length
    parts = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first = max(0, start - window + 1) if window else 0
        at_q = torch.arange(start, stop, device=query.device)[:, None]
        at_k = torch.arange(first, stop, device=query.device)[None, :]
        seen = (at_k <= at_q) & (at_k > at_q - window) if window else at_k <= at_q
        q, k, v = query[:, :, start:stop], key[:, :, first:stop], value[:, :, first:stop]
        if softcap is None:
            parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=grouped))
        else:
            parts.append(_softcapped(q, k, v, seen, scale, softcap))
    return torch.cat(parts, dim=2)


def _softcapped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor, scale: float, softcap: float
) -> torch.Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1, dtype=torch.float32)
    return weights.to(query.dtype) @ value


@functools.cache
def _varlen_takes_groups() -> bool:
    # torch 2.11 has no `enable_gqa`; 2.12 wants it where the head counts differ.
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """All rows at once on a GPU, [T, H, D]."""
    from torch.nn.attention.varlen import varlen_attn

    head_size = query.shape[-1]
    if more := -head_size % _VARLEN_HEAD_SIZES:
        # Zeros beyond a head change no score, and what they give is cut off.
        query, key, value = (F.pad(tensor, (0, more)) for tensor in (query, key, value))
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    groups: dict[str, Any] = {}
    if q.shape[1] != k.shape[1]:
        if _varlen_takes_groups():
            groups = {"enable_gqa": True}
        else:
            k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    # A tuple: torch compares it with (-1, 0) to find out that the attention is causal.
    reach = (window - 1, 0) if window else (-1, 0)
    out = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, scale=scale, window_size=reach, **groups)
    out = out if isinstance(out, torch.Tensor) else out[0]
    return out[..., :head_size]


_last_masks: tuple[torch.Tensor, dict[tuple[int, int | None], "BlockMask"]] | None = None


def block_mask(cu_seqlens: torch.Tensor, num_tokens: int, window: int | None) -> "BlockMask":
    """Give flex_attention's mask of packed rows; made once a batch and kind of layer."""
    global _last_masks
    if _last_masks is None or _last_masks[0] is not cu_seqlens:
        _last_masks = (cu_seqlens, {})
    masks = _last_masks[1]
    if (num_tokens, window) not in masks:
        masks[num_tokens, window] = _make_block_mask(cu_seqlens, num_tokens, window)
    return masks[num_tokens, window]


def _make_block_mask(cu_seqlens: torch.Tensor, num_tokens: int, window: int | None) -> "BlockMask":
    """Make it from the rows' boundaries: torch's own function would look at T x T pairs.

    Up to a whole number of blocks; what fills the last one is a row of its own.
    """
    from torch.nn.attention.flex_attention import BlockMask

    padded = -(-num_tokens // _BLOCK) * _BLOCK
    token_T = torch.arange(padded, device=cu_seqlens.device)
    # A token sees from its row's first token on, or from where its window begins, up to itself.
    first_T = cu_seqlens[torch.searchsorted(cu_seqlens, token_T, right=True) - 1].long()
    if window:
        first_T = torch.maximum(first_T, token_T - window + 1)
    lowest_B1, highest_B1 = first_T[::_BLOCK, None], first_T[_BLOCK - 1 :: _BLOCK, None]
    at_B = torch.arange(padded // _BLOCK, device=cu_seqlens.device)
    seen_BB = (at_B <= at_B[:, None]) & ((at_B + 1) * _BLOCK > lowest_B1)
    whole_BB = (at_B < at_B[:, None]) & (at_B * _BLOCK >= highest_B1)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key >= first_T[query])

    return BlockMask.from_kv_blocks(
        *_listed(seen_BB & ~whole_BB),
        *_listed(whole_BB),
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(padded, padded),
    )


def _listed(blocks_BB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give how many blocks each line has, and which, those first."""
    which = torch.argsort(blocks_BB.int(), dim=1, descending=True, stable=True).int()
    return blocks_BB.sum(dim=1).int()[None, None], which[None, None].contiguous()


def flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: "BlockMask",
    scale: float,
    softcap: float,
    attend: Callable[..., Any],
) -> torch.Tensor:
    """Soft-capped attention over all rows at once, [1, H, T, D]; `attend` is flex_attention, compiled or not."""
    num_tokens, padded = query.shape[2], mask.seq_lengths[0]
    query, key, value = (F.pad(tensor, (0, 0, 0, padded - num_tokens)) for tensor in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    out: torch.Tensor = attend(
        query, key, value, score_mod=_capped(softcap), block_mask=mask, scale=scale, enable_gqa=grouped
    )
    return out[:, :, :num_tokens]


@functools.cache
def _capped(softcap: float) -> Callable[..., torch.Tensor]:
    def cap(
        score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
