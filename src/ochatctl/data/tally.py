"""What became of the records of a `data pack`: counted as they are written, and printed at its end."""

from dataclasses import dataclass, field

import numpy as np

from ochatctl.data.encode import Outcome, Overlength, num_supervised


@dataclass(kw_only=True, slots=True)
class ConditionTally:
    """What one condition has."""

    num_conversations: int = 0
    num_rows: int = 0
    num_supervised_tokens: int = 0


@dataclass(kw_only=True, slots=True)
class DocumentTally:
    """What the documents have."""

    num_documents: int = 0
    num_rows: int = 0
    num_supervised_tokens: int = 0


@dataclass(kw_only=True, slots=True)
class SplitTally:
    """What went into one file."""

    path: str
    num_rows: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    step_weight: float = 0.0
    longest_tokens: int = 0
    conditions: dict[str, ConditionTally] = field(default_factory=dict)
    documents: DocumentTally = field(default_factory=DocumentTally)


@dataclass(kw_only=True, slots=True)
class SourceTally:
    """What one input file gave: `num_taken` counts a record as often as it was taken."""

    path: str
    ratio: float
    num_records: int
    num_taken: int = 0
    num_rows: int = 0
    num_supervised_tokens: int = 0


@dataclass(kw_only=True, slots=True)
class PackReport:
    """What became of the conversations and documents, each counted as often as it was taken.

    `num_overlength` were longer than the context: `num_dropped` of them were left out, the others became `num_pieces`
    rows; `num_lost_tokens` of their supervised tokens are in no row. `num_without_loss` gave no row, since nothing in
    them has a loss weight; `num_pieces_without_loss` counts such pieces of conversations that gave other rows.
    `num_cut_prompts` were longer than half the context, and their rows keep only the header and the end of them.
    """

    family: str
    context_tokens: int
    overlength: Overlength
    class_weights: dict[str, float]
    num_conversations: int = 0
    num_documents: int = 0
    num_overlength: int = 0
    num_pieces: int = 0
    num_dropped: int = 0
    num_lost_tokens: int = 0
    num_without_loss: int = 0
    num_pieces_without_loss: int = 0
    num_cut_prompts: int = 0
    sources: list[SourceTally] = field(default_factory=list)
    train: SplitTally
    eval: SplitTally | None = None

    def count(self, outcome: Outcome, source: SourceTally, split: SplitTally) -> None:
        """Count a record and its rows, which go to `split`."""
        source.num_taken += 1
        is_document = outcome.condition is None
        self.num_documents += is_document
        self.num_conversations += not is_document
        self.num_lost_tokens += outcome.num_lost_tokens
        if outcome.num_tokens > self.context_tokens:
            self.num_overlength += 1
            self.num_pieces += len(outcome.rows)
        if not outcome.rows:
            self.num_dropped += outcome.is_dropped
            self.num_without_loss += not outcome.is_dropped
            return
        self.num_pieces_without_loss += outcome.num_unsupervised
        self.num_cut_prompts += outcome.num_cut_prompts
        kind: ConditionTally | DocumentTally
        if outcome.condition is None:
            kind = split.documents
            split.documents.num_documents += 1
        else:
            kind = split.conditions.setdefault(outcome.condition, ConditionTally())
            kind.num_conversations += 1
        for row in outcome.rows:
            num_learnt = num_supervised(row)
            for tally in (kind, source, split):
                tally.num_rows += 1
                tally.num_supervised_tokens += num_learnt
            split.num_tokens += len(row.input_ids)
            split.step_weight += float(row.loss_weights.sum(dtype=np.float64))
            split.longest_tokens = max(split.longest_tokens, len(row.input_ids))
