"""`ochatctl plot`."""

from pathlib import Path
from typing import Annotated

import typer

from ochatctl.cli.options import Json, OchatCommand, Quiet, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.files import refuse_existing


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "plot",
        cls=OchatCommand,
        epilog=examples("ochatctl plot run", "ochatctl plot run other-run --out compared.png"),
    )(plot)


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="What `train --out` was given.")],
    out: Annotated[Path | None, typer.Option("--out", help="The PNG; default: `DIR/metrics.png` of the first.")] = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Draw the loss, learning rate, gradient norm and throughput of training runs to a PNG."""
    from ochatctl.train.plot import plot_runs

    path = out or runs[0] / "metrics.png"
    refuse_existing(path, yes=yes)
    result = plot_runs(runs, path)
    Output(as_json=json, quiet=quiet).result(result, str(result.path))
