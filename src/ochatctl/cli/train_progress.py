"""What `ochatctl train` shows while it runs: a bar with its figures on a terminal, about ten plain lines off one."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ochatctl.cli.output import Output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ochatctl.train.records import Evaluated, Record, Stepped

_PLAIN_LINES = 10
_GAP = "  "


@contextlib.contextmanager
def progress(output: Output, num_steps: int) -> "Iterator[Callable[[Record], None]]":
    """Show the ranks' records."""
    if output.quiet:
        yield lambda record: None
    elif sys.stderr.isatty():
        with _bar(num_steps) as show:
            yield show
    else:
        yield _plain_lines(output, num_steps)


def _plain_lines(output: Output, num_steps: int) -> "Callable[[Record], None]":
    from ochatctl.train.records import Started, Stepped

    every = -(-num_steps // _PLAIN_LINES)

    def show(record: "Record") -> None:
        if isinstance(record, Started):
            output.note(f"{record.strategy}, {record.num_parameters:,} parameters: the ranks are ready")
            for way in record.ways:
                output.note(way)
        if event := event_text(record):
            output.note(event)
        if isinstance(record, Stepped) and (record.step in (1, num_steps) or record.step % every == 0):
            figures = _GAP.join([*step_figures(record), f"ETA {duration(record.eta_seconds)}"])
            output.note(f"step {record.step}/{num_steps}  epoch {record.epoch}/{record.num_epochs}  {figures}")

    return show


@contextlib.contextmanager
def _bar(num_steps: int) -> "Iterator[Callable[[Record], None]]":
    from rich.console import Console
    from rich.live import Live

    from ochatctl.train.records import Evaluated, Started, Stepped

    console = Console(stderr=True)
    bar = _Bar(console, num_steps)
    with Live(bar, console=console, refresh_per_second=4) as live:

        def show(record: "Record") -> None:
            match record:
                case Started():
                    bar.title = f"{record.strategy}, {record.num_parameters:,} parameters: the ranks are ready"
                    for way in record.ways:
                        live.console.print(way, markup=False, highlight=False, soft_wrap=True)
                case Stepped():
                    bar.last = record
                case Evaluated():
                    bar.evaluated = record
            if event := event_text(record):
                live.console.print(event, markup=False, highlight=False, soft_wrap=True)
            live.update(bar)

        yield show


class _Bar:
    """A line with the bar, and below it as many figures as fit a line, on as many lines as they take."""

    def __init__(self, console: "Console", num_steps: int) -> None:
        self._console, self._num_steps = console, num_steps
        self.title = "starting the ranks"
        self.last: Stepped | None = None
        self.evaluated: Evaluated | None = None

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        step = self.last.step if self.last else 0
        left, right = f"step {step}/{self._num_steps}", ""
        if self.last:
            left = f"epoch {self.last.epoch}/{self.last.num_epochs}{_GAP}{left}"
            right = f"{step / self._num_steps:4.0%}  ETA {duration(self.last.eta_seconds)}"
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        line.add_row(left, ProgressBar(total=self._num_steps, completed=step), right)
        figures = [self.title] if self.last is None else step_figures(self.last)
        if self.evaluated is not None:
            figures.append(f"eval {_loss(self.evaluated.eval_loss)} (step {self.evaluated.step})")
        texts = fitted(figures, self._console.width)
        return Group(line, *(Text(text, no_wrap=True, overflow="ellipsis") for text in texts))


def fitted(figures: Sequence[str], width: int) -> list[str]:
    """Give figures on as few lines as they fit on, none torn apart."""
    lines: list[str] = []
    for figure in figures:
        if lines and len(lines[-1]) + len(_GAP) + len(figure) <= width:
            lines[-1] += _GAP + figure
        else:
            lines.append(figure)
    return lines


def step_figures(record: "Stepped") -> list[str]:
    """Give what a step is told by, the most important first."""
    classes = _by_class(record.class_losses, "{:.4f}")
    return [
        f"loss {record.loss:.4f}{classes}",
        *([f"acc {record.accuracy:.1%}"] if record.accuracy is not None else []),
        f"lr {record.lr:.2e}",
        f"norm {record.grad_norm:.2f}",
        f"{record.tokens_per_second:,.0f} tokens/s",
        *([f"MFU {record.mfu:.1%}"] if record.mfu is not None else []),
        f"mem {_size(record.memory_bytes)}",
        # Worth a place only where it is more than a rounding error.
        *([f"stalled {_stall_ratio(record):.0%}"] if _stall_ratio(record) >= 0.01 else []),
    ]


def _stall_ratio(record: "Stepped") -> float:
    return record.stall_seconds / record.step_seconds if record.step_seconds else 0.0


def _by_class(values: Mapping[str, float], form: str) -> str:
    """Give values by class in brackets; one class alone says nothing new."""
    if len(values) < 2:
        return ""
    return " (" + ", ".join(f"{name} {form.format(value)}" for name, value in values.items()) + ")"


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Give a time as `1d 02:03`, `2:03:04` or `3:04`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def event_text(record: "Record") -> str:
    """Give a line for what happens once in a while."""
    from ochatctl.train import records

    match record:
        case records.Evaluated():
            classes = _by_class(record.class_losses, "{:.4f}")
            loss = f"eval loss {_loss(record.eval_loss)}{classes}"
            return f"step {record.step}  {loss}  acc {record.eval_accuracy:.1%}  {record.seconds:.1f} s"
        case records.Saved():
            return f"saved: {record.path}"
        case records.ResumeSaved():
            return f"step {record.step}  resume checkpoint, {_size(record.num_bytes)} in {record.seconds:.1f} s"
        case records.Skipped(is_overflow=True):
            return (
                f"step {record.step} is skipped: its gradient is beyond float16; the loss is scaled by half of it now"
            )
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
            return f"going on after step {record.step}; its checkpoint was read in {record.seconds:.1f} s"
        case records.Stopping():
            return f"step {record.step} is done; saving"
    return ""
