"""What `ochatctl train` says of how a run ended."""

import shlex
from typing import TYPE_CHECKING

from ochatctl.errors import RunError

if TYPE_CHECKING:
    from ochatctl.train.launch import TrainResult

# A loader that keeps up stays below.
_WORTH_SAYING = 0.01


def describe_end(result: "TrainResult", again: str) -> str:
    """Say how a run ended; `again` is the command that goes on with it."""
    failed = "".join(f"not saved: {what}\n" for what in result.failed_saves)
    if result.stopped_at is not None:
        saved = f"saved in {result.resume_path}" if result.resume_path else "this step could not be saved"
        return (
            f"{failed}stopped after step {result.stopped_at}, loss {result.last_loss:.4f}; {saved}\ngo on with: {again}"
        )
    speed = f"{result.seconds:.1f} s, {result.tokens_per_second:.0f} tokens/s"
    evaluated = "" if result.eval_loss is None else f", eval loss {result.eval_loss:.4f}"
    stalled = f", {result.stall_ratio:.0%} of it waiting for data" if result.stall_ratio >= _WORTH_SAYING else ""
    loss = f"loss {result.first_loss:.4f} -> {result.last_loss:.4f}{evaluated} in {result.num_steps} steps"
    model = result.checkpoints[-1] if result.checkpoints else "no model was saved"
    return f"{failed}{loss}, {speed}{stalled}\n{model}" + (
        f"\ngo on with: ochatctl chat --model {shlex.quote(str(model))}" if result.checkpoints else ""
    )


def end_as(result: "TrainResult", again: str) -> None:
    """End the command otherwise than well, where the run did.

    Raises:
        RunError: something that was asked for is not saved.
        KeyboardInterrupt: Ctrl-C stopped it.
    """
    if result.stopped_at is not None and result.resume_path is None:
        raise RunError(f"stopped after step {result.stopped_at}, which could not be saved", hint=again)
    if result.signal == "SIGINT":
        raise KeyboardInterrupt
    if result.missing_models:
        names = ", ".join(f"`{path.name}`" for path in result.missing_models)
        raise RunError(f"the run has ended, and {names} could not be saved", hint="make room before the next run")
