"""Errors become exit codes with a hint; list options take several values."""

import errno
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ochatctl import errors
from ochatctl.cli import commands
from ochatctl.cli.app import OchatGroup
from ochatctl.cli.options import OchatCommand

EXIT_CODES = {
    errors.UsageProblem: 2,
    errors.ConfigError: 3,
    errors.DataError: 4,
    errors.EnvironmentProblem: 5,
    errors.MissingExtra: 5,
    errors.RemoteError: 6,
    errors.RunError: 7,
}


def app_that(raises: BaseException) -> typer.Typer:
    app = typer.Typer(cls=OchatGroup)

    @app.callback()
    def root() -> None: ...

    @app.command()
    def act() -> None:
        raise raises

    return app


@pytest.mark.parametrize("error", EXIT_CODES)
def test_each_error_has_its_exit_code_and_shows_its_hint(error: type[errors.OchatError]) -> None:
    done = CliRunner().invoke(app_that(error("`x` is bad", hint="do `y`")), ["act"])
    assert done.exit_code == EXIT_CODES[error]
    assert done.stderr == "error: `x` is bad\nhint: do `y`\n"
    assert done.stdout == ""


def test_control_c_is_130() -> None:
    assert CliRunner().invoke(app_that(KeyboardInterrupt()), ["act"]).exit_code == 130


def test_what_the_machine_refuses_is_no_bug_of_ours(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        tmp_path.read_text(encoding="utf-8")
    for refused, message in (
        (caught.value, f"`{tmp_path}`: is a folder"),
        (PermissionError(errno.EACCES, "x", "out/run.json"), "`out/run.json`: permission denied"),
        (OSError(errno.ENOSPC, "x", b"out/run.json"), "`out/run.json`: the disk is full"),
    ):
        done = CliRunner().invoke(app_that(refused), ["act"])
        assert (done.exit_code, done.stderr) == (5, f"error: {message}\n")
    # Of a fault without a file nobody can say what to do.
    assert CliRunner().invoke(app_that(OSError(errno.EACCES, "x")), ["act"]).exit_code == 1
    assert CliRunner().invoke(app_that(FileNotFoundError(errno.ENOENT, "x", "gone")), ["act"]).exit_code == 1


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    done = CliRunner().invoke(app_that(ZeroDivisionError()), ["act"])
    assert done.exit_code == 1
    assert isinstance(done.exception, ZeroDivisionError)


def test_every_error_keeps_its_hint_across_a_process() -> None:
    import pickle

    for kind in EXIT_CODES:
        back = pickle.loads(pickle.dumps(kind("m", hint="h")))
        assert (type(back), back.message, back.hint) == (kind, "m", "h")


LISTS = [
    ("--keys a b --port 1", ["a", "b"], 1),
    ("--keys a --keys b", ["a", "b"], 0),
    ("--keys=a --port 1", ["a"], 1),
    ("--keys --port 1", [], 1),
    ("--keys", [], 0),
    ("", [], 0),
    ("--port 1 --keys a b c", ["a", "b", "c"], 1),
    ("-k a b", ["a", "b"], 0),
]


@pytest.mark.parametrize(("line", "keys", "port"), LISTS)
def test_a_list_option_takes_one_several_or_no_values(line: str, keys: list[str], port: int) -> None:
    app = typer.Typer()
    seen: list[tuple[list[str], int]] = []

    @app.command(cls=OchatCommand)
    def act(keys: Annotated[list[str] | None, typer.Option("--keys", "-k")] = None, port: int = 0) -> None:
        seen.append((keys or [], port))

    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 0, done.output
    assert seen == [(keys, port)]


def test_with_positionals_a_list_option_takes_one_value_at_a_time() -> None:
    app = typer.Typer()
    seen: list[tuple[str, list[str]]] = []

    @app.command(cls=OchatCommand)
    def act(name: str, keys: Annotated[list[str] | None, typer.Option("--keys")] = None) -> None:
        seen.append((name, keys or []))

    assert CliRunner().invoke(app, ["--keys", "a", "b"]).exit_code == 0
    assert seen == [("b", ["a"])]


def test_the_help_of_each_group_says_what_its_commands_do_in_whole_sentences() -> None:
    app = typer.Typer(name="ochatctl", cls=OchatGroup, rich_markup_mode=None)
    app.callback()(lambda: None)
    commands.register(app)
    for group in ("bench", "data", "keys"):
        lines = CliRunner().invoke(app, [group, "--help"]).stdout.partition("Commands:")[2].splitlines()
        assert len(lines) > 5, group
        assert not [line for line in lines if line.endswith("...")], group
