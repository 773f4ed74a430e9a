"""The flags that mean one thing everywhere, and the classes of commands and of groups of them."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from ochatctl.cli.help import HelpGroup, HelpText, help_record
from ochatctl.errors import UsageProblem

Model = Annotated[
    str, typer.Option("--model", metavar="DIR|HUB_ID", help="A model folder, or a hub id `owner/name[@revision]`.")
]
MaybeModel = Annotated[
    str | None,
    typer.Option("--model", metavar="DIR|HUB_ID", help="A model folder, or a hub id `owner/name[@revision]`."),
]
MaybeFamily = Annotated[
    str | None,
    typer.Option(
        "--family",
        "--model-type",
        metavar="NAME|FILE.toml",
        help="The chat template; default: what the model folder says.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Where the result is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
Yes = Annotated[bool, typer.Option("--yes", help="Overwrite what exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything up to the first side effect.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Take only the first N.")]
Condition = Annotated[
    str, typer.Option("--condition", help="The condition; default: the family's inference condition.")
]
System = Annotated[str, typer.Option("--system", help="A system message.")]
BaseUrl = Annotated[str | None, typer.Option("--base-url", help="An OpenAI-compatible endpoint.")]
ModelName = Annotated[str | None, typer.Option("--model-name", help="The endpoint's model; default: its only one.")]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="OCHATCTL_API_KEY", help="Key for the endpoint; sent nowhere else."),
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a model folder brings.")]

MaybeOut = Annotated[Path | None, typer.Option("--out", help="Where the result is written; default: `runs/...`.")]
EngineName = Annotated[
    Literal["auto", "vllm", "hf", "echo"],
    typer.Option("--engine", help="What draws the answers; `auto`: vLLM where it can run, else the embedded one."),
]

DEFAULT_PORT = 18888
DEFAULT_BASE_URL = f"http://localhost:{DEFAULT_PORT}/v1"


def command_line(ctx: typer.Context) -> str:
    """Give the command that was typed, fit to be typed again: without `--yes`, and with a key's value hidden."""
    words = [ctx.command_path]
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name or "")
        value = ctx.params.get(param.name or "")
        if source is None or source.name != "COMMANDLINE" or param.name == "yes" or value is False:
            continue
        flag = [param.opts[0]] if param.param_type_name == "option" else []
        for item in value if isinstance(value, (list, tuple)) else [value]:
            shown = "KEY" if param.name in ("api_key", "api_keys", "judge_api_key") else str(item)
            words += flag if item is True else [*flag, shlex.quote(shown)]
    return " ".join(words)


def typed_flags(ctx: typer.Context, *, but: Collection[str]) -> dict[str, Any]:
    """Give the flags that were typed, by name and without those of `but`: what a default says is not typed."""
    typed = {}
    for name, value in ctx.params.items():
        source = ctx.get_parameter_source(name)
        if name not in but and source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"):
            typed[name] = value
    return typed


class CommandGroup(HelpGroup, TyperGroup):
    """A group of commands."""


class OchatCommand(HelpText, TyperCommand):
    """Lets a list option take several values, or none: `--api-keys sk-1 sk-2 --port 1`.

    Only on commands without positionals, where a bare word can belong to nothing else.

    `headings` groups the options of a help that has many: heading -> names of parameters.
    """

    headings: ClassVar[Mapping[str, Sequence[str]]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--out=" in args or ("--out", "") in pairwise(args):
            # As a path it would be the current folder.
            hint = 'name what to write; in a script `"${NAME:?}"` fails where `NAME` is not set'
            raise UsageProblem("`--out` is empty", hint=hint)
        if not any(isinstance(param, TyperArgument) for param in self.params):
            args = self._repeat_list_options(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under their headings; those without one are the same everywhere, and come last."""
        own = {name: heading for heading, names in self.headings.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Arguments", *self.headings)}
        for param in self.get_params(ctx):
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            record = help_record(param, ctx)
            if record is not None:
                sections.setdefault(own.get(param.name or "", usual), []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def _repeat_list_options(self, args: list[str]) -> list[str]:
        lists = {
            name for param in self.params if isinstance(param, TyperOption) and param.multiple for name in param.opts
        }
        out: list[str] = []
        current = ""
        for arg in args:
            if arg in lists:
                current = arg
            elif arg.startswith("-") and arg != "-":
                current = ""
                out.append(arg)
            elif current:
                out += [current, arg]
            else:
                out.append(arg)
        return out


Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="What `data pack --out` was given.")]
Split = Annotated[Literal["train", "eval"], typer.Option("--split", help="Which of the two files.")]
