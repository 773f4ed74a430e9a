"""Check what `add-eot` wrote against what it read, before the result gets its name."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ochatctl.chat.families import Family, family_tokenizer
from ochatctl.errors import ConfigError, RunError
from ochatctl.vocab.matrices import Matrices
from ochatctl.vocab.shards import DTYPES, Shard, Weights, mean_row, open_weights, row_chunks

_PROMPT = "The quick brown fox jumps over the lazy dog. 12 + 30 = 42"
# Of the largest logit. The hidden states are the same bits; only the head's product may be summed in another order.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def verify(
    before_dir: Path,
    after_dir: Path,
    family: Family,
    *,
    before: Weights,
    matrices: Matrices,
    filled: tuple[int, ...],
    num_mean_rows: int,
    added: Mapping[str, int],
    with_logits: bool,
    must_compare_logits: bool,
) -> tuple[str, ...]:
    """Give a sentence for each check that passed, and for each that was not made, with the reason.

    Raises:
        RunError: a check failed.
        ConfigError: the tokenizer does not load, or `must_compare_logits` and the model does not.
    """
    after = open_weights(after_dir)
    num_rows = 0
    for name in matrices.names:
        _compare_rows(before.shard_of(name), after.shard_of(name), name, filled)
        if filled:
            mean = mean_row(after.shard_of(name), name, num_rows=num_mean_rows)
            _compare_mean(after.shard_of(name), name, filled, mean)
        num_rows = after.tensors[name].shape[0]
    names = " and ".join(f"`{name}`" for name in matrices.names)
    checks = [f"old rows of {names} are identical bit for bit ({matrices.num_rows - _inside(filled, matrices)} rows)"]
    if filled:
        checks.append(f"new rows equal the float32 mean of {num_mean_rows} rows ({len(filled)} of {num_rows} rows)")
    _compare_tokenizer(after_dir, family, added)
    checks.append("transformers and ochatctl give the new tokens the same ids")
    if not with_logits:
        return (*checks, "logits not compared: 2 GB of weights or more (`--verify` compares them)")
    try:
        difference = _compare_logits(before_dir, after_dir, family, filled)
    except _CannotLoad as error:
        if must_compare_logits:
            raise ConfigError(f"logits cannot be compared: {error}", hint="leave `--verify` out") from error
        return (*checks, f"logits not compared: {error}")
    return (*checks, f"logits of old tokens are unchanged on a prompt (largest difference {difference:.1e})")


class _CannotLoad(Exception):
    """transformers does not take the model as it was."""


def _inside(filled: Iterable[int], matrices: Matrices) -> int:
    return sum(1 for index in filled if index < matrices.num_rows)


def _compare_rows(before: Shard, after: Shard, name: str, filled: tuple[int, ...]) -> None:
    """Compare bits, not numbers: a row may hold a NaN."""
    start, num_rows = 0, before.tensors[name].shape[0]
    skipped = torch.tensor(filled, dtype=torch.long)
    for old, new in zip(row_chunks(before, name, stop=num_rows), row_chunks(after, name, stop=num_rows), strict=True):
        same = (old.view(torch.uint8) == new.view(torch.uint8)).all(dim=1)
        here = skipped[(skipped >= start) & (skipped < start + len(old))] - start
        same[here] = True
        if not bool(same.all()):
            row = start + int((~same).nonzero()[0])
            raise RunError(f"row {row} of `{name}` is not what it was", hint="please report this")
        start += len(old)


def _compare_mean(shard: Shard, name: str, filled: tuple[int, ...], mean: torch.Tensor) -> None:
    tensor = shard.tensors[name]
    row_bytes = tensor.num_bytes // tensor.shape[0]
    wanted = mean.to(DTYPES[tensor.dtype]).view(torch.uint8).numpy().tobytes()
    for index in filled:
        found = b"".join(shard.chunks(name, start=index * row_bytes, stop=(index + 1) * row_bytes))
        if found != wanted:
            raise RunError(f"row {index} of `{name}` is not the mean", hint="please report this")


def _compare_tokenizer(after_dir: Path, family: Family, added: Mapping[str, int]) -> None:
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(after_dir)
    except (OSError, ValueError) as error:
        raise ConfigError(f"transformers cannot load the tokenizer: {error}") from error
    ours = family_tokenizer(after_dir, family)
    for token in {**added, family.template.eot: 0}:
        pair = ours.token_id(token), theirs.convert_tokens_to_ids(token)
        if pair[0] is None or pair[0] != pair[1] or added.get(token, pair[0]) != pair[0]:
            raise ConfigError(
                f"`{token}` has the id {pair[0]} here and {pair[1]} in transformers, where {added.get(token, '?')} is "
                "expected: the numbering of this tokenizer has holes"
            )
        if list(theirs.encode(token, add_special_tokens=False)) != [pair[0]]:
            raise ConfigError(f"transformers does not encode `{token}` as one token")
    if theirs.eos_token != family.template.eot:
        raise ConfigError(f"transformers takes `{theirs.eos_token}` as the end-of-turn token")


def _compare_logits(before_dir: Path, after_dir: Path, family: Family, filled: tuple[int, ...]) -> float:
    """Give the largest difference between the logits of old tokens."""
    token_ids = family_tokenizer(before_dir, family).encode_text(_PROMPT)
    old = _logits(before_dir, token_ids)
    new = _logits(after_dir, token_ids)
    dtype = new.dtype
    # Rows of a padded matrix that new tokens have taken over are theirs now.
    kept = torch.ones(old.shape[-1], dtype=torch.bool)
    kept[[index for index in filled if index < len(kept)]] = False
    old, new = old.double()[:, kept], new.double()[:, : len(kept)][:, kept]
    difference, scale = float((old - new).abs().max()), float(old.abs().max())
    if not difference <= _TOLERANCE.get(dtype, 2**-6) * max(scale, 1e-6):
        raise RunError(f"logits of old tokens changed by up to {difference:.3g}", hint="please report this")
    return difference


def _logits(model_dir: Path, token_ids: list[int]) -> torch.Tensor:
    """Give the logits of a prompt.

    Shapes:
        [tokens, vocabulary]
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    shows_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto")
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise _CannotLoad(f"transformers does not load `{model_dir.name}`: {str(error).splitlines()[0]}") from error
    finally:
        if shows_bar:
            logging.enable_progress_bar()
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(input_ids=torch.tensor([token_ids])).logits[0].clone()
    return logits
