"""Steps that cannot be taken, and memory that is not there."""

import contextlib
import json
import math
from collections.abc import Iterator

import torch

from ochatctl.errors import RunError
from ochatctl.train.config import TrainConfig
from ochatctl.train.course import PlannedStep
from ochatctl.train.ranks import Ranks
from ochatctl.train.records import BAD_STEPS_FILE, BAD_STEPS_FORMAT, BAD_STEPS_VERSION, Skipped


class BadSteps:
    """Counts the steps in a row whose loss or gradient is not finite, and writes down their rows."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        self._path = config.out_dir / BAD_STEPS_FILE
        self._max = config.max_bad_steps
        self._writes = ranks.is_first
        self.in_a_row = 0

    def see(self, planned: PlannedStep, *, loss: float, grad_norm: float, is_overflow: bool = False) -> Skipped | None:
        """Give what to report of a step that was skipped; None where all is well.

        A gradient beyond float16, with a loss that is finite, is no fault and is not counted.

        Raises:
            RunError: too many in a row.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.in_a_row = 0
            return None
        if is_overflow and math.isfinite(loss):
            return Skipped(step=planned.step, loss=str(loss), grad_norm=str(grad_norm), in_a_row=0, is_overflow=True)
        self.in_a_row += 1
        rows = [row for rows in planned.bins for row in rows]
        if self._writes:
            self._write(planned, rows, loss, grad_norm)
        if self.in_a_row >= self._max:
            shown = ", ".join(str(row) for row in rows[:20]) + (f" and {len(rows) - 20} more" if rows[20:] else "")
            raise RunError(
                f"step {planned.step}: the loss is {loss} and its gradient's norm {grad_norm}, "
                f"{self.in_a_row} times in a row; rows {shown}",
                hint=f"lower `--lr`, or look at the rows that `{self._path}` names",
            )
        return Skipped(step=planned.step, loss=str(loss), grad_norm=str(grad_norm), in_a_row=self.in_a_row)

    def _write(self, planned: PlannedStep, rows: list[int], loss: float, grad_norm: float) -> None:
        table = {"step": planned.step, "epoch": planned.epoch + 1, "loss": str(loss), "grad_norm": str(grad_norm)}
        is_new = not self._path.exists()
        with self._path.open("a", encoding="utf-8") as file:
            if is_new:
                file.write(json.dumps({"format": BAD_STEPS_FORMAT, "version": BAD_STEPS_VERSION}) + "\n")
            file.write(json.dumps({**table, "rows": rows}) + "\n")


# What libraries say on a GPU without room, beside torch's own error: the driver and NCCL, cuBLAS, cuDNN.
_NO_MEMORY = (
    "out of memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed", "failed to cuda calloc",
    "failed to cuda malloc",
)  # fmt: skip
_NO_MAIN_MEMORY = ("defaultcpuallocator: can't allocate memory", "defaultcpuallocator: not enough memory")
# Triton's: a kernel that takes more shared memory than this GPU has.
_NO_RESOURCE = ("out of resource",)
_MAX_REASON_CHARS = 200


@contextlib.contextmanager
def memory_hints(config: TrainConfig, doing: str) -> Iterator[None]:
    """Say what to lower where memory runs out, whoever says so.

    Raises:
        RunError: it has run out.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).lower()
        is_memory = isinstance(error, torch.OutOfMemoryError) or any(words in said for words in _NO_MEMORY)
        is_main_memory = any(words in said for words in _NO_MAIN_MEMORY)
        is_resource = any(words in said for words in _NO_RESOURCE)
        if not (is_memory or is_main_memory or is_resource):
            raise
        which = "main memory" if is_main_memory else "shared memory of a GPU" if is_resource else "GPU memory"
        hint = "leave out `--compile`" if is_resource and config.compile else _what_to_lower(config)
        raise RunError(f"out of {which} {doing}: {_reason(error)}", hint=hint) from error


def _reason(error: RuntimeError) -> str:
    """Give the line that says it, of an error that may bring a traceback or advice of its own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = (line for line in lines if any(w in line.lower() for w in (*_NO_MEMORY, *_NO_MAIN_MEMORY, *_NO_RESOURCE)))
    line = next(telling, lines[0] if lines else type(error).__name__).split(". ", 1)[0]
    return line if len(line) <= _MAX_REASON_CHARS else line[:_MAX_REASON_CHARS] + "..."


def _what_to_lower(config: TrainConfig) -> str:
    words = [f"lower `--batch-tokens` (now {config.batch_tokens})"]
    if config.recompute != "full":
        words.append("`--ac full`, which keeps fewer activations")
    if config.strategy == "deepspeed" and config.zero_stage < 3:
        words.append("`--zero 3`, which shards the weights as well")
    words.append("use more GPUs" if config.device == "cuda" else "use a machine with more memory")
    return ", or ".join(words)
