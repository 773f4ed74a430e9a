"""How the commands of `ochatctl bench` that ask a model end: what is shown, and the line that goes on."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ochatctl.cli.options import command_line
from ochatctl.cli.output import Output
from ochatctl.errors import DataError, RemoteError, RunError

if TYPE_CHECKING:
    from ochatctl.bench.judged import JudgedReport


@contextlib.contextmanager
def resumable(ctx: typer.Context, output: Output) -> Iterator[None]:
    """Let a run that is cut short end in the line that resumes it."""
    resume = f"what came is kept, and the same command goes on: {command_line(ctx)}"
    try:
        yield
    except (RemoteError, RunError) as error:
        raise type(error)(error.message, hint=f"{error.hint}; {resume}" if error.hint else resume) from error
    except KeyboardInterrupt:
        output.note(resume)
        raise


def show_judged(ctx: typer.Context, output: Output, report: "JudgedReport", measure: str) -> None:
    """Show what came of answers and, where a judge has read them, its scores; the last line says how to go on.

    Raises: as `end` does.
    """
    answered = f"{report.num_answered} of {report.num_questions} questions answered: {report.answers}"
    if report.judge is None:
        output.result(report, answered)
    else:
        from ochatctl.bench.export import COLUMNS, rows
        from ochatctl.bench.results import read_result
        from ochatctl.bench.summary import summarise

        output.table(report, COLUMNS, rows(summarise(read_result(report.out_dir))))
        output.note(answered)
        output.note(f"judgments: {report.judgments}; `ochatctl bench show {report.out_dir}` shows this again")
    for note in report.notes:
        output.note(note)
    end(ctx, output, report.journal, report.errors, report.judge_errors)
    if report.judge is None:
        output.note(f"no judge was asked, so there is no {measure}; this asks one: {command_line(ctx)} --judge NAME")


def end(
    ctx: typer.Context,
    output: Output,
    journal: Path | None,
    errors: Sequence[str],
    judge_errors: Sequence[str] = (),
) -> None:
    """Say where the answers are and how to go on.

    Raises:
        RemoteError: questions have no answer, or answers no judgment, and may have one the next time.
        DataError: the only questions without an answer do not fit the model.
    """
    resume = command_line(ctx)
    misfits = [error for error in errors if ": DataError: " in error]
    if misfits and len(misfits) == len(errors) and not judge_errors:
        raise DataError(
            f"{_count(misfits, 'question')} cannot be asked of this model, and stand outside its scores; the first: "
            f"{misfits[0].replace(': DataError: ', ': ')}",
            hint="a model with a longer context; the scores of all others stand",
        )
    lacking = [f"{_count(errors, 'question')} without an answer"] if errors else []
    lacking += [f"{_count(judge_errors, 'answer')} without a judgment"] if judge_errors else []
    if lacking:
        first = (*errors, *judge_errors)[0]
        raise RemoteError(
            f"{' and '.join(lacking)}; the same command asks only for what is missing; the first: {first}", hint=resume
        )
    if journal is not None:
        output.note(f"journal: {journal}; the same command resumes it: {resume}")


def _count(items: Sequence[str], name: str) -> str:
    return f"{len(items)} {name}{'' if len(items) == 1 else 's'}"
