"""`ochatctl keys`: make, list and revoke the keys of a server."""

from pathlib import Path
from typing import Annotated

import typer

from ochatctl.cli.options import CommandGroup, Json, OchatCommand
from ochatctl.cli.output import Output, examples

Name = Annotated[str, typer.Option("--name", help="Who has the key; stands in the request log.")]
File = Annotated[Path, typer.Option("--file", metavar="FILE.json", help="The keys file, for `serve --api-keys-file`.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="keys",
        cls=CommandGroup,
        help="Make, list and revoke API keys. A server with the file reads it again at SIGHUP.",
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog=examples(
            "ochatctl keys new --name alice --file keys.json", "ochatctl serve --model DIR --api-keys-file keys.json"
        ),
    )
    group.command(
        "new",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl keys new --name alice --file keys.json", "ochatctl keys new --name bob --file keys.json --json"
        ),
    )(new)
    group.command(
        "list",
        cls=OchatCommand,
        epilog=examples("ochatctl keys list --file keys.json", "ochatctl keys list --file keys.json --json"),
    )(list_keys)
    group.command(
        "revoke",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl keys revoke --name alice --file keys.json", "ochatctl keys revoke --name bob --file keys.json"
        ),
    )(revoke)
    app.add_typer(group)


def new(name: Name, file: File, json: Json = False) -> None:
    """Make a key and print it, once: the file keeps only its name and its SHA-256."""
    from ochatctl.serve.keys import new_key

    key = new_key(file, name)
    output = Output(as_json=json)
    output.result({"name": name, "key": key, "file": str(file)}, key)
    output.note(f"kept in {file} as a hash; a running server takes it in at SIGHUP")


def list_keys(file: File, json: Json = False) -> None:
    """List names and dates; no key can be got back."""
    from ochatctl.serve.keys import read_keys

    keys = read_keys(file)
    shown = [{"name": key.name, "created": key.created} for key in keys]
    Output(as_json=json).table(shown, ("name", "created"), [(key.name, key.created) for key in keys])


def revoke(name: Name, file: File) -> None:
    """Take a key away."""
    from ochatctl.serve.keys import revoke_key

    revoke_key(file, name)
    Output().note(f"`{name}` is gone from {file}; a running server forgets it at SIGHUP")
