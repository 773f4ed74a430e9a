"""What `ochatctl train` shows of a run: its progress, what goes wrong on the way, and how it ended."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ochatctl.cli.output import Output
from ochatctl.errors import RunError

if TYPE_CHECKING:
    from ochatctl.train.launch import TrainResult
    from ochatctl.train.records import Record

_PLAIN_LINES = 10


def describe_end(result: "TrainResult", again: str) -> str:
    """Say how a run ended; `again` is the command that goes on with it."""
    failed = "".join(f"not saved: {what}\n" for what in result.failed_saves)
    if result.stopped_at is not None:
        saved = f"saved in {result.resume_path}" if result.resume_path else "this step could not be saved"
        return (
            f"{failed}stopped after step {result.stopped_at}, loss {result.last_loss:.4f}; {saved}\ngo on with: {again}"
        )
    speed = f"{result.seconds:.1f} s, {result.tokens_per_second:.0f} tokens/s"
    loss = f"loss {result.first_loss:.4f} -> {result.last_loss:.4f} in {result.num_steps} steps, {speed}"
    model = result.checkpoints[-1] if result.checkpoints else "no model was saved"
    return f"{failed}{loss}\n{model}" + (f"\ngo on with: ochatctl chat --model {model}" if result.checkpoints else "")


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


@contextlib.contextmanager
def progress(output: Output, num_steps: int) -> "Iterator[Callable[[Record], None]]":
    """Show the ranks' records: a bar on a terminal, about ten lines off one."""
    from ochatctl.train.records import Started

    if output.quiet:
        yield lambda record: None
    elif sys.stderr.isatty():
        with _bar(num_steps) as show:
            yield show
    else:
        every = -(-num_steps // _PLAIN_LINES)

        def show_line(record: "Record") -> None:
            if isinstance(record, Started):
                output.note(f"{record.strategy}, {record.num_parameters:,} parameters: the ranks are ready")
            if event := _event_text(record):
                output.note(event)
            text = _step_text(record)
            step = getattr(record, "step", 0)
            if text and (step == 1 or step % every == 0 or step == num_steps):
                output.note(f"step {step}/{num_steps}  {text}")

        yield show_line


@contextlib.contextmanager
def _bar(num_steps: int) -> "Iterator[Callable[[Record], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting the ranks", total=num_steps)

        def show(record: "Record") -> None:
            text = _step_text(record)
            if event := _event_text(record):
                bar.console.print(event, markup=False, highlight=False)
            if text:
                bar.update(task, completed=getattr(record, "step", 0), description=text)

        yield show


def _step_text(record: "Record") -> str:
    from ochatctl.train.records import Stepped

    if not isinstance(record, Stepped):
        return ""
    return (
        f"epoch {record.epoch}/{record.num_epochs}  loss {record.loss:.4f}  lr {record.lr:.2e}  "
        f"norm {record.grad_norm:.2f}  {record.tokens_per_second:.0f} tokens/s"
    )


def _event_text(record: "Record") -> str:
    """Give a line for what happens once in a while."""
    from ochatctl.train import records

    match record:
        case records.Skipped():
            return (
                f"step {record.step} is skipped: loss {record.loss}, gradient norm {record.grad_norm}; its rows are in "
                f"{records.BAD_STEPS_FILE}"
            )
        case records.SaveFailed():
            return f"NOT SAVED: {record.what} at step {record.step}: {record.reason}; training goes on"
        case records.StopAsked():
            more = "; Ctrl-C again ends at once" if record.signal == "SIGINT" else ""
            return f"{record.signal}: saving after this step, within {record.grace_seconds:g} s{more}"
        case records.Resumed():
            return f"going on after step {record.step}"
        case records.Stopping():
            return f"step {record.step} is done; saving"
    return ""
