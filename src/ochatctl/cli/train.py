"""`ochatctl train`."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ochatctl.cli.openchat_flags import translated
from ochatctl.cli.options import (
    DryRun,
    Json,
    MaybeFamily,
    MaybeModel,
    OchatCommand,
    Quiet,
    Seed,
    TrustRemoteCode,
    Yes,
    typed_flags,
)
from ochatctl.cli.output import Output, examples

if TYPE_CHECKING:
    from ochatctl.train.launch import TrainResult
    from ochatctl.train.prepare import RunPlan
    from ochatctl.train.records import Record

_PLAIN_LINES = 10
_NOT_OF_A_RUN = {"preset", "sets", "dry_run", "quiet", "json"}


class TrainCommand(OchatCommand):
    """Takes OpenChat's own spellings as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, translated(args))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "train",
        cls=TrainCommand,
        epilog=examples(
            "ochatctl train --model BASE --data chats --out run --gpus 8",
            "ochatctl train --model BASE --data chats --out run --gpus 2 --cpu --strategy fsdp",
            "ochatctl train --model BASE --data chats --out run --gpus 8 --dry-run",
        ),
    )(train)


def train(
    ctx: typer.Context,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME|FILE.toml", help="Values to start from: `ochatctl presets`.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of a preset and its TOML value, as `optim.lr=2e-5`."),
    ] = None,
    model: MaybeModel = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="PREFIX", help="A packed data set: PREFIX.train.parquet.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for `ep_N/`, the log and the metrics.")] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, help="How many; default: all. With `--cpu`, how many processes.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on CPU, in float32.")] = False,
    strategy: Annotated[
        Literal["auto", "deepspeed", "fsdp"],
        typer.Option("--strategy", help="auto: DeepSpeed where it is installed and can run, else torch's FSDP2."),
    ] = "auto",
    zero: Annotated[
        int | None, typer.Option("--zero", min=0, max=3, help="DeepSpeed's ZeRO stage; default: 2.")
    ] = None,
    offload: Annotated[
        Literal["none", "optimizer", "all"],
        typer.Option("--offload", help="What waits in main memory; `all`: the weights too, with `--zero 3`."),
    ] = "none",
    deepspeed_config: Annotated[
        Path | None, typer.Option("--deepspeed-config", metavar="FILE.json", help="A DeepSpeed JSON to merge.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data.")] = 5,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Peak learning rate; default: from the tokens of a step.")
    ] = None,
    batch_size_per_gpu: Annotated[
        int | None,
        typer.Option("--batch-size-per-gpu", min=1, help="A rank's batch, in contexts of the family; default: 8."),
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="A rank's batch, in tokens instead.")
    ] = None,
    accumulation: Annotated[
        int | None, typer.Option("--accumulation", min=1, help="Batches that a rank adds up before an optimizer step.")
    ] = None,
    save_every: Annotated[
        int, typer.Option("--save-every", min=1, help="Epochs between saved models; the last is always saved.")
    ] = 1,
    ac: Annotated[
        Literal["none", "selective", "full", "auto"],
        typer.Option("--ac", help="Activations that are computed twice, to save memory."),
    ] = "none",
    family: MaybeFamily = None,
    seed: Seed = 0,
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a model on a packed data set, padding-free, on any number of GPUs or CPU processes."""
    from ochatctl.train.launch import train as run
    from ochatctl.train.prepare import prepare
    from ochatctl.train.settings import read_request

    output = Output(as_json=json, quiet=quiet)
    plan = prepare(read_request(preset=preset, sets=sets or (), flags=typed_flags(ctx, but=_NOT_OF_A_RUN)))
    for note in plan.notes:
        output.note(note)
    if dry_run:
        output.result(plan, lambda: _describe(plan))
        return
    output.note(_describe(plan))
    with _progress(output, plan.num_steps) as on_record:
        result = run(plan, on_record=on_record)
    output.result(result, lambda: _finished(result))


def _describe(plan: "RunPlan") -> str:
    c = plan.config
    return (
        f"{plan.num_steps} steps in {c.num_epochs} epochs of {plan.num_rows} conversations, "
        f"{plan.num_tokens_per_epoch} tokens; {c.num_ranks} x {c.batch_tokens} tokens a batch "
        f"({plan.efficiency_ratio:.1%} full), accumulation {c.accumulation_steps}; "
        f"{c.strategy}, {c.device}, {c.dtype}, lr {c.optim.lr:.3g}"
    )


def _finished(result: "TrainResult") -> str:
    return (
        f"loss {result.first_loss:.4f} -> {result.last_loss:.4f} in {result.num_steps} steps, "
        f"{result.seconds:.1f} s, {result.tokens_per_second:.0f} tokens/s\n"
        f"{result.checkpoints[-1]}\n"
        f"go on with: ochatctl chat --model {result.checkpoints[-1]}"
    )


@contextlib.contextmanager
def _progress(output: Output, num_steps: int) -> "Iterator[Callable[[Record], None]]":
    """Show the ranks' records: a bar on a terminal, about ten lines off one."""
    from ochatctl.train.records import Started

    if output.quiet:
        yield lambda record: None
    elif sys.stderr.isatty():
        with _bar(num_steps) as show:
            yield show
    else:
        every = -(-num_steps // _PLAIN_LINES)

        def show_line(record: "Record") -> None:
            if isinstance(record, Started):
                output.note(f"{record.strategy}, {record.num_parameters:,} parameters: the ranks are ready")
            text = _step_text(record)
            step = getattr(record, "step", 0)
            if text and (step == 1 or step % every == 0 or step == num_steps):
                output.note(f"step {step}/{num_steps}  {text}")

        yield show_line


@contextlib.contextmanager
def _bar(num_steps: int) -> "Iterator[Callable[[Record], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting the ranks", total=num_steps)

        def show(record: "Record") -> None:
            text = _step_text(record)
            if text:
                bar.update(task, completed=getattr(record, "step", 0), description=text)

        yield show


def _step_text(record: "Record") -> str:
    from ochatctl.train.records import Stepped

    if not isinstance(record, Stepped):
        return ""
    return (
        f"epoch {record.epoch}/{record.num_epochs}  loss {record.loss:.4f}  lr {record.lr:.2e}  "
        f"norm {record.grad_norm:.2f}  {record.tokens_per_second:.0f} tokens/s"
    )
