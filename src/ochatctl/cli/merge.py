"""`ochatctl merge`."""

import shlex
from typing import Annotated

import typer

from ochatctl.cli.options import Json, OchatCommand, Out, Quiet, TrustRemoteCode, Yes
from ochatctl.cli.output import Output, examples


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "merge",
        cls=OchatCommand,
        epilog=examples("ochatctl merge run --out merged", "ochatctl merge run/ep_2 --base BASE --out merged"),
    )(merge)


def merge(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="A folder or hub id of adapters, or a training run's folder.")
    ],
    out: Out,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="DIR|HUB_ID", help="The model they go with; default: as they say."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge the adapters of a finished LoRA into their base: one model, as any other."""
    from ochatctl.memory import size_text
    from ochatctl.train.merge import merge as run

    output = Output(as_json=json, quiet=quiet)
    done = run(adapter, out, base=base, yes=yes, trust_remote_code=trust_remote_code)
    output.result(
        done,
        f"wrote {done.out}: {done.num_layers} adapters of {done.adapter} merged into {done.base}, {done.family}, "
        f"{done.dtype}, {size_text(done.num_bytes)}\ngo on with: ochatctl serve --model {shlex.quote(str(done.out))}",
    )
