"""The one place that prints: results on stdout, everything else on stderr."""

import codecs
import contextlib
import dataclasses
import io
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from ochatctl.errors import OchatError

# Off a terminal, where a log is read: soon enough to see that something goes on, and then not often.
_SECONDS_TO_FIRST_LINE, _SECONDS_BETWEEN_LINES = 10.0, 30.0


def examples(*lines: str) -> str:
    """Give the epilog of a command's help: two or three lines to type."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


def show_error(error: OchatError) -> None:
    """Print an error as `error: ...` and `hint: ...`."""
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """How one call prints."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def note(self, text: str) -> None:
        """Say something that is not the result."""
        if not self.quiet:
            typer.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Say something that only `--verbose` wants."""
        if self.verbose:
            self.note(text)

    def result(self, value: Any, text: Callable[[], str] | str) -> None:
        """Print the result: the text, or with `--json` the value (a dataclass, a list or a dict)."""
        typer.echo(_json(value) if self.as_json else text if isinstance(text, str) else text())

    def piece(self, text: str) -> None:
        """Print a part of the result as soon as it is there."""
        typer.echo(text, nl=False)

    def line(self, value: Any) -> None:
        """Print one record of a stream as a JSON line."""
        typer.echo(_json(value))

    def table(self, value: Any, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under headings, if these say anything, or with `--json` the value."""
        if self.as_json:
            self.result(value, "")
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE, show_header=any(columns))
        for column in columns:
            table.add_column(column, overflow="fold")  # what is cut off could not be typed
        for row in rows:
            table.add_row(*row)
        # Off a terminal nothing is cut to a width that nobody has.
        Console(width=None if sys.stdout.isatty() else 10_000).print(table, markup=False)

    def confirm(self, question: str) -> bool | None:
        """Ask for a yes or no on the terminal; None where there is none."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        with _interruptible():
            try:
                return typer.confirm(question, err=True)
            except typer.Abort:
                typer.echo(err=True)
                raise KeyboardInterrupt from None

    @contextlib.contextmanager
    def progress(
        self,
        label: str,
        total: int | None = None,
        *,
        of_bytes: bool = False,
        beside: Callable[[], str] | None = None,
    ) -> Iterator[Callable[[int], None]]:
        """Give `advance(count)`: a bar on a terminal, silence off one or with `--quiet`; `of_bytes` shows the speed.

        `beside` gives a text that stands beside the bar with the rate; off a terminal there are lines instead, a few,
        and the first after some seconds, whether anything has advanced by then or not.
        """
        if self.quiet or (beside is None and not sys.stderr.isatty()):
            yield lambda count: None
            return
        if beside is not None and not sys.stderr.isatty():
            with self._lines(label, total, beside) as advance:
                yield advance
            return
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = [*Progress.get_default_columns(), *([DownloadColumn(), TransferSpeedColumn()] if of_bytes else [])]
        if beside is not None:
            columns.append(TextColumn("{task.fields[beside]}"))
        started = time.monotonic()
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total, beside=beside() if beside is not None else "")

            def advance(count: int) -> None:
                bar.update(task, advance=count)
                if beside is not None:
                    rate = bar.tasks[task].completed / max(time.monotonic() - started, 1e-9)
                    bar.update(task, beside=f"{rate:.1f}/s {beside()}")

            yield advance

    @contextlib.contextmanager
    def _lines(self, label: str, total: int | None, beside: Callable[[], str]) -> Iterator[Callable[[int], None]]:
        """Give an `advance`; how far it is, is said now and then, however long nothing advances."""
        started = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count

        def say() -> None:
            passed = time.monotonic() - started
            of_all = f" of {total}" if total is not None else ""
            left = f", about {(total - done) * passed / done:.0f} s left" if total is not None and done else ""
            self.note(f"{label}: {done}{of_all} after {passed:.0f} s{left} {beside()}".rstrip())

        with regularly(say, first_seconds=_SECONDS_TO_FIRST_LINE, then_seconds=_SECONDS_BETWEEN_LINES):
            yield advance


@contextlib.contextmanager
def regularly(say: Callable[[], None], *, first_seconds: float, then_seconds: float) -> Iterator[None]:
    """Call `say` from a thread, the first time after `first_seconds`, until the block ends."""
    ended = threading.Event()

    def work() -> None:
        wait_seconds = first_seconds
        while not ended.wait(wait_seconds):
            wait_seconds = then_seconds
            # What cannot be written any more, as where the log is closed, ends nothing.
            with contextlib.suppress(OSError, ValueError):
                say()

    thread = threading.Thread(target=work, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question that is asked inside a coroutine: asyncio would wait for the answer first."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def show_any_text() -> None:
    """Have a terminal or a file that cannot show a character show its code instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _json(value: Any) -> str:
    # JSON has escapes of its own.
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    return json.dumps(_plain(value), ensure_ascii=not is_utf8)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
