"""The table of commands. Each line names the module that holds one."""

import typer

from ochatctl.cli import families, tokens


def register(app: typer.Typer) -> None:
    """Add every command to the root."""
    for module in (families, tokens):
        module.register(app)
