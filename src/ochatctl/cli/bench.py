"""`ochatctl bench`: questions with known answers, and MT-bench's."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Yes,
    command_line,
)
from ochatctl.cli.output import Output, examples
from ochatctl.errors import RemoteError, UsageProblem

if TYPE_CHECKING:
    from ochatctl.bench.report import TaskReport
    from ochatctl.bench.run import RunConfig

_SUITE_EXAMPLES = (
    "ochatctl bench suite --tasks tasks.jsonl --model DIR",
    "ochatctl bench suite --tasks one.jsonl two.jsonl --base-url http://localhost:18888/v1 --limit 100",
)
_MTBENCH_EXAMPLES = (
    "ochatctl bench mtbench --questions question.jsonl --model DIR",
    "ochatctl bench mtbench --questions question.jsonl --base-url http://localhost:18888/v1 --limit 8",
)
_COLUMNS = ("task", "items", "right", "wrong", "unmatched", "errors", "score", "standard error")
# Room for a sentence around a letter; a model that goes on is cut, and what it has said so far is read all the same.
_SUITE_MAX_TOKENS = 128
_MTBENCH_MAX_TOKENS = 1024  # FastChat's

_Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="How many questions are asked at once.")]
_MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer, in tokens.")]
_Tasks = Annotated[
    list[Path] | None,
    typer.Option("--tasks", metavar="FILE.jsonl ...", help='Rows {"question", "label"[, "options"]}.'),
]
_Questions = Annotated[
    Path | None, typer.Option("--questions", metavar="FILE.jsonl", help="FastChat's `question.jsonl`.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        name="bench",
        help="Benchmark a model folder or a server.",
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog=examples(*_SUITE_EXAMPLES[:2], *_MTBENCH_EXAMPLES[:1]),
    )
    group.command("suite", cls=OchatCommand, epilog=examples(*_SUITE_EXAMPLES))(suite)
    group.command("mtbench", cls=OchatCommand, epilog=examples(*_MTBENCH_EXAMPLES))(mtbench)
    app.add_typer(group)


def suite(
    ctx: typer.Context,
    tasks: _Tasks = None,
    model: MaybeModel = None,
    base_url: BaseUrl = None,
    model_name: ModelName = None,
    api_key: ApiKey = None,
    engine: EngineName = "auto",
    family: MaybeFamily = None,
    trust_remote_code: TrustRemoteCode = False,
    limit: Limit = None,
    max_tokens: _MaxTokens = _SUITE_MAX_TOKENS,
    system: System = "",
    condition: Condition = "",
    seed: Seed = 0,
    concurrency: _Concurrency = 16,
    out: MaybeOut = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Ask questions with known answers, count the right ones, and say how noisy that count is."""
    from ochatctl.bench.suite import run_suite

    if not tasks:
        raise UsageProblem("`--tasks` is missing: the questions to ask", hint=_SUITE_EXAMPLES[0])
    output = Output(as_json=json, quiet=quiet)
    report = run_suite(tasks, _run_config(ctx), output)
    lines = [*report.tasks, *([report.overall] if len(report.tasks) > 1 else [])]
    output.table(report, _COLUMNS, [_row(line) for line in lines])
    _end(ctx, output, report.journal, report.errors)


def mtbench(
    ctx: typer.Context,
    questions: _Questions = None,
    model: MaybeModel = None,
    base_url: BaseUrl = None,
    model_name: ModelName = None,
    api_key: ApiKey = None,
    engine: EngineName = "auto",
    family: MaybeFamily = None,
    trust_remote_code: TrustRemoteCode = False,
    limit: Limit = None,
    max_tokens: _MaxTokens = _MTBENCH_MAX_TOKENS,
    system: System = "",
    condition: Condition = "",
    seed: Seed = 0,
    concurrency: _Concurrency = 16,
    out: MaybeOut = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Ask MT-bench's questions as FastChat does and write its answer file; no judge yet, so no score."""
    from ochatctl.bench.suites.mtbench import run_mtbench

    if questions is None:
        raise UsageProblem("`--questions` is missing: FastChat's `question.jsonl`", hint=_MTBENCH_EXAMPLES[0])
    output = Output(as_json=json, quiet=quiet)
    answers = run_mtbench(questions, _run_config(ctx), output)
    output.result(answers, f"{answers.num_answered} of {answers.num_questions} questions answered: {answers.answers}")
    output.note("no judge was asked, so there is no score; FastChat's `gen_judgment.py` reads this file")
    _end(ctx, output, answers.journal, answers.errors)


def _run_config(ctx: typer.Context) -> "RunConfig":
    """Give what the two commands have in common, from the flags they have in common."""
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


def _row(line: "TaskReport") -> tuple[str, ...]:
    counts = (line.num_items, line.num_right, line.num_wrong, line.num_unmatched, line.num_errors)
    ratios = ("-" if ratio is None else f"{100 * ratio:.1f} %" for ratio in (line.score, line.standard_error))
    return (line.task, *map(str, counts), *ratios)


def _end(ctx: typer.Context, output: Output, journal: Path, errors: Sequence[str]) -> None:
    """Say where the answers are and how to go on; questions without an answer make it exit 6."""
    resume = command_line(ctx)
    if errors:
        raise RemoteError(
            f"{len(errors)} questions have no answer, and the journal {journal} asks only them again; the first: "
            f"{errors[0]}",
            hint=resume,
        )
    output.note(f"journal: {journal}; the same command resumes it: {resume}")
