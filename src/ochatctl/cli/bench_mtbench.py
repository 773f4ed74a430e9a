"""`ochatctl bench mtbench`: 80 questions of two turns, and a judge."""

from pathlib import Path
from typing import Annotated

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

_EXAMPLES = (
    "ochatctl bench mtbench --questions question.jsonl --model DIR",
    "ochatctl bench mtbench --questions question.jsonl --base-url http://localhost:18888/v1 --limit 8",
)
_MAX_TOKENS = 1024  # FastChat's

_Questions = Annotated[
    Path | None, typer.Option("--questions", metavar="FILE.jsonl", help="FastChat's `question.jsonl`.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mtbench", cls=OchatCommand, epilog=examples(*_EXAMPLES))(mtbench)


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
    """Ask MT-bench's questions as FastChat does and write its answer file; no judge yet, so no score."""
    from ochatctl.bench.suites.mtbench import run_mtbench

    if questions is None:
        raise UsageProblem("`--questions` is missing: FastChat's `question.jsonl`", hint=_EXAMPLES[0])
    output = Output(as_json=json, quiet=quiet)
    answers = run_mtbench(questions, run_config(ctx), output)
    output.result(answers, f"{answers.num_answered} of {answers.num_questions} questions answered: {answers.answers}")
    output.note("no judge was asked, so there is no score; FastChat's `gen_judgment.py` reads this file")
    end(ctx, output, answers.journal, answers.errors)
