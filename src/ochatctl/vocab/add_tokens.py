"""`add-eot`: a base model folder -> the same folder with its family's end-of-turn token.

In: a folder with `config.json`, a tokenizer and weights. Out: a folder that `train` takes. First a plan, which reads
headers only and refuses what cannot work; then the writing, under a temporary name; then the checks; then the rename.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ochatctl.chat.families import Family, family_tokenizer, missing_tokens, write_chat_files
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.errors import ConfigError, EnvironmentProblem, UsageProblem
from ochatctl.files import atomic_dir, refuse_existing, require_disk
from ochatctl.vocab.matrices import Matrices, find_matrices
from ochatctl.vocab.shards import (
    DTYPES,
    INDEX_NAME,
    Shard,
    Tensor,
    Weights,
    mean_row,
    open_weights,
    write_index,
    write_safetensors,
)
from ochatctl.vocab.tokenizer_files import next_ids, read_config, record_sizes, record_tokens
from ochatctl.vocab.verify import verify

# Below this the logits are compared without being asked: it loads the model twice, one after the other.
SMALL_MODEL_BYTES = 2_000_000_000
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot")
# The old chat template of a processor; the new one stands in chat_template.jinja.
_STALE_NAMES = ("chat_template.json",)
# Everything that is neither weights nor a tokenizer is small; this is room for it and for the JSON files.
_SMALL_FILES_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedTokens:
    """What was done, or with `--dry-run` what would be."""

    out: Path
    family: str
    eot: str
    eot_id: int
    added: dict[str, int]
    num_rows_before: int
    num_rows: int
    # Rows that were averaged: those of tokens that the tokenizer knew.
    num_mean_rows: int
    matrices: tuple[str, ...]
    tied: bool
    rewritten: tuple[str, ...]
    rewritten_bytes: int
    linked: tuple[str, ...]
    linked_bytes: int
    copied: tuple[str, ...]
    notices: tuple[str, ...]
    checks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    model_dir: Path
    out: Path
    family: Family
    weights: Weights
    matrices: Matrices
    added: dict[str, int]
    eot_id: int
    num_rows: int
    num_mean_rows: int
    # Rows that get the mean: new ones, and those of an already padded matrix that a new token takes over.
    filled: tuple[int, ...]
    # Weight file of the input -> its name in the output, for those that are written anew.
    rewritten: dict[Path, str]
    kept: dict[Path, str]
    dropped: frozenset[str]
    notices: tuple[str, ...]

    def grown(self, tensor: Tensor) -> Tensor:
        """Give what a tensor is in the output."""
        if tensor.name not in self.matrices.names:
            return tensor
        row_bytes = tensor.num_bytes // tensor.shape[0]
        return Tensor(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=(self.num_rows, *tensor.shape[1:]),
            num_bytes=row_bytes * self.num_rows,
        )

    def file_tensors(self, shard: Shard) -> list[Tensor]:
        return [self.grown(tensor) for name, tensor in shard.tensors.items() if name not in self.dropped]

    @property
    def rewritten_bytes(self) -> int:
        shards = [shard for shard in self.weights.shards if shard.path in self.rewritten]
        return sum(tensor.num_bytes for shard in shards for tensor in self.file_tensors(shard))

    @property
    def kept_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.kept)


def add_eot(
    model_dir: Path,
    out: Path,
    family: Family,
    *,
    tokens: tuple[str, ...] = (),
    pad_to_multiple_of: int = 1,
    check_logits: bool = False,
    yes: bool = False,
    dry_run: bool = False,
) -> AddedTokens:
    """Write `out`: the model with rows for the missing tokens, each the mean of all existing rows.

    `tokens` are added instead of the family's missing ones. Files of weights that hold neither matrix are hard links to
    the input's, so nothing may change them in place.

    Guarantees:
        nothing under the name `out` before every check has passed; at most one chunk of a matrix in memory, unless
        the logits are compared.

    Raises:
        UsageProblem: `out` exists, or is the input.
        ConfigError: matrices that are ambiguous, quantised or not found; a tokenizer that cannot take the tokens.
        DataError: no weights, or broken ones.
        EnvironmentProblem: the disk is too small.
        RunError: the result is not what it should be.
    """
    _refuse_overlap(model_dir, out)
    refuse_existing(out, yes=yes)
    plan = _plan(model_dir, out, family, tokens, pad_to_multiple_of)
    _require_room(plan)
    if dry_run:
        linked = tuple(plan.kept.values()) if _same_file_system(plan) else ()
        return _report(plan, linked=linked, checks=())
    with _started(out) as part:
        linked = _write(plan, part)
        checks = verify(
            model_dir, part, family,
            before=plan.weights, matrices=plan.matrices, filled=plan.filled, num_mean_rows=plan.num_mean_rows,
            added=plan.added, with_logits=check_logits or plan.weights.num_bytes < SMALL_MODEL_BYTES,
            must_compare_logits=check_logits,
        )  # fmt: skip
    return _report(plan, linked=linked, checks=checks)


def _plan(model_dir: Path, out: Path, family: Family, tokens: tuple[str, ...], multiple: int) -> _Plan:
    config = read_config(model_dir)
    weights = open_weights(model_dir)
    matrices = find_matrices(config, _without(weights.tensors, dropped := _tied_copies(config, weights)))
    tokenizer = family_tokenizer(model_dir, family)
    notices: list[str] = []
    wanted = _wanted(family, tokenizer, tokens, notices)
    num_tokens = tokenizer.num_tokens + len(wanted)
    num_rows = _round_up(max(num_tokens, matrices.num_rows), multiple)
    if multiple > 1:
        wanted = (*wanted, *_pad_tokens(tokenizer, num_rows - num_tokens))
    added = next_ids(model_dir, wanted, first_free=tokenizer.num_tokens)
    if tokenizer.num_tokens > matrices.num_rows:
        notices.append(
            f"the tokenizer has {tokenizer.num_tokens} tokens and the model {matrices.num_rows} rows; "
            "the rows that were missing get the mean as well"
        )
    num_rows = max(num_rows, *(index + 1 for index in added.values()), 0)
    eot_id = added.get(family.template.eot, tokenizer.token_id(family.template.eot))
    if eot_id is None:
        raise ConfigError(
            f"`{family.template.eot}`, the end-of-turn token of `{family.name}`, is not among the tokens",
            hint=f"add `--token '{family.template.eot}'`",
        )
    filled = tuple(sorted({*added.values(), *range(matrices.num_rows, num_rows)}))
    rewritten, kept = _split_files(weights, matrices, changes=bool(filled))
    return _Plan(
        model_dir=model_dir,
        out=out,
        family=family,
        weights=weights,
        matrices=matrices,
        added=added,
        eot_id=eot_id,
        num_rows=num_rows,
        num_mean_rows=min(tokenizer.num_tokens, matrices.num_rows),
        filled=filled,
        rewritten=rewritten,
        kept=kept,
        dropped=dropped,
        notices=tuple(notices),
    )


def _wanted(family: Family, tokenizer: Tokenizer, tokens: tuple[str, ...], notices: list[str]) -> tuple[str, ...]:
    if not tokens:
        missing = missing_tokens(family, tokenizer)
        if not missing:
            notices.append(f"the tokenizer has every token of `{family.name}` already; nothing is added")
        return missing
    for token in tokens:
        if not token.strip():
            raise ConfigError(f"`{token}` cannot be a token: it is blank")
        if tokenizer.token_id(token) is not None:
            notices.append(f"the tokenizer has `{token}` already, id {tokenizer.token_id(token)}")
    return tuple(token for token in dict.fromkeys(tokens) if tokenizer.token_id(token) is None)


def _pad_tokens(tokenizer: Tokenizer, count: int) -> tuple[str, ...]:
    out: list[str] = []
    number = 0
    while len(out) < count:
        if tokenizer.token_id(f"<|pad_{number}|>") is None:
            out.append(f"<|pad_{number}|>")
        number += 1
    return tuple(out)


def _tied_copies(config: dict[str, object], weights: Weights) -> frozenset[str]:
    """Give the names under which a `.bin` file holds its one tied matrix a second time."""
    if not weights.is_bin or config.get("tie_word_embeddings") is False:
        return frozenset()
    heads = [name for name in weights.tensors if name.endswith(("lm_head.weight", "embed_out.weight"))]
    return frozenset(
        head
        for shard in weights.shards
        for head in heads
        if any(name != head and shard.shares_storage(head, name) for name in shard.tensors)
    )


def _without(tensors: dict[str, Tensor], names: frozenset[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def _split_files(weights: Weights, matrices: Matrices, *, changes: bool) -> tuple[dict[Path, str], dict[Path, str]]:
    """Give (files to write anew, files to keep), each with its name in the output."""
    rewritten: dict[Path, str] = {}
    kept: dict[Path, str] = {}
    for shard, name in zip(weights.shards, weights.file_names, strict=True):
        touched = changes and any(name in shard.tensors for name in matrices.names)
        (rewritten if touched or weights.is_bin else kept)[shard.path] = name
    return rewritten, kept


def _refuse_overlap(model_dir: Path, out: Path) -> None:
    source, target = model_dir.resolve(), out.resolve()
    if source == target:
        raise UsageProblem(f"`--out {out}` is the model itself", hint="choose another `--out`")
    if source.is_relative_to(target):
        raise UsageProblem(f"`--out {out}` holds the model, and would replace it", hint="choose another `--out`")
    folder = _existing_parent(out)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageProblem(f"`{folder}` cannot be written to", hint="choose another `--out`")


def _same_file_system(plan: _Plan) -> bool:
    device = _existing_parent(plan.out).stat().st_dev
    return all(path.stat().st_dev == device for path in plan.kept)


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.exists())


def _require_room(plan: _Plan) -> None:
    need = plan.rewritten_bytes + _SMALL_FILES_BYTES
    require_disk(plan.out, need_bytes=need if _same_file_system(plan) else need + plan.kept_bytes)


@contextlib.contextmanager
def _started(out: Path) -> Iterator[Path]:
    try:
        with atomic_dir(out) as part:
            yield part
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = "free some space, or choose another `--out`"
        raise EnvironmentProblem(f"`{out}`: the disk is full", hint=hint) from error


def _write(plan: _Plan, part: Path) -> tuple[str, ...]:
    """Write every file of the output; give the names of those that are links."""
    for file in sorted(plan.model_dir.iterdir()):
        if file.is_file() and not _is_weights(file.name) and file.name not in _STALE_NAMES:
            shutil.copyfile(file, part / file.name)
    linked = tuple(name for path, name in plan.kept.items() if _link_or_copy(path, part / name))
    means = {
        name: mean_row(plan.weights.shard_of(name), name, num_rows=plan.num_mean_rows)
        for name in (plan.matrices.names if plan.filled else ())
    }
    for shard in plan.weights.shards:
        if shard.path in plan.rewritten:
            streams = [(tensor, _stream(plan, shard, tensor, means)) for tensor in plan.file_tensors(shard)]
            write_safetensors(part / plan.rewritten[shard.path], streams, shard.metadata)
    if plan.weights.index_metadata is not None:
        names = {**plan.rewritten, **plan.kept}
        weight_map = {
            tensor.name: names[shard.path] for shard in plan.weights.shards for tensor in plan.file_tensors(shard)
        }
        tensors = [tensor for shard in plan.weights.shards for tensor in plan.file_tensors(shard)]
        metadata = dict(plan.weights.index_metadata)
        if "total_parameters" in metadata:
            metadata["total_parameters"] = sum(_num_elements(tensor) for tensor in tensors)
        total = sum(tensor.num_bytes for tensor in tensors)
        write_index(part / INDEX_NAME, weight_map, metadata, num_bytes=total)
    record_tokens(part, plan.added, eot=plan.family.template.eot)
    record_sizes(part, num_rows=plan.num_rows, eot_id=plan.eot_id)
    write_chat_files(part, plan.family, family_tokenizer(part, plan.family), conditions={})
    return linked


def _stream(plan: _Plan, shard: Shard, tensor: Tensor, means: dict[str, torch.Tensor]) -> Iterable[memoryview]:
    if tensor.name not in means:
        yield from shard.chunks(tensor.name)
        return
    before = shard.tensors[tensor.name]
    row_bytes = before.num_bytes // before.shape[0]
    row = means[tensor.name].to(DTYPES[tensor.dtype]).view(torch.uint8).numpy().tobytes()
    at = 0
    # The old rows between two filled ones are copied as they are.
    for index in (*plan.filled, plan.num_rows):
        if at < (stop := min(index, before.shape[0])):
            yield from shard.chunks(tensor.name, start=at * row_bytes, stop=stop * row_bytes)
        if index < plan.num_rows:
            yield memoryview(row)
        at = index + 1


def _link_or_copy(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        # Another file system, one without links, a file of another user, or too many links.
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise
        require_disk(target, need_bytes=source.stat().st_size)
        shutil.copyfile(source, target)
        return False
    return True


def _is_weights(name: str) -> bool:
    return name.endswith((*_WEIGHT_SUFFIXES, *(f"{suffix}.index.json" for suffix in _WEIGHT_SUFFIXES)))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _num_elements(tensor: Tensor) -> int:
    return tensor.num_bytes // DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else 0


def _report(plan: _Plan, *, linked: tuple[str, ...], checks: tuple[str, ...]) -> AddedTokens:
    return AddedTokens(
        out=plan.out,
        family=plan.family.name,
        eot=plan.family.template.eot,
        eot_id=plan.eot_id,
        added=plan.added,
        num_rows_before=plan.matrices.num_rows,
        num_rows=plan.num_rows,
        num_mean_rows=plan.num_mean_rows,
        matrices=plan.matrices.names,
        tied=plan.matrices.output_name is None,
        rewritten=tuple(plan.rewritten.values()),
        rewritten_bytes=plan.rewritten_bytes,
        linked=linked,
        linked_bytes=sum(path.stat().st_size for path, name in plan.kept.items() if name in linked),
        copied=tuple(name for name in plan.kept.values() if name not in linked),
        notices=plan.notices,
        checks=checks,
    )
