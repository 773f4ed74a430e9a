"""Conversations -> token rows.

in: Encoded (one loss weight a token), out: Row (one label and one loss weight a position).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ochatctl.chat.template import Encoded

IGNORED_LABEL = -100


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
