"""`ochatctl bench alpacaeval`: answers against a reference's, pair by pair."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from ochatctl.cli import bench_options as flags
from ochatctl.cli.bench_download import offer_data
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
    Quiet,
    Seed,
    System,
    TrustRemoteCode,
    command_line,
)
from ochatctl.cli.output import Output, examples

if TYPE_CHECKING:
    from ochatctl.bench.suites.alpacaeval import AlpacaEval, AlpacaEvalReport

_EXAMPLES = (
    "ochatctl bench alpacaeval --base-url http://localhost:18888/v1 --judge gpt-4.1 --max-cost 10",
    "ochatctl bench alpacaeval --model DIR --reference reference.json --judge NAME --judge-base-url http://HOST/v1",
    "ochatctl bench alpacaeval --answers model_outputs.json --judge NAME --annotator weighted_alpaca_eval_gpt4_turbo",
)

_Annotator = Annotated[
    Literal["alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo"],
    typer.Option("--annotator", help="How pairs are judged: AlpacaEval 1's ranking, or 2's probabilities."),
]
_Reference = Annotated[
    Path | None,
    typer.Option("--reference", metavar="FILE.json", help="The outputs to compare with; default: the annotator's."),
]
_Items = Annotated[
    Path | None, typer.Option("--items", metavar="FILE.json", help="The instructions; default: the reference's.")
]
_Prompt = Annotated[
    Path | None,
    typer.Option("--annotator-prompt", metavar="FILE.txt", help="What the judge is asked; default: alpaca_eval's."),
]
_Answers = Annotated[
    Path | None,
    typer.Option("--answers", metavar="FILE.json", help="Judge this `model_outputs.json`; no model is asked."),
]
_Temperature = Annotated[float, typer.Option("--temperature", min=0, max=2, help="Of the answers.")]


class _Command(flags.JudgedCommand):
    headings: ClassVar[Mapping[str, Sequence[str]]] = {
        "AlpacaEval": ("annotator", "reference", "items", "annotator_prompt", "answers", "temperature"),
        **flags.JudgedCommand.headings,
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("alpacaeval", cls=_Command, epilog=examples(*_EXAMPLES))(alpacaeval)


def alpacaeval(
    ctx: typer.Context,
    annotator: _Annotator = "alpaca_eval_gpt4",
    reference: _Reference = None,
    items: _Items = None,
    annotator_prompt: _Prompt = None,
    answers: _Answers = None,
    temperature: _Temperature = 0.7,
    judge: flags.Judge = None,
    judge_base_url: flags.JudgeBaseUrl = flags.DEFAULT_JUDGE_URL,
    judge_api_key: flags.JudgeApiKey = None,
    judge_price: flags.JudgePrice = None,
    max_cost: flags.MaxCost = None,
    model: MaybeModel = None,
    base_url: BaseUrl = None,
    model_name: ModelName = None,
    api_key: ApiKey = None,
    engine: EngineName = "auto",
    family: MaybeFamily = None,
    tensor_parallel_size: flags.TensorParallel = 1,
    trust_remote_code: TrustRemoteCode = False,
    limit: Limit = None,
    max_tokens: flags.MaxTokens = 2048,
    system: System = "",
    condition: Condition = "",
    seed: Seed = 0,
    concurrency: flags.Concurrency = 16,
    connect_timeout: flags.ConnectTimeout = flags.CONNECT_SECONDS,
    silence_timeout: flags.SilenceTimeout = flags.SILENCE_SECONDS,
    timeout: flags.Timeout = flags.TOTAL_SECONDS,
    out: MaybeOut = None,
    yes: flags.YesAndPay = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Ask AlpacaEval's instructions and have a judge prefer the answers or a reference's; without one they are kept."""
    from ochatctl.bench.suites.alpacaeval import AlpacaEval, run_alpacaeval

    output = Output(as_json=json, quiet=quiet)
    bench = AlpacaEval(
        annotator=annotator,
        reference=reference,
        items=items,
        prompt=annotator_prompt,
        answers=answers,
        temperature=temperature,
    )
    _offer(bench, output, judged=judge is not None)
    with flags.resumable(ctx, output):
        report = run_alpacaeval(bench, flags.run_config(ctx), output)
    _show(ctx, report, output)


def _offer(bench: "AlpacaEval", output: Output, *, judged: bool) -> None:
    """Offer the data sets that are needed and not here."""
    from ochatctl.bench.datasets import has_data
    from ochatctl.bench.suites.alpacaeval import DATA, PROMPTS

    needed = [*([DATA] if bench.reference is None else []), *([PROMPTS] if judged and bench.prompt is None else [])]
    offer_data([name for name in needed if not has_data(name)], output)


def _show(ctx: typer.Context, report: "AlpacaEvalReport", output: Output) -> None:
    answered = f"{report.num_answered} of {report.num_instructions} instructions answered: {report.outputs}"
    if report.rate is None:
        output.result(report, answered)
    else:
        from ochatctl.bench.export import COLUMNS, rows
        from ochatctl.bench.results import read_result
        from ochatctl.bench.summary import summarise

        output.table(report, COLUMNS, rows(summarise(read_result(report.out_dir))))
        output.note(answered)
        output.note(f"judgments: {report.annotations}; `ochatctl bench show {report.out_dir}` shows this again")
    for note in report.notes:
        output.note(note)
    flags.end(ctx, output, report.journal or report.outputs, report.errors)
    if report.judge is None:
        output.note(f"no judge was asked, so there is no win rate; this asks one: {command_line(ctx)} --judge NAME")
