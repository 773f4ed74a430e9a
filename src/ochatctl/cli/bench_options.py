"""What the commands of `ochatctl bench` that ask a model have in common: their flags, and how they end."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import DEFAULT_BASE_URL, command_line
from ochatctl.cli.output import Output
from ochatctl.errors import RemoteError, UsageProblem

if TYPE_CHECKING:
    from ochatctl.bench.run import RunConfig

Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="How many questions are asked at once.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer, in tokens.")]


def run_config(ctx: typer.Context) -> "RunConfig":
    """Give what the commands have in common, from the flags they have in common."""
    from ochatctl.bench.run import RunConfig
    from ochatctl.bench.target import Endpoint, Target
    from ochatctl.engine.load import LoadConfig

    given = ctx.params
    is_local = given["model"] is not None or given["engine"] == "echo"
    if is_local and given["base_url"] is not None:
        raise UsageProblem("give either `--model` or `--base-url`", hint=f"{ctx.command_path} --model DIR ...")
    target: Target
    if is_local:
        target = LoadConfig(**{name: given[name] for name in ("model", "engine", "family", "trust_remote_code")})
    else:
        base_url = given["base_url"] or DEFAULT_BASE_URL
        target = Endpoint(base_url=base_url, model_name=given["model_name"], api_key=given["api_key"])
    names = ("max_tokens", "limit", "system", "condition", "seed", "concurrency", "yes")
    return RunConfig(target=target, out_dir=given["out"], **{name: given[name] for name in names})


def end(ctx: typer.Context, output: Output, journal: Path, errors: Sequence[str]) -> None:
    """Say where the answers are and how to go on; questions without an answer make it exit 6."""
    resume = command_line(ctx)
    if errors:
        raise RemoteError(
            f"{len(errors)} questions have no answer, and the journal {journal} asks only them again; the first: "
            f"{errors[0]}",
            hint=resume,
        )
    output.note(f"journal: {journal}; the same command resumes it: {resume}")
