"""`ochatctl data verify`."""

from typing import TYPE_CHECKING

import typer

from ochatctl.cli.data_view import PrefixOrFile, dataset_path, named_tokenizer
from ochatctl.cli.options import Json, MaybeFamily, MaybeModel, OchatCommand, Quiet, Split
from ochatctl.cli.output import Output, examples
from ochatctl.errors import DataError

if TYPE_CHECKING:
    from ochatctl.data.verify import VerifyReport

_MARKS = {"ok": "ok", "failed": "FAILED", "convention": "note", "skipped": "-"}


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "verify",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data verify packed/chats",
            "ochatctl data verify packed/chats --split eval --model DIR",
            "ochatctl data verify ochat.train.parquet --json",
        ),
    )(verify)


def verify(
    prefix: PrefixOrFile,
    model: MaybeModel = None,
    family: MaybeFamily = None,
    split: Split = "train",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Check every law of the packed format on a file, ours or ochat's own; exit code 4 where one is broken.

    `--model` also compares the tokenizer and looks for the end of each turn.
    """
    from ochatctl.data.verify import verify_dataset

    path = dataset_path(prefix, split)
    output = Output(as_json=json, quiet=quiet)
    with output.progress("checking") as advance:
        report = verify_dataset(path, model=named_tokenizer(path, model, family), advance=advance)
    output.result(report, lambda: _text(report))
    if report.num_failed:
        laws = "1 law" if report.num_failed == 1 else f"{report.num_failed} laws"
        raise DataError(f"{path}: {laws} of the format broken", hint="`ochatctl data pack` writes the file anew")


def _text(report: "VerifyReport") -> str:
    lines = [report.path]
    for law in report.laws:
        says = f"{law.law} ({law.detail})" if law.status == "skipped" else law.law
        lines.append(f"  {_MARKS[law.status]:>6}  {law.name:<13} {says}")
        if law.detail and law.status != "skipped":
            more = f" and {law.num_rows - 1:,} more" if law.num_rows > 1 else ""
            where = "" if law.row is None else f"row {law.row}{more}: "
            lines.append(f"{'':10}{where}{law.detail}")
    counts = f"{report.num_rows:,} rows, {report.num_tokens:,} tokens, {report.num_supervised_tokens:,} of them learnt"
    lines.append(counts + (f", family {report.model_type}" if report.model_type else ""))
    return "\n".join(lines)
