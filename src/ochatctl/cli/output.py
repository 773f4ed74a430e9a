"""The one place that prints: results on stdout, everything else on stderr."""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from ochatctl.errors import OchatError

_SECONDS_BETWEEN_LINES = 30.0


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
        typer.echo(
            json.dumps(_plain(value), ensure_ascii=False) if self.as_json else text if isinstance(text, str) else text()
        )

    def piece(self, text: str) -> None:
        """Print a part of the result as soon as it is there."""
        typer.echo(text, nl=False)

    def line(self, value: Any) -> None:
        """Print one record of a stream as a JSON line."""
        typer.echo(json.dumps(_plain(value), ensure_ascii=False))

    def table(self, value: Any, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under headings, or with `--json` the value."""
        if self.as_json:
            self.result(value, "")
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, box=box.SIMPLE)
        for row in rows:
            table.add_row(*row)
        # Off a terminal nothing is cut to a width that nobody has.
        Console(width=None if sys.stdout.isatty() else 10_000).print(table, markup=False)

    def confirm(self, question: str) -> bool | None:
        """Ask for a yes or no on the terminal; None where there is none."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        return typer.confirm(question, err=True)

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

        `beside` gives a text that stands beside the bar with the rate; off a terminal there are lines instead, a few.
        """
        if self.quiet or not sys.stderr.isatty():
            yield self._lines(label, total, beside) if beside is not None and not self.quiet else lambda count: None
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

    def _lines(self, label: str, total: int | None, beside: Callable[[], str]) -> Callable[[int], None]:
        """Give an `advance` that says every half minute how far it is."""
        started = said = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal said, done
            done += count
            now = time.monotonic()
            if now - said >= _SECONDS_BETWEEN_LINES:
                said = now
                rate = done / (now - started)
                left = f" of {total}, about {(total - done) / rate:.0f} s left" if total is not None else ""
                self.note(f"{label}: {done}{left}, {rate:.1f}/s {beside()}".rstrip())

        return advance


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
