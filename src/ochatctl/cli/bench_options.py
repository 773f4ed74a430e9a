"""What the commands of `ochatctl bench` that ask a model or a judge have in common: their flags, and how they end."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from ochatctl.cli.options import DEFAULT_BASE_URL, OchatCommand, command_line
from ochatctl.cli.output import Output
from ochatctl.errors import DataError, RemoteError, RunError, UsageProblem

if TYPE_CHECKING:
    from ochatctl.bench.judge import JudgeConfig
    from ochatctl.bench.run import RunConfig
    from ochatctl.engine.endpoint import Patience

DEFAULT_JUDGE_URL = "https://api.openai.com/v1"

Concurrency = Annotated[
    int,
    typer.Option("--concurrency", min=1, help="How many are asked at once; fewer while a server is busy."),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer, in tokens.")]
TensorParallel = Annotated[
    int, typer.Option("--tensor-parallel-size", "--tp", min=1, help="GPUs that share the model; needs vLLM.")
]
YesAndPay = Annotated[
    bool,
    typer.Option("--yes", help="Overwrite a journal of other settings; agree to what a paid endpoint costs."),
]
Judge = Annotated[
    str | None,
    typer.Option("--judge", metavar="NAME", help="The judge's model; default: none, and the answers are kept for one."),
]
JudgeBaseUrl = Annotated[
    str, typer.Option("--judge-base-url", metavar="URL", help="The judge's OpenAI-compatible endpoint.")
]
JudgeApiKey = Annotated[
    str | None,
    typer.Option("--judge-api-key", envvar="OPENAI_API_KEY", help="Key for the judge; sent nowhere else."),
]
JudgePrice = Annotated[
    str | None,
    typer.Option("--judge-price", metavar="IN/OUT", help="Dollars per million tokens, where the table is wrong."),
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", metavar="DOLLARS", min=0, help="Agree to costs up to this; nothing beyond is sent."),
]
ConnectTimeout = Annotated[
    float, typer.Option("--connect-timeout", metavar="SECONDS", min=0.1, help="The longest wait for a connection.")
]
SilenceTimeout = Annotated[
    float,
    typer.Option("--silence-timeout", metavar="SECONDS", min=0.1, help="The longest wait without a byte; asked again."),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", min=0.1, help="The longest wait for an answer, with all its retries."),
]
CONNECT_SECONDS, SILENCE_SECONDS, TOTAL_SECONDS = 10.0, 600.0, 1800.0

# The headings that the flags of every such command stand under in its help.
HEADINGS: Mapping[str, Sequence[str]] = {
    "Model": (
        "model", "base_url", "model_name", "api_key", "engine", "family", "tensor_parallel_size", "trust_remote_code",
    ),
    "Asking": (
        "limit", "max_tokens", "system", "condition", "seed", "concurrency", "connect_timeout", "silence_timeout",
        "timeout",
    ),
}  # fmt: skip


class JudgedCommand(OchatCommand):
    """A command with a judge: its many flags stand under headings."""

    headings: ClassVar[Mapping[str, Sequence[str]]] = {
        "Judge": ("judge", "judge_base_url", "judge_api_key", "judge_price", "max_cost"),
        **HEADINGS,
    }


def run_config(ctx: typer.Context) -> "RunConfig":
    """Give what the commands have in common, from the flags they have in common."""
    from ochatctl.bench.run import RunConfig
    from ochatctl.bench.target import Endpoint, Target
    from ochatctl.engine.load import LoadConfig

    given = ctx.params
    is_local = given["model"] is not None or given["engine"] == "echo"
    if is_local and given["base_url"] is not None:
        raise UsageProblem("give either `--model` or `--base-url`", hint=f"{ctx.command_path} --model DIR ...")
    if not is_local and given["engine"] != "auto":
        raise UsageProblem(
            f"`--engine {given['engine']}` runs a model here, and `--model` is missing",
            hint=f"{ctx.command_path} --engine {given['engine']} --model DIR ...",
        )
    target: Target
    if is_local:
        target = LoadConfig(
            model=given["model"],
            engine=given["engine"],
            family=given["family"],
            tensor_parallel=given["tensor_parallel_size"],
            trust_remote_code=given["trust_remote_code"],
        )
    else:
        base_url = given["base_url"] or DEFAULT_BASE_URL
        target = Endpoint(base_url=base_url, model_name=given["model_name"], api_key=given["api_key"])
    names = ("max_tokens", "limit", "system", "condition", "seed", "concurrency", "yes")
    return RunConfig(
        target=target,
        out_dir=given["out"],
        patience=_patience(ctx),
        deadline_seconds=given["timeout"],
        judge=judge_config(ctx),
        max_cost=given.get("max_cost"),
        command=command_line(ctx),
        **{name: given[name] for name in names},
    )


def judge_config(ctx: typer.Context) -> "JudgeConfig | None":
    """Give the judge that was named; None where none was."""
    from ochatctl.bench.cost import read_price
    from ochatctl.bench.judge import JudgeConfig

    given = ctx.params
    if given.get("judge") is None:
        return None
    return JudgeConfig(
        name=given["judge"],
        base_url=given["judge_base_url"],
        api_key=given["judge_api_key"],
        concurrency=given["concurrency"],
        deadline_seconds=given["timeout"],
        patience=_patience(ctx),
        price=read_price(given["judge_price"]) if given.get("judge_price") else None,
    )


@contextlib.contextmanager
def resumable(ctx: typer.Context, output: Output) -> Iterator[None]:
    """Let a run that is cut short end in the line that resumes it."""
    resume = f"what came is kept, and the same command goes on: {command_line(ctx)}"
    try:
        yield
    except (RemoteError, RunError) as error:
        raise type(error)(error.message, hint=f"{error.hint}; {resume}" if error.hint else resume) from error
    except KeyboardInterrupt:
        output.note(resume)
        raise


def end(ctx: typer.Context, output: Output, journal: Path | None, errors: Sequence[str]) -> None:
    """Say where the answers are and how to go on.

    Raises:
        RemoteError: questions have no answer, and may have one the next time.
        DataError: the only questions without an answer do not fit the model.
    """
    resume = command_line(ctx)
    misfits = [error for error in errors if ": DataError: " in error]
    if misfits and len(misfits) == len(errors):
        raise DataError(
            f"{len(misfits)} questions cannot be asked of this model, and stand outside its scores; the first: "
            f"{misfits[0].replace(': DataError: ', ': ')}",
            hint="a model with a longer context; the scores of all others stand",
        )
    if errors:
        raise RemoteError(
            f"{len(errors)} questions have no answer, and the journal {journal} asks only them again; the first: "
            f"{errors[0]}",
            hint=resume,
        )
    output.note(f"journal: {journal}; the same command resumes it: {resume}")


def _patience(ctx: typer.Context) -> "Patience":
    from dataclasses import replace

    from ochatctl.bench.judge import PATIENCE

    given = ctx.params
    return replace(
        PATIENCE,
        connect_seconds=given["connect_timeout"],
        silence_seconds=given["silence_timeout"],
    )
