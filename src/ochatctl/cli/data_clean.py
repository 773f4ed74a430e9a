"""`ochatctl data clean`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import Json, OchatCommand, Out, Quiet, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.files import refuse_existing

if TYPE_CHECKING:
    from ochatctl.data.clean import CleanReport


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "clean",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data clean chats.json --out clean.jsonl",
            "ochatctl data clean a.json b.jsonl.gz --out clean.jsonl --rule class",
            "ochatctl data clean chats.json --out clean.jsonl --no-rule duplicate --json",
        ),
    )(clean)


def clean(
    files: Annotated[list[Path], typer.Argument(metavar="IN...", help="Chat files: JSON, JSONL, parquet; .gz, .zst.")],
    out: Out,
    rules: Annotated[str, typer.Option("--rules", metavar="SET", help="`plain`: structure only.")] = "plain",
    rule: Annotated[list[str] | None, typer.Option("--rule", metavar="NAME", help="Turn a rule on.")] = None,
    no_rule: Annotated[list[str] | None, typer.Option("--no-rule", metavar="NAME", help="Turn a rule off.")] = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Turn chats of any known format into conversation JSONL; count what is left out, and write it beside.

    Rules: `empty` turns reject, `merge` turns of the same role, drop `lead`ing answers, reject without an `answer`,
    reject a `duplicate`, set the condition by `class` (off by default; GPT4 or GPT3, from the field `model`).
    """
    from ochatctl.data.clean import choose_rules, clean_files, rejected_path_of
    from ochatctl.hub import local_data

    chosen = choose_rules(rules, add=rule or (), leave_out=no_rule or ())
    refuse_existing(out, yes=yes)
    refuse_existing(rejected_path_of(out), yes=yes)
    output = Output(as_json=json, quiet=quiet)
    with output.progress("cleaning") as advance:
        report = clean_files([local_data(str(file)) for file in files], out, rules=chosen, advance=advance)
    output.result(report, lambda: _clean_text(report))


def _clean_text(report: "CleanReport") -> str:
    lines = [f"rules: {', '.join(report.rules) or 'none'}", f"{report.num_input:>9,} conversations read"]
    lines.append(f"{report.num_kept:>9,} kept -> {report.out_path}")
    for condition, count in sorted(report.conditions.items()):
        lines.append(f"{count:>14,} {f'condition {condition}' if condition else 'without a condition'}")
    lines += [f"{count:>14,} {what}" for what, count in report.mended.most_common()]
    lines.append(f"{report.num_rejected:>9,} rejected -> {report.rejected_path}")
    for reason, tally in sorted(report.rejected.items(), key=lambda pair: -pair[1].count):
        detail = f", {tally.detail}" if tally.detail else ""
        lines.append(f"{tally.count:>14,} {reason} (first: {tally.where}{detail})")
    return "\n".join(lines)
