"""`ochatctl bench suite`: questions with known answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.bench_options import Concurrency, MaxTokens, end, run_config
from ochatctl.cli.options import (
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
)
from ochatctl.cli.output import Output, examples
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from ochatctl.bench.report import TaskReport

_EXAMPLES = (
    "ochatctl bench suite --tasks tasks.jsonl --model DIR",
    "ochatctl bench suite --tasks one.jsonl two.jsonl --base-url http://localhost:18888/v1 --limit 100",
)
_COLUMNS = ("task", "items", "right", "wrong", "unmatched", "errors", "score", "standard error")
# Room for a sentence around a letter; a model that goes on is cut, and what it has said so far is read all the same.
_MAX_TOKENS = 128

_Tasks = Annotated[
    list[Path] | None,
    typer.Option("--tasks", metavar="FILE.jsonl ...", help='Rows {"question", "label"[, "options"]}.'),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("suite", cls=OchatCommand, epilog=examples(*_EXAMPLES))(suite)


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
    max_tokens: MaxTokens = _MAX_TOKENS,
    system: System = "",
    condition: Condition = "",
    seed: Seed = 0,
    concurrency: Concurrency = 16,
    out: MaybeOut = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Ask questions with known answers, count the right ones, and say how noisy that count is."""
    from ochatctl.bench.suite import run_suite

    if not tasks:
        raise UsageProblem("`--tasks` is missing: the questions to ask", hint=_EXAMPLES[0])
    output = Output(as_json=json, quiet=quiet)
    report = run_suite(tasks, run_config(ctx), output)
    lines = [*report.tasks, *([report.overall] if len(report.tasks) > 1 else [])]
    output.table(report, _COLUMNS, [_row(line) for line in lines])
    end(ctx, output, report.journal, report.errors)


def _row(line: "TaskReport") -> tuple[str, ...]:
    counts = (line.num_items, line.num_right, line.num_wrong, line.num_unmatched, line.num_errors)
    ratios = ("-" if ratio is None else f"{100 * ratio:.1f} %" for ratio in (line.score, line.standard_error))
    return (line.task, *map(str, counts), *ratios)
