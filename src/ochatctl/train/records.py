"""What the ranks tell the parent while they train, one JSON line each on their standard output."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from typing import Any

# Set by the parent, which then holds the other end of a rank's standard input for as long as it lives.
PARENT_HOLDS_STDIN = "OCHATCTL_PARENT_HOLDS_STDIN"
METRICS_FILE = "metrics.jsonl"
METRICS_FORMAT = "ochatctl-metrics"
METRICS_VERSION = 1
BAD_STEPS_FILE = "bad_steps.jsonl"
BAD_STEPS_FORMAT = "ochatctl-bad-steps"
BAD_STEPS_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """A rank runs, as this process of the parent's machine."""

    rank: int
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The ranks are about to take the first step; `ways` say how attention, loss and saving go, and why."""

    strategy: str
    num_parameters: int
    num_steps: int
    ways: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepped:
    """An optimizer step; these are the lines of `metrics.jsonl`.

    Units: `loss` is the weighted mean over all ranks, `class_losses` the same by condition, of the conditions that the
    step holds; `accuracy` is the ratio of supervised tokens that were the model's first guess; `grad_norm` is before
    clipping; `tokens` is of this step, over all ranks, and `tokens_per_second` of the last steps together; `seconds`
    since the first step began. `mfu` is None where a GPU's peak is not known; `memory_bytes` is the most that a rank
    has held so far; `stall_seconds` is how long a rank has waited for batches in this step, of `step_seconds`.
    """

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    seconds: float
    accuracy: float | None = None
    class_losses: dict[str, float] = field(default_factory=dict)
    mfu: float | None = None
    memory_bytes: int = 0
    eta_seconds: float = 0.0
    step_seconds: float = 0.0
    stall_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The held-out rows' loss after a step; a line of `metrics.jsonl` as well.

    Units: as in `Stepped`; `eval_loss` is None where it is not finite; `tokens` are the supervised ones; `seconds` is
    what it took.
    """

    step: int
    epoch: int
    num_epochs: int
    eval_loss: float | None
    eval_accuracy: float
    class_losses: dict[str, float]
    class_accuracies: dict[str, float]
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A checkpoint is whole under its final name."""

    epoch: int
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """The ranks go on after this step, from this checkpoint, which took so long to read."""

    step: int
    path: str
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeSaved:
    """A resume checkpoint is whole under its final name."""

    step: int
    path: str
    num_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveFailed:
    """Something could not be written; what was written before it stays, and training goes on."""

    step: int
    what: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A step was not taken, since its loss or its gradient is not finite; `loss` and `grad_norm` are in words.

    `is_overflow` where the gradient was beyond float16, and the scale of the loss is lowered: no fault.
    """

    step: int
    loss: str
    grad_norm: str
    in_a_row: int
    is_overflow: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StopAsked:
    """The parent has told the ranks to save and stop; it says so itself."""

    signal: str
    grace_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """The ranks have agreed to save and stop after this step."""

    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """The ranks have stopped before the end. `path` is this step's checkpoint; empty: it could not be saved."""

    step: int
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A rank met an error of ours and stops; `kind` is the class's name."""

    rank: int
    kind: str
    message: str
    hint: str


Record = (
    Joined
    | Started
    | Resumed
    | Stepped
    | Evaluated
    | Skipped
    | Saved
    | ResumeSaved
    | SaveFailed
    | StopAsked
    | Stopping
    | Stopped
    | Failed
)
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in typing.get_args(Record)}
_START = '{"ochatctl": '


def to_line(record: Record) -> str:
    """Give a record as one line."""
    return json.dumps({"ochatctl": type(record).__name__, **dataclasses.asdict(record)}) + "\n"


def from_line(line: str) -> Record | None:
    """Give the record that a line holds, or None where it is a line of somebody else's log."""
    if not line.startswith(_START):
        return None
    try:
        table = json.loads(line)
        kind = _KINDS[table.pop("ochatctl")]
        # JSON has no tuples, and records have no lists.
        record: Record = kind(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        )
    except (ValueError, KeyError, TypeError):
        return None  # two ranks' writes ran into each other: shown with the log
    return record
