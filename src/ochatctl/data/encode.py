"""Conversations -> token rows, in worker processes where there is enough to do.

in: conversations, each encoded by the family's template (one loss weight a token),
out: Rows (one label and one loss weight a position), and what became of each conversation.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ochatctl.chat.conversation import Conversation
from ochatctl.chat.families import Family, family_tokenizer
from ochatctl.chat.template import Encoded
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.data.split import split, truncate
from ochatctl.errors import DataError

IGNORED_LABEL = -100
Overlength = Literal["split", "truncate", "drop"]

_CHUNK_CONVERSATIONS = 64
_DIGEST_PROBE = "The quick brown fox; 3.14 \u00e9\u4e2d\U0001f600\n\n    def f(x):\treturn 'x'"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """A tokenised conversation, aligned for next-token prediction.

    Shapes: all three [L], L = its tokens; `input_ids` and `labels` are int32, `loss_weights` is float32.
    """

    input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    loss_weights: npt.NDArray[np.float32]


def to_row(encoded: Encoded) -> Row:
    """Shift: position t gets the id and the weight of token t + 1. No other place in the project shifts.

    Guarantees: the last position has no label and the weight 0; a label is -100 exactly where the weight is 0.
    """
    input_ids = np.asarray(encoded.token_ids, dtype=np.int32)
    loss_weights = np.zeros(len(input_ids), dtype=np.float32)
    loss_weights[:-1] = encoded.loss_weights[1:]
    labels = np.full(len(input_ids), IGNORED_LABEL, dtype=np.int32)
    labels[:-1] = np.where(loss_weights[:-1] != 0, input_ids[1:], IGNORED_LABEL)
    return Row(input_ids=input_ids, labels=labels, loss_weights=loss_weights)


def unshift(row: Row) -> Encoded:
    """Give back the ids of a row with the weight of each, as `to_row` took them."""
    return Encoded(token_ids=row.input_ids.tolist(), loss_weights=[0.0, *row.loss_weights[:-1].tolist()])


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """What makes rows of conversations; it crosses to worker processes whole.

    `class_weights` gives the factor of a conversation's loss weights by its condition.
    """

    family: Family
    model_dir: Path
    context_tokens: int
    overlength: Overlength = "split"
    class_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The rows of one conversation; `num_unsupervised` more had no loss weight and are left out.

    `num_cut_prompts` of its prompts are in no row whole, since an answer was to fit beside them.
    """

    condition: str
    num_tokens: int
    rows: list[Row]
    num_unsupervised: int
    num_cut_prompts: int = 0


def encode_conversation(conversation: Conversation, tokenizer: Tokenizer, config: EncodeConfig) -> Outcome:
    """Make the rows of one conversation.

    Raises:
        DataError: it cannot be encoded with this family.
    """
    template = config.family.template
    encoded = template.encode(conversation, tokenizer)
    num_tokens = len(encoded.token_ids)
    pieces, num_cut_prompts = [encoded], 0
    if num_tokens > config.context_tokens:
        if config.overlength == "drop":
            pieces = []
        elif config.overlength == "truncate":
            pieces = [truncate(encoded, context_tokens=config.context_tokens)]
        else:
            parts = split(conversation, template, tokenizer, context_tokens=config.context_tokens)
            pieces, num_cut_prompts = parts.encoded, parts.num_cut_prompts
    factor = config.class_weights.get(conversation.condition, 1.0)
    rows = [to_row(_scaled(piece, factor)) for piece in pieces]
    supervised = [row for row in rows if row.loss_weights.any()]
    return Outcome(
        condition=conversation.condition or template.inference_condition,
        num_tokens=num_tokens,
        rows=supervised,
        num_unsupervised=len(rows) - len(supervised),
        num_cut_prompts=num_cut_prompts,
    )


def encode_all(
    conversations: Iterable[tuple[str, Conversation]], tokenizer: Tokenizer, config: EncodeConfig, *, num_workers: int
) -> Iterator[Outcome]:
    """Encode `(where, conversation)` pairs; one outcome each, in the order of the input.

    Guarantees: the result does not depend on the number of workers; only a few chunks are in memory at a time.

    Raises:
        DataError: starts with the place of the conversation that cannot be encoded.
    """
    if num_workers <= 1:
        for pair in conversations:
            yield from _encode_chunk([pair], tokenizer, config)
        return
    chunks = iter(conversations)
    # Spawned, not forked: a fork of a process with threads may hang, and Windows and macOS have none.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(config,)
    ) as pool:
        waiting: deque[concurrent.futures.Future[list[Outcome]]] = deque()
        while chunk := list(itertools.islice(chunks, _CHUNK_CONVERSATIONS)):
            waiting.append(pool.submit(_work, chunk))
            if len(waiting) > 4 * num_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Give what two tokenizers share exactly when they have one vocabulary and encode a probe alike."""
    state = hashlib.blake2b(digest_size=16)
    for token_id in range(tokenizer.num_tokens):
        state.update(f"{tokenizer.token_text(token_id)}\0".encode("utf-8", "surrogatepass"))
    state.update(repr((sorted(tokenizer.control_ids), tokenizer.bos_ids)).encode())
    state.update(repr(tokenizer.encode_text(_DIGEST_PROBE)).encode())
    return state.hexdigest()


def _scaled(encoded: Encoded, factor: float) -> Encoded:
    if factor == 1.0:
        return encoded
    return Encoded(token_ids=encoded.token_ids, loss_weights=[weight * factor for weight in encoded.loss_weights])


def _encode_chunk(
    chunk: Sequence[tuple[str, Conversation]], tokenizer: Tokenizer, config: EncodeConfig
) -> list[Outcome]:
    outcomes = []
    for where, conversation in chunk:
        try:
            outcomes.append(encode_conversation(conversation, tokenizer, config))
        except DataError as error:
            raise DataError(f"{where}: {error.message}", hint=error.hint) from error
    return outcomes


# A worker's own tokenizer and config: loaded once a process, since both are the same for every chunk.
_worker: tuple[Tokenizer, EncodeConfig] | None = None


def _start_worker(config: EncodeConfig) -> None:
    global _worker
    tokenizer = family_tokenizer(config.model_dir, config.family, trust_remote_code=config.trust_remote_code)
    _worker = (tokenizer, config)


def _work(chunk: list[tuple[str, Conversation]]) -> list[Outcome]:
    assert _worker is not None
    return _encode_chunk(chunk, *_worker)
