"""The output layer and the weighted cross-entropy in one, without the logits of all tokens ever in memory.

in: hidden states, the output layer's weight, labels and loss weights; out: sum(w x CE), and a tally of each class.

    T = packed tokens, S = supervised tokens among them, R = tokens of a chunk, D = hidden size, V = vocabulary,
    C = classes

A chunk of supervised tokens at a time: its logits in float32, their softmax in place, from there the gradient of the
hidden states and, added up in float32, of the weight. All in the forward pass: that takes three matrix products, and
to go over the logits again in the backward pass would take four. It costs no memory where it counts, since the loss is
the last thing of the forward pass and its gradient the first of the backward.

Memory, in bytes: 4 VD for the weight's gradient, which is narrowed to the weight's own dtype in place, the hidden
states' gradient, and a chunk's logits once in float32 and once in the model's dtype. At V = 128k, D = 4096 and
T = 16k in bfloat16 that is 2.7 GB, where the plain way takes 23.

Source: Liger-Kernel's fused linear cross-entropy for the gradient in the forward pass; the weight a token is ours.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

# Of a chunk's logits. Large enough to keep a GPU's matrix units busy, small beside the weight's own gradient.
CHUNK_BYTES = 256 << 20
# On CPU a chunk that stays near the caches is as fast, and sooner given back.
_CPU_CHUNK_BYTES = 16 << 20
_NARROWED_AT_A_TIME = 16 << 20
# Columns of a tally.
WEIGHTED_CE, CE, CORRECT, TOKENS, WEIGHT = range(5)
NUM_COLUMNS = 5


class LinearLoss(NamedTuple):
    """`weighted_sum` is sum(w x CE), a scalar in float32 that has a gradient.

    Shapes: `tally_C5`, one line a class: the sums of w x CE, of CE, of right first guesses, of tokens, of w.
    """

    weighted_sum: torch.Tensor
    tally_C5: torch.Tensor


def linear_cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_S: torch.Tensor,
    weights_S: torch.Tensor,
    *,
    bias_V: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    classes_S: torch.Tensor | None = None,
    num_classes: int = 1,
    rows_S: torch.Tensor | None = None,
    chunk_rows: int | None = None,
) -> LinearLoss:
    """Give sum(w x CE) of the logits softcap(scale x (hidden @ weight + bias)).

    `rows_S` says which of the T tokens are supervised; without it all are, and those of weight 0 or without a label are
    skipped.

    Guarantees: value and gradients are those of float32 cross-entropy on the whole logits, to rounding. The gradient
    can be taken once: it is scaled in place.
    """
    if rows_S is None:
        # This asks the GPU: a caller that knows better should say so.
        rows_S = ((weights_S != 0) & (labels_S >= 0)).nonzero()[:, 0]
        labels_S, weights_S = labels_S[rows_S], weights_S[rows_S]
        classes_S = None if classes_S is None else classes_S[rows_S]
    if chunk_rows is None:
        chunk_rows = _chunk_rows(len(rows_S), weight_VD)
    with_gradient = torch.is_grad_enabled()
    total, ce_S, correct_S = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch's own gap
        hidden_TD, weight_VD, bias_V, rows_S, labels_S, weights_S, scale, softcap, chunk_rows, with_gradient
    )
    return LinearLoss(total, tally(ce_S, correct_S, weights_S, classes_S, num_classes))


def plain_cross_entropy(
    logits_SV: torch.Tensor,
    labels_S: torch.Tensor,
    weights_S: torch.Tensor,
    classes_S: torch.Tensor | None = None,
    num_classes: int = 1,
) -> LinearLoss:
    """Give the same from logits that are there already."""
    ce_S = F.cross_entropy(logits_SV.float(), labels_S, reduction="none")
    correct_S = (logits_SV.detach().argmax(dim=1) == labels_S).float()
    return LinearLoss(ce_S @ weights_S, tally(ce_S.detach(), correct_S, weights_S, classes_S, num_classes))


def tally(
    ce_S: torch.Tensor,
    correct_S: torch.Tensor,
    weights_S: torch.Tensor,
    classes_S: torch.Tensor | None,
    num_classes: int,
) -> torch.Tensor:
    """Give [C, 5], the sums of each class."""
    columns_S5 = torch.stack([ce_S * weights_S, ce_S, correct_S, torch.ones_like(ce_S), weights_S.to(ce_S)], dim=1)
    if classes_S is None:
        out = columns_S5.sum(dim=0, keepdim=True)
        return out if num_classes == 1 else torch.cat([out, out.new_zeros(num_classes - 1, NUM_COLUMNS)])
    return columns_S5.new_zeros(num_classes, NUM_COLUMNS).index_add_(0, classes_S, columns_S5)


def _chunk_rows(num_rows: int, weight_VD: torch.Tensor) -> int:
    """Give the rows of a chunk, all chunks about as large."""
    limit_bytes = CHUNK_BYTES if weight_VD.is_cuda else _CPU_CHUNK_BYTES
    most = max(1, limit_bytes // (4 * weight_VD.shape[0]))
    num_chunks = max(1, -(-num_rows // most))
    return max(1, -(-num_rows // num_chunks))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        rows_S: torch.Tensor,
        labels_S: torch.Tensor,
        weights_S: torch.Tensor,
        scale: float,
        softcap: float | None,
        chunk_rows: int,
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # float64 stays what it is; all else is added up in float32.
        wide = torch.promote_types(hidden_TD.dtype, torch.float32)
        wants = [wanted and with_gradient for wanted in ctx.needs_input_grad[:3]]
        d_hidden_TD = torch.zeros_like(hidden_TD) if wants[0] else None
        d_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if wants[1] else None
        d_bias_V = torch.zeros_like(bias_V, dtype=wide) if bias_V is not None and wants[2] else None
        ce_S = hidden_TD.new_empty(len(rows_S), dtype=wide)
        correct_S = torch.empty_like(ce_S)
        for start in range(0, len(rows_S), chunk_rows):
            part = slice(start, start + chunk_rows)
            rows_R, labels_R1 = rows_S[part], labels_S[part, None]
            hidden_RD = hidden_TD[rows_R]
            logits_RV = _product(hidden_RD, weight_VD.t(), wide)
            if bias_V is not None:
                logits_RV += bias_V
            bent_RV = None
            if softcap is not None:
                bent_RV = logits_RV.mul_(scale / softcap).tanh_()
                logits_RV = bent_RV * softcap
            elif scale != 1:
                logits_RV *= scale
            # The best of the others, so that a tie is no right guess: of an output layer of zeros nothing is right.
            at_label_R1 = logits_RV.gather(1, labels_R1)
            others_R1 = logits_RV.scatter_(1, labels_R1, -torch.inf).amax(dim=1, keepdim=True)
            logits_RV.scatter_(1, labels_R1, at_label_R1)
            top_R1 = torch.maximum(others_R1, at_label_R1)
            logits_RV.sub_(top_R1).exp_()
            total_R1 = logits_RV.sum(dim=1, keepdim=True)
            ce_S[part] = (total_R1.log() + top_R1 - at_label_R1)[:, 0]
            correct_S[part] = (at_label_R1 > others_R1)[:, 0]
            if not any(wants):
                continue
            # From here on it is the gradient of the layer's output: w x scale x (softmax - one-hot).
            factor_R1 = weights_S[part, None].to(wide) * scale
            logits_RV.mul_(factor_R1 / total_R1).scatter_add_(1, labels_R1, -factor_R1)
            if bent_RV is not None:
                logits_RV.mul_(bent_RV.square_().neg_().add_(1))
            narrow_RV = logits_RV.to(hidden_TD.dtype)
            if d_hidden_TD is not None:
                d_hidden_TD[rows_R] = narrow_RV @ weight_VD
            if d_weight_VD is not None:
                _add_product(d_weight_VD, narrow_RV.t(), hidden_RD)
            if d_bias_V is not None:
                d_bias_V += logits_RV.sum(dim=0)
        ctx.gradients = [d_hidden_TD, d_weight_VD, d_bias_V]
        ctx.dtypes = [hidden_TD.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype]
        ctx.mark_non_differentiable(ce_S, correct_S)
        return ce_S @ weights_S.to(wide), ce_S, correct_S

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradient of the loss was taken already, and can be taken once")
        # Ours alone now, so that torch can keep them as the parameters' gradients without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        # Scaled before they are narrowed: a scale for float16 must not come too late.
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(upstream)
        narrowed = (
            None if gradient is None else _narrowed(gradient, dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return (*narrowed, *[None] * 7)


def _product(left: torch.Tensor, right: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """Give left @ right in the wide dtype."""
    if left.dtype == wide:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=wide)  # the product's own float32 sums, unrounded
    return (left @ right).to(wide)


def _add_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left @ right to a wide `out`, in its precision."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    elif left.is_cuda:
        # In blocks, so that the product needs little room beside `out`.
        block = max(1, _NARROWED_AT_A_TIME // right.shape[1])
        for start in range(0, len(out), block):
            part = slice(start, start + block)
            out[part] += torch.mm(left[part], right, out_dtype=out.dtype)
    else:
        out.addmm_(left.to(out.dtype), right.to(out.dtype))


def _narrowed(wide: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give a tensor in a narrower dtype, in the same memory: front to back, so that nothing unread is written over."""
    if wide.dtype == dtype:
        return wide
    source = wide.view(-1)
    target = source.view(dtype)[: source.numel()]
    for start in range(0, source.numel(), _NARROWED_AT_A_TIME):
        part = slice(start, start + _NARROWED_AT_A_TIME)
        target[part] = source[part].to(dtype)
    return target.view(wide.shape)
