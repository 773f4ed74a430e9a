"""The flags of the commands of `ochatctl bench` that ask a model or a judge, and the `RunConfig` that they say."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from ochatctl.cli.options import (
    DEFAULT_BASE_URL,
    ApiKey,
    BaseUrl,
    Condition,
    EngineName,
    Json,
    Limit,
    MaybeFamily,
    MaybeModel,
    MaybeOut,
    ModelName,
    OchatCommand,
    Quiet,
    Seed,
    System,
    TrustRemoteCode,
    command_line,
    typed_flags,
)
from ochatctl.cli.output import Output
from ochatctl.errors import UsageProblem

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


def _asking(
    model: MaybeModel = None,
    base_url: BaseUrl = None,
    model_name: ModelName = None,
    api_key: ApiKey = None,
    engine: EngineName = "auto",
    family: MaybeFamily = None,
    tensor_parallel_size: TensorParallel = 1,
    trust_remote_code: TrustRemoteCode = False,
    limit: Limit = None,
    system: System = "",
    condition: Condition = "",
    seed: Seed = 0,
    concurrency: Concurrency = 16,
    connect_timeout: ConnectTimeout = 10.0,
    silence_timeout: SilenceTimeout = 600.0,
    timeout: Timeout = 1800.0,
    out: MaybeOut = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """The flags of every command that asks a model."""


def _judging(
    judge: Judge = None,
    judge_base_url: JudgeBaseUrl = DEFAULT_JUDGE_URL,
    judge_api_key: JudgeApiKey = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
) -> None:
    """The flags of every command that asks a judge, too."""


def asks_a_model(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that every such command has to those of its own; `run_config` reads them."""
    return _with_flags(command, _asking)


def asks_a_judge(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags of a judge, and those of the model that it judges."""
    return _with_flags(command, _judging, _asking)


def _with_flags(command: Callable[..., None], *shared: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose signature, which is what Typer reads, goes on with those of `shared`."""
    own = inspect.signature(command).parameters
    more = [parameter for flags in shared for parameter in inspect.signature(flags).parameters.values()]

    @functools.wraps(command)
    def call(**given: Any) -> None:
        command(**{name: given[name] for name in own})

    vars(call)["__signature__"] = inspect.Signature([*own.values(), *more], return_annotation=None)
    return call


def output_of(ctx: typer.Context) -> Output:
    """Give what prints as `--json` and `--quiet` say."""
    return Output(as_json=ctx.params["json"], quiet=ctx.params["quiet"])


def refuse_a_plain_call(ctx: typer.Context, example: str) -> None:
    """Answer a command of which nothing but its name was typed with a whole one.

    Raises:
        UsageProblem: nothing was typed.
    """
    if not typed_flags(ctx, but=("api_key", "judge_api_key")):
        raise UsageProblem("whose answers? `--model`, `--base-url` or `--answers` is missing", hint=example)


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


def _patience(ctx: typer.Context) -> "Patience":
    from dataclasses import replace

    from ochatctl.bench.judge import PATIENCE

    given = ctx.params
    return replace(
        PATIENCE,
        connect_seconds=given["connect_timeout"],
        silence_seconds=given["silence_timeout"],
    )
