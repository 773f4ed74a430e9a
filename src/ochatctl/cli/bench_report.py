"""`ochatctl bench show`, `compare` and `list`: what scored runs say, and what they differ by."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import Json, OchatCommand, Quiet, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from ochatctl.bench.results import Result

_SHOW_EXAMPLES = (
    "ochatctl bench show runs/bench/mtbench-ours-1a2b3c4d",
    "ochatctl bench show RUN --out report.html",
    "ochatctl bench show RUN_1 RUN_2 --out scores.csv",
)
_COMPARE_EXAMPLES = ("ochatctl bench compare RUN_1 RUN_2", "ochatctl bench compare RUN_1 RUN_2 --out report.html")
_LIST_EXAMPLES = ("ochatctl bench list", "ochatctl bench list --json")

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A scored run: its folder.", show_default=False)]
_Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Scored runs: their folders.")]
_Report = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write it too, as its name says: .html, .md, .csv or .json."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("show", cls=OchatCommand, epilog=examples(*_SHOW_EXAMPLES))(show)
    app.command("compare", cls=OchatCommand, epilog=examples(*_COMPARE_EXAMPLES))(compare)
    app.command("list", cls=OchatCommand, epilog=examples(*_LIST_EXAMPLES))(list_all)


def show(runs: _Runs, out: _Report = None, yes: Yes = False, quiet: Quiet = False, json: Json = False) -> None:
    """Show the scores of runs, with their intervals and what could not be scored; with --out as a page or a table."""
    from ochatctl.bench.export import COLUMNS, rows
    from ochatctl.bench.results import read_result
    from ochatctl.bench.summary import summarise

    output = Output(as_json=json, quiet=quiet)
    results = [read_result(run) for run in runs]
    _write(results, out, output, yes=yes)
    summaries = [summarise(result) for result in results]
    if json:
        output.result(summaries, "")
        return
    for result, summary in zip(results, summaries, strict=True):
        judged = f", judged by {summary.judge}" if summary.judge else ""
        output.result(summary, f"{summary.model} on {summary.suite}: {summary.measure}{judged}")
        output.table(summary, COLUMNS, rows(summary))
        for note in summary.notes:
            output.note(note)
        _show_published(result, output)


def compare(
    first: _Run, second: _Run, out: _Report = None, yes: Yes = False, quiet: Quiet = False, json: Json = False
) -> None:
    """Say what the second run is better by, question by question, and whether that is more than noise."""
    from ochatctl.bench.export import DIFFERENCE_COLUMNS, difference_line, difference_rows
    from ochatctl.bench.results import read_result
    from ochatctl.bench.summary import compare as compare_results

    output = Output(as_json=json, quiet=quiet)
    results = [read_result(run) for run in (first, second)]
    comparison = compare_results(*results)
    _write(results, out, output, yes=yes)
    output.table(comparison, DIFFERENCE_COLUMNS, difference_rows(comparison))
    output.note(difference_line(comparison))


def list_all(json: Json = False) -> None:
    """List the data sets with their licences, which of them are here, and the scored runs below runs/bench."""
    from ochatctl.bench.inventory import inventory

    found = inventory()
    output = Output(as_json=json)
    if json:
        output.result(found, "")
        return
    output.table(found, ("data set", "here", "what", "from", "licence"), [
        (one.name, "yes" if one.is_here else "-", one.about, one.source, one.licence) for one in found.datasets
    ])  # fmt: skip
    if not all(one.is_here for one in found.datasets):
        output.note("`ochatctl bench download NAME...` gets those that are not here")
    if found.runs:
        output.table(found, ("run", "suite", "model", "judge", "score"), [
            (str(run.path), run.suite, run.model, run.judge or "-", run.score) for run in found.runs
        ])  # fmt: skip
    else:
        output.note("no scored run below runs/bench")
    if found.unscored:
        output.note(f"begun, and not scored yet: {', '.join(map(str, found.unscored))}")
    if found.num_unreadable:
        output.note(f"{found.num_unreadable} more below runs/bench cannot be read: damaged, or of a newer version")


def _write(results: "list[Result]", out: Path | None, output: Output, *, yes: bool) -> None:
    from ochatctl.bench.export import FORMATS
    from ochatctl.files import atomic_file, refuse_existing

    if out is None:
        return
    if out.suffix not in FORMATS:
        raise UsageProblem(
            f"`--out {out}` ends with none of {', '.join(f'`{suffix}`' for suffix in FORMATS)}",
            hint=f"--out {out.with_suffix('.html')}",
        )
    refuse_existing(out, yes=yes)
    with atomic_file(out) as part:
        part.write_text(FORMATS[out.suffix](results), encoding="utf-8")
    output.note(f"written: {out}")


def _show_published(result: "Result", output: Output) -> None:
    """Show what others published; a score by another judge stands in a column of its own."""
    from ochatctl.bench.export import published_table

    columns, rows, about = published_table(result)
    if rows:
        output.note(about)
        output.table(None, columns, rows)
