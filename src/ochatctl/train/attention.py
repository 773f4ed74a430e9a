"""Attention over packed rows: a token sees the tokens before it in its own row, and nothing of its neighbours.

One function, registered with transformers' AttentionInterface, serves every model that calls that interface. No mask of
T x T is ever made: transformers builds none for a name that it does not know, and a row needs none of its own.

    T = packed tokens, L = tokens of one row, H = query heads, K = key-value heads, D = head size
"""

import functools
import inspect
import itertools
from typing import Any

import torch
import torch.nn.functional as F

from ochatctl.errors import ConfigError

NAME = "ochatctl_packed"
_VARLEN_DTYPES = (torch.float16, torch.bfloat16)
_VARLEN_MAX_HEAD_SIZE = 256


def register() -> None:
    """Make the function known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


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
    if softcap is None and _has_varlen(query_1HTD):
        out_THD = _varlen(query_1HTD, key_1KTD, value_1KTD, cu_seq_lens_q, max_length_q, scale, sliding_window)
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


def _has_varlen(query: torch.Tensor) -> bool:
    if not query.is_cuda or query.dtype not in _VARLEN_DTYPES or query.shape[-1] > _VARLEN_MAX_HEAD_SIZE:
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0)


@functools.cache
def _varlen_takes_groups() -> bool:
    # torch 2.11 has no `enable_gqa`; 2.12 wants it where the head counts differ.
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _varlen(
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
    return out if isinstance(out, torch.Tensor) else out[0]
