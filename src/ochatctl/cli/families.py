"""`ochatctl families`."""

from typing import Annotated

import typer

from ochatctl.cli.options import Json, OchatCommand
from ochatctl.cli.output import Output, examples


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "families",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl families", "ochatctl families --show openchat_v3.2 > mine.toml", "ochatctl families --json"
        ),
    )(families)


def families(
    show: Annotated[
        str | None, typer.Option("--show", metavar="NAME", help="Print one as TOML, to copy and change.")
    ] = None,
    json: Json = False,
) -> None:
    """List the chat templates that are known, or print one."""
    from ochatctl.chat.families import FAMILIES, get_family
    from ochatctl.config import to_table, to_toml

    output = Output(as_json=json)
    if show is not None:
        table = to_table(get_family(show))
        output.result(table, lambda: to_toml(table))
        return
    rows = [
        (f.name, ", ".join(f.aliases), f.template.inference_condition or "-", str(f.context_tokens), f.template.eot)
        for f in FAMILIES.values()
    ]
    output.table(
        [to_table(f) for f in FAMILIES.values()], ("family", "aliases", "condition", "context", "end of turn"), rows
    )
