"""Logits -> tokens: one row a request, each with its own settings and its own source of chance.

Shapes: B = requests, V = vocabulary.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from ochatctl.engine.base import SamplingSpec, TokenLogprob

# Below this a temperature is greedy: dividing by it would overflow float32.
_GREEDY_TEMPERATURE = 1e-5
# The nucleus is looked for among so many of the likeliest tokens first; a full sort of 49,152 costs milliseconds.
_NUCLEUS_TOKENS = 512


class Sampler:
    """How one request draws, and what its penalties must remember."""

    def __init__(self, spec: SamplingSpec, prompt_ids: Sequence[int], *, vocab_size: int, device: torch.device) -> None:
        self.spec = spec
        self.greedy = spec.temperature < _GREEDY_TEMPERATURE
        # Python's generator, not torch's: one seed gives one answer on every device.
        self.random = random.Random(spec.seed)
        self._bias: tuple[Tensor, Tensor] | None = None
        self._counts: Tensor | None = None
        self._seen: Tensor | None = None
        if spec.logit_bias:
            self._bias = (
                torch.tensor(list(spec.logit_bias), device=device),
                torch.tensor(list(spec.logit_bias.values()), dtype=torch.float32, device=device),
            )
        if spec.presence_penalty or spec.frequency_penalty:
            self._counts = torch.zeros(vocab_size, device=device)
        if spec.repetition_penalty != 1.0:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(list(prompt_ids), device=device)] = True

    @property
    def changes_logits(self) -> bool:
        """Whether `adjust` does anything."""
        return self._bias is not None or self._counts is not None or self._seen is not None

    def adjust(self, logits_V: Tensor) -> None:
        """Apply bias and penalties in place, in vLLM's order."""
        if self._bias is not None:
            logits_V.index_add_(0, *self._bias)
        if self._seen is not None:
            penalty = self.spec.repetition_penalty
            punished = torch.where(logits_V > 0, logits_V / penalty, logits_V * penalty)
            logits_V.copy_(torch.where(self._seen, punished, logits_V))
        if self._counts is not None:
            logits_V.sub_(self._counts, alpha=self.spec.frequency_penalty)
            logits_V.sub_(self._counts.clamp(max=1), alpha=self.spec.presence_penalty)

    def remember(self, token_id: int) -> None:
        """Take note of a token that was drawn."""
        if self._counts is not None:
            self._counts[token_id] += 1
        if self._seen is not None:
            self._seen[token_id] = True


def draw(logits_BV: Tensor, samplers: Sequence[Sampler]) -> list[tuple[int, TokenLogprob | None]]:
    """Draw the next token of every row.

    Guarantees: a row's token depends on its own logits, settings and seed alone, ties included: tokens at the edge of
    `top_k` or `top_p` that are equally likely all stay in.
    """
    own_BV = logits_BV.float()
    logits_BV = own_BV
    if any(sampler.changes_logits for sampler in samplers):
        logits_BV = own_BV.clone()
        for row, sampler in enumerate(samplers):
            if sampler.changes_logits:
                sampler.adjust(logits_BV[row])
    chosen_B = logits_BV.argmax(dim=-1)
    rows = [row for row, sampler in enumerate(samplers) if not sampler.greedy]
    if rows:
        some = [samplers[row] for row in rows]
        index = torch.tensor(rows, device=logits_BV.device)
        chosen_B[index] = _sample(logits_BV[index], some)
    token_ids: list[int] = chosen_B.tolist()
    for sampler, token_id in zip(samplers, token_ids, strict=True):
        sampler.remember(token_id)
    return list(zip(token_ids, _logprobs(own_BV, token_ids, samplers), strict=True))


def _sample(logits_BV: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    specs = [sampler.spec for sampler in samplers]
    logits_BV = logits_BV / _column([spec.temperature for spec in specs], logits_BV)
    if any(spec.min_p > 0 for spec in specs):
        floor = logits_BV.amax(dim=-1, keepdim=True) + _column([spec.min_p for spec in specs], logits_BV).log()
        logits_BV = logits_BV.masked_fill(logits_BV < floor, -torch.inf)
    vocab_size = logits_BV.shape[-1]
    ks = [min(spec.top_k, vocab_size) if spec.top_k > 0 else vocab_size for spec in specs]
    if any(k < vocab_size for k in ks):
        _cut_top_k(logits_BV, ks)
    for row, spec in enumerate(specs):
        if spec.top_p < 1.0:
            logits_V = logits_BV[row]
            logits_V.masked_fill_(logits_V < _nucleus_edge(logits_V, spec.top_p), -torch.inf)
    # The inverse of the cumulative distribution, at one uniform number a row.
    weights_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)).exp().double().cumsum(dim=-1)
    # Kept a little below 1, so that rounding cannot reach past the last token with any weight.
    uniform = [min(sampler.random.random(), 1 - 2**-32) for sampler in samplers]
    target_B1 = torch.tensor(uniform, dtype=torch.float64, device=logits_BV.device)[:, None] * weights_BV[:, -1:]
    return torch.searchsorted(weights_BV, target_B1, right=True)[:, 0]


def _cut_top_k(logits_BV: Tensor, ks: Sequence[int]) -> None:
    rows = [row for row, k in enumerate(ks) if k < logits_BV.shape[-1]]
    index = torch.tensor(rows, device=logits_BV.device)
    best = logits_BV[index].topk(max(ks[row] for row in rows), dim=-1).values
    edge = best.gather(1, torch.tensor([[ks[row] - 1] for row in rows], device=best.device))
    logits_BV[index] = logits_BV[index].masked_fill(logits_BV[index] < edge, -torch.inf)


def _nucleus_edge(logits_V: Tensor, top_p: float) -> Tensor:
    """Give the logit of the last token of the smallest set of likeliest tokens whose probability reaches `top_p`."""
    total = logits_V.double().logsumexp(dim=-1)
    for size in (min(_NUCLEUS_TOKENS, len(logits_V)), len(logits_V)):
        best = logits_V.topk(size).values
        reached = (best.double() - total).exp().cumsum(dim=-1)
        needed = int((reached < top_p).sum())
        if needed < size:
            return best[needed]
    return best[-1]


def _logprobs(logits_BV: Tensor, token_ids: Sequence[int], samplers: Sequence[Sampler]) -> list[TokenLogprob | None]:
    out: list[TokenLogprob | None] = [None] * len(token_ids)
    for row, (token_id, sampler) in enumerate(zip(token_ids, samplers, strict=True)):
        count = sampler.spec.num_logprobs
        if count is None:
            continue
        logprobs_V = logits_BV[row].log_softmax(dim=-1)
        best = logprobs_V.topk(min(count, len(logprobs_V)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        out[row] = TokenLogprob(token_id=token_id, logprob=float(logprobs_V[token_id]), top=top)
    return out


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
