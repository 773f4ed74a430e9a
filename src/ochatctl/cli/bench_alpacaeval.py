"""`ochatctl bench alpacaeval`: answers against a reference's, pair by pair."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from ochatctl.cli import bench_options as flags
from ochatctl.cli.bench_download import offer_data
from ochatctl.cli.bench_end import resumable, show_judged
from ochatctl.cli.output import Output, examples

if TYPE_CHECKING:
    from ochatctl.bench.suites.alpacaeval import AlpacaEval

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


@flags.asks_a_judge
def alpacaeval(
    ctx: typer.Context,
    annotator: _Annotator = "alpaca_eval_gpt4",
    reference: _Reference = None,
    items: _Items = None,
    annotator_prompt: _Prompt = None,
    answers: _Answers = None,
    temperature: _Temperature = 0.7,
    max_tokens: flags.MaxTokens = 2048,
    yes: flags.YesAndPay = False,
) -> None:
    """Ask AlpacaEval's instructions and have a judge prefer the answers or a reference's; without one they are kept."""
    from ochatctl.bench.suites.alpacaeval import AlpacaEval, run_alpacaeval

    flags.refuse_a_plain_call(ctx, _EXAMPLES[0])
    output, config = flags.output_of(ctx), flags.run_config(ctx)
    bench = AlpacaEval(
        annotator=annotator,
        reference=reference,
        items=items,
        prompt=annotator_prompt,
        answers=answers,
        temperature=temperature,
    )
    _offer(bench, output, judged=config.judge is not None)
    with resumable(ctx, output):
        report = run_alpacaeval(bench, config, output)
    show_judged(ctx, output, report, "win rate")


def _offer(bench: "AlpacaEval", output: Output, *, judged: bool) -> None:
    """Offer the data sets that are needed and not here."""
    from ochatctl.bench.datasets import has_data
    from ochatctl.bench.suites.alpacaeval import DATA, PROMPTS

    needed = [*([DATA] if bench.reference is None else []), *([PROMPTS] if judged and bench.prompt is None else [])]
    offer_data([name for name in needed if not has_data(name)], output)
