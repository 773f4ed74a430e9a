"""`ochatctl bench rescore`: scores from files that others published."""

from pathlib import Path
from typing import Annotated

import typer

from ochatctl.cli.options import Json, OchatCommand, Quiet
from ochatctl.cli.output import Output, examples

_EXAMPLES = (
    "ochatctl bench rescore model_judgment/gpt-4_single.jsonl",
    "ochatctl bench rescore gpt-4_single.jsonl gpt-4_pair.jsonl --json",
    "ochatctl bench rescore code-davinci-002-cot/*00.json",
)
_COLUMNS = ("file", "kind", "model", "score", "standard error", "rows", "left out")

_Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of judgments or graded answers.")]
_Kind = Annotated[str | None, typer.Option("--kind", help="What the files are; default: what their rows look like.")]
_Baseline = Annotated[
    str | None, typer.Option("--baseline", metavar="NAME", help="Of games: count those against this model only.")
]
_LengthControlled = Annotated[
    bool,
    typer.Option("--length-controlled", help="Of AlpacaEval's: through `alpaca-eval` and its weights from the hub."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rescore", cls=OchatCommand, epilog=examples(*_EXAMPLES))(rescore)


def rescore(
    files: _Files,
    kind: _Kind = None,
    baseline: _Baseline = None,
    length_controlled: _LengthControlled = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compute the scores of published files again, exactly as their projects do."""
    from ochatctl.bench.rescore import RescoreConfig, rescore_files
    from ochatctl.bench.suites.answers_rescore import codex_mean

    output = Output(as_json=json, quiet=quiet)
    config = RescoreConfig(kind=kind, baseline=baseline, length_controlled=length_controlled)
    results = rescore_files(files, config)
    rows = [(result.file.name, result.kind, *line) for result in results for line in result.lines]
    output.table(results, _COLUMNS, rows)
    mean = codex_mean(results)
    if mean is not None:
        output.note(f"BBH: the mean of {mean[0]} tasks is {mean[1]:.2f} %")
