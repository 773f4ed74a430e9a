"""The table of commands. Each line names the module that holds one."""

import typer

from ochatctl.cli import (
    add_eot,
    bench,
    chat,
    data,
    doctor,
    families,
    keys,
    make_base,
    merge,
    plot,
    presets,
    push,
    quickstart,
    serve,
    tokens,
    train,
)


def register(app: typer.Typer) -> None:
    """Add every command to the root."""
    for module in (
        add_eot,
        bench,
        chat,
        data,
        doctor,
        families,
        keys,
        make_base,
        merge,
        plot,
        presets,
        push,
        quickstart,
        serve,
        tokens,
        train,
    ):
        module.register(app)
