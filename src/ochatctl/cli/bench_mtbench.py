"""`ochatctl bench mtbench`: two-turn questions, and a judge."""

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
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from ochatctl.bench.suites.mtbench import MtBench, MtBenchReport

_EXAMPLES = (
    "ochatctl bench mtbench --base-url http://localhost:18888/v1 --judge gpt-4.1 --max-cost 2",
    "ochatctl bench mtbench --model DIR --judge NAME --judge-base-url http://localhost:8000/v1",
    "ochatctl bench mtbench --answers model_answer/ours.jsonl --judge NAME --mode pairwise --baseline theirs.jsonl",
)

_Questions = Annotated[
    Path | None,
    typer.Option("--questions", metavar="FILE.jsonl", help="FastChat's questions; default: the 80 of MT-bench."),
]
_References = Annotated[
    Path | None,
    typer.Option("--references", metavar="FILE.jsonl", help="Answers to maths, reasoning, coding; default: GPT-4's."),
]
_Prompts = Annotated[
    Path | None,
    typer.Option("--judge-prompts", metavar="FILE.jsonl", help="FastChat's judge prompts; default: MT-bench's."),
]
_Answers = Annotated[
    Path | None,
    typer.Option("--answers", metavar="FILE.jsonl", help="Judge these answers (FastChat's file); no model is asked."),
]
_Mode = Annotated[
    Literal["single", "pairwise"],
    typer.Option("--mode", help="A rating from 1 to 10 each, or in pairs with a baseline, in both orders."),
]
_Baseline = Annotated[
    Path | None, typer.Option("--baseline", metavar="FILE.jsonl", help="The other model's answers (FastChat's file).")
]
_Compat = Annotated[
    Literal["fastchat"] | None,
    typer.Option("--compat", help="Read the judge as FastChat does: the first rating, of any size; never asked again."),
]


class _Command(flags.JudgedCommand):
    headings: ClassVar[Mapping[str, Sequence[str]]] = {
        "MT-bench": ("questions", "references", "judge_prompts", "answers", "mode", "baseline", "compat"),
        **flags.JudgedCommand.headings,
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mtbench", cls=_Command, epilog=examples(*_EXAMPLES))(mtbench)


def mtbench(
    ctx: typer.Context,
    questions: _Questions = None,
    references: _References = None,
    judge_prompts: _Prompts = None,
    answers: _Answers = None,
    mode: _Mode = "single",
    baseline: _Baseline = None,
    compat: _Compat = None,
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
    max_tokens: flags.MaxTokens = 1024,
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
    """Ask MT-bench's questions, two turns each, and have a judge rate the answers; without one they are kept for it."""
    from ochatctl.bench.suites.mtbench import MtBench, run_mtbench

    if not (model or base_url or answers or questions or engine == "echo"):
        raise UsageProblem("whose answers? `--model`, `--base-url` or `--answers` is missing", hint=_EXAMPLES[0])
    output = Output(as_json=json, quiet=quiet)
    bench = MtBench(
        questions=questions,
        references=references,
        judge_prompts=judge_prompts,
        answers=answers,
        mode=mode,
        baseline=baseline,
        compat=compat,
    )
    _offer(bench, output, judged=judge is not None)
    with flags.resumable(ctx, output):
        report = run_mtbench(bench, flags.run_config(ctx), output)
    _show(ctx, report, output)


def _offer(bench: "MtBench", output: Output, *, judged: bool) -> None:
    """Offer the data set where a file of it is needed and is not here."""
    from ochatctl.bench.datasets import has_data

    given = [bench.questions, *((bench.references, bench.judge_prompts) if judged else ())]
    if not all(given) and not has_data("mtbench"):
        offer_data(["mtbench"], output)


def _show(ctx: typer.Context, report: "MtBenchReport", output: Output) -> None:
    answered = f"{report.num_answered} of {report.num_questions} questions answered: {report.answers}"
    if report.score is None:
        output.result(report, answered)
    else:
        from ochatctl.bench.export import COLUMNS, rows
        from ochatctl.bench.results import read_result
        from ochatctl.bench.summary import summarise

        output.table(report, COLUMNS, rows(summarise(read_result(report.out_dir))))
        output.note(answered)
        output.note(f"judgments: {report.judgments}; `ochatctl bench show {report.out_dir}` shows this again")
    for note in report.notes:
        output.note(note)
    flags.end(ctx, output, report.journal or report.answers, report.errors)
    if report.judge is None:
        output.note(f"no judge was asked, so there is no score; this asks one: {command_line(ctx)} --judge NAME")
