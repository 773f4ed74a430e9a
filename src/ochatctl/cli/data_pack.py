"""`ochatctl data pack`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ochatctl.cli.options import Json, Limit, MaybeFamily, Model, OchatCommand, Quiet, Seed, TrustRemoteCode, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.errors import UsageProblem
from ochatctl.files import refuse_existing

if TYPE_CHECKING:
    from ochatctl.data.build import PackReport

_DEFAULT_SEED = 42


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "pack",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data pack clean.jsonl --model DIR --family openchat_v3.2 --out packed/chats",
            "ochatctl data pack clean.jsonl --model DIR --out packed/chats --eval-ratio 0.01 --class-weight GPT3=0.5",
        ),
    )(pack)


def pack(
    file: Annotated[Path, typer.Argument(metavar="F.jsonl", help="Conversations, one JSON object a line.")],
    model: Model,
    out: Annotated[
        str, typer.Option("--out", metavar="PREFIX", help="Writes PREFIX.train.parquet, PREFIX.eval.parquet.")
    ],
    family: MaybeFamily = None,
    eval_ratio: Annotated[float, typer.Option("--eval-ratio", help="Share of conversations held out.")] = 0.0,
    class_weight: Annotated[
        list[str] | None,
        typer.Option("--class-weight", metavar="CONDITION=W", help="Loss weight of a condition; default: GPT3=0.1."),
    ] = None,
    overlength: Annotated[
        Literal["split", "truncate", "drop"],
        typer.Option("--overlength", help="What becomes of a conversation longer than the context."),
    ] = "split",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0: as many as are worth it.")] = 0,
    limit: Limit = None,
    seed: Seed = _DEFAULT_SEED,
    trust_remote_code: TrustRemoteCode = False,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Encode conversations with a model's chat template and write them as a packed dataset."""
    from ochatctl.data.build import CLASS_WEIGHTS, PackConfig, pack_files
    from ochatctl.data.dataset import split_path
    from ochatctl.hub import local_data, local_model

    weights = CLASS_WEIGHTS | dict(_class_weight(text) for text in class_weight or ())
    for split in ("train", "eval"):
        refuse_existing(split_path(out, split), yes=yes)
    config = PackConfig(
        data_path=local_data(str(file)), model_dir=local_model(model), prefix=out, family=family,
        eval_ratio=eval_ratio, seed=seed,
        class_weights=weights, overlength=overlength, num_workers=workers, limit=limit,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    output = Output(as_json=json, quiet=quiet)
    with output.progress("packing") as advance:
        report = pack_files(config, advance=advance)
    output.result(report, lambda: _pack_text(report))


def _class_weight(text: str) -> tuple[str, float]:
    name, equals, weight = text.rpartition("=")
    try:
        if equals and name:
            return name, float(weight)
    except ValueError:
        pass
    raise UsageProblem(f"`--class-weight {text}` is not CONDITION=NUMBER", hint="such as `--class-weight GPT3=0.1`")


def _pack_text(report: "PackReport") -> str:
    lines = [f"family {report.family}, context {report.context_tokens:,} tokens"]
    lines.append(f"{report.num_conversations:>9,} conversations")
    if report.num_overlength:
        lines.append(f"{report.num_overlength:>9,} longer than the context: {_overlength_text(report)}")
    if report.num_without_loss:
        lines.append(f"{report.num_without_loss:>9,} left out, since nothing in them has a loss weight")
    if report.num_pieces_without_loss:
        lines.append(f"{report.num_pieces_without_loss:>9,} pieces left out, since nothing in them has a loss weight")
    if report.num_cut_prompts:
        lines.append(f"{report.num_cut_prompts:>9,} prompts cut to fit: their ends are kept")
    for tally in (report.train, report.eval):
        if tally is None:
            continue
        lines.append(f"{tally.num_rows:>9,} rows of {tally.num_tokens:,} tokens -> {tally.path}")
        for name, c in sorted(tally.conditions.items()):
            label = f"condition {name}" if name else "no condition"
            lines.append(
                f"{c.num_supervised_tokens:>14,} supervised tokens, {label}: {c.num_conversations:,} conversations"
            )
    return "\n".join(lines)


def _overlength_text(report: "PackReport") -> str:
    if report.overlength == "drop":
        return f"{report.num_dropped:,} dropped (`--overlength split` keeps them)"
    return f"{'split' if report.overlength == 'split' else 'cut'} into {report.num_pieces:,} rows"
