"""The flags that mean one thing everywhere, and the command class that lets list options take several values."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

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
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
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

DEFAULT_PORT = 18888
DEFAULT_BASE_URL = f"http://localhost:{DEFAULT_PORT}/v1"


class OchatCommand(TyperCommand):
    """Lets a list option take several values, or none: `--api-keys sk-1 sk-2 --port 1`.

    Only on commands without positionals, where a bare word can belong to nothing else.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not any(isinstance(param, TyperArgument) for param in self.params):
            args = self._repeat_list_options(args)
        return super().parse_args(ctx, args)

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
