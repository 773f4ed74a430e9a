"""`ochatctl bench mtbench`: two-turn questions, and a judge."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from ochatctl.cli import bench_options as flags
from ochatctl.cli.bench_download import offer_data
from ochatctl.cli.bench_end import resumable, show_judged
from ochatctl.cli.output import Output, examples

if TYPE_CHECKING:
    from ochatctl.bench.suites.mtbench import MtBench

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


@flags.asks_a_judge
def mtbench(
    ctx: typer.Context,
    questions: _Questions = None,
    references: _References = None,
    judge_prompts: _Prompts = None,
    answers: _Answers = None,
    mode: _Mode = "single",
    baseline: _Baseline = None,
    compat: _Compat = None,
    max_tokens: flags.MaxTokens = 1024,
    yes: flags.YesAndPay = False,
) -> None:
    """Ask MT-bench's questions, two turns each, and have a judge rate the answers; without one they are kept for it."""
    from ochatctl.bench.suites.mtbench import MtBench, run_mtbench

    flags.refuse_a_plain_call(ctx, _EXAMPLES[0])
    output, config = flags.output_of(ctx), flags.run_config(ctx)
    bench = MtBench(
        questions=questions,
        references=references,
        judge_prompts=judge_prompts,
        answers=answers,
        mode=mode,
        baseline=baseline,
        compat=compat,
    )
    _offer(bench, output, judged=config.judge is not None)
    with resumable(ctx, output):
        report = run_mtbench(bench, config, output)
    show_judged(ctx, output, report, "score")


def _offer(bench: "MtBench", output: Output, *, judged: bool) -> None:
    """Offer the data set where a file of it is needed and is not here."""
    from ochatctl.bench.datasets import has_data

    given = [bench.questions, *((bench.references, bench.judge_prompts) if judged else ())]
    if not all(given) and not has_data("mtbench"):
        offer_data(["mtbench"], output)
