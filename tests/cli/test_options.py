"""Flags that mean one thing everywhere."""

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from ochatctl.cli import commands
from ochatctl.cli.app import OchatGroup


@pytest.fixture(scope="module")
def root() -> typer.Typer:
    app = typer.Typer(cls=OchatGroup)

    @app.callback()
    def nothing() -> None: ...

    commands.register(app)
    return app


def test_an_empty_out_is_refused_by_every_command_that_writes(root: typer.Typer) -> None:
    """As a path it is the current folder, which an unset variable does not mean."""
    found = []

    def walk(command: object, path: list[str]) -> None:
        for name, below in getattr(command, "commands", {}).items():
            walk(below, [*path, name])
        if any("--out" in param.opts for param in getattr(command, "params", ())):
            found.append(path)

    walk(get_command(root), [])
    assert len(found) > 10
    for path in found:
        for words in (["--out", ""], ["--out="]):
            done = CliRunner().invoke(root, [*path, *words])
            assert done.exit_code == 2, path
            assert done.stderr.startswith("error: `--out` is empty\n"), path
