"""The root command: global manners, the table of commands, and the mapping from errors to exit codes."""

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import typer

from ochatctl import __version__
from ochatctl.cli import output
from ochatctl.cli.options import CommandGroup
from ochatctl.errors import EnvironmentProblem, OchatError

_INTERRUPTED = 130
# What a machine may refuse to any command: no bug of ours, and a traceback helps nobody.
_REFUSED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EROFS: "the disk is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EISDIR: "is a folder",
    errno.EEXIST: "is a file, where a folder is to be made",
    errno.ENOTDIR: "lies below a file, not a folder",
}


class OchatGroup(CommandGroup):
    """Shows our own errors as `error:` and `hint:`; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OchatError as error:
            output.show_error(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader went away (`| head`); the interpreter must not complain at exit as well.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            problem = _refused(error)
            if problem is None:
                raise
            output.show_error(problem)
            raise typer.Exit(problem.exit_code) from error


def _refused(error: OSError) -> EnvironmentProblem | None:
    """Give our error for a file that the machine refuses; None for any other fault."""
    if error.errno not in _REFUSED or error.filename is None:
        return None
    return EnvironmentProblem(f"`{os.fsdecode(error.filename)}`: {_REFUSED[error.errno]}")


class RootGroup(OchatGroup):
    """All commands, in the order in which they are met."""

    chapters: ClassVar[Mapping[str, Sequence[str]]] = {
        "Begin": ("quickstart", "doctor"),
        "Prepare a base model and chats": ("make-base", "add-eot", "families", "data", "tokens"),
        "Train": ("train", "presets", "plot", "merge", "push"),
        "Serve and talk": ("serve", "keys", "chat"),
        "Measure": ("bench",),
    }


app = typer.Typer(
    name="ochatctl",
    cls=RootGroup,
    help="Turn chats into a served chat model.\n\nStart with `ochatctl quickstart`: the whole chain, on this machine.",
    epilog=output.examples("ochatctl quickstart", "ochatctl doctor", "ochatctl serve --model DIR"),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    # Nothing phones home unless the user has said that it may.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Several tokenizer threads in a process that forks would print warnings at every step.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    """Run the command line."""
    from ochatctl.cli import commands

    output.show_any_text()
    commands.register(app)
    app(prog_name="ochatctl")
