"""`ochatctl add-eot`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import DryRun, Json, OchatCommand, Quiet, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from ochatctl.vocab import AddedTokens

_DEFAULT_FAMILY = "openchat_v3.2"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "add-eot",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl add-eot meta-llama/Llama-2-7b-hf --out llama-2-7b-eot",
            "ochatctl add-eot DIR --out DIR-eot --family chatml --pad-to-multiple-of 64",
            "ochatctl add-eot DIR --out DIR-eot --dry-run --json",
        ),
    )(add_eot)


def add_eot(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model folder, or a hub id `owner/name[@revision]`; needed.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the result is written; needed.")] = None,
    family: Annotated[
        str, typer.Option("--family", "--model-type", metavar="NAME|FILE.toml", help="Whose tokens are added.")
    ] = _DEFAULT_FAMILY,
    token: Annotated[
        list[str] | None, typer.Option("--token", help="Add this token, instead of the family's missing ones; repeat.")
    ] = None,
    pad_to_multiple_of: Annotated[
        int, typer.Option("--pad-to-multiple-of", min=1, metavar="N", help="Add `<|pad_0|>`... up to a multiple of N.")
    ] = 1,
    verify: Annotated[bool, typer.Option("--verify", help="Compare logits also at 2 GB of weights or more.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give a base model its family's end-of-turn token, its new rows the mean of all others."""
    from ochatctl.chat.families import get_family
    from ochatctl.hub import local_model

    if model is None or out is None:
        raise UsageProblem(
            f"`{'MODEL' if model is None else '--out'}` is missing",
            hint=f"ochatctl add-eot {model or 'DIR'} --out {out or (model or 'DIR').rstrip('/') + '-eot'}",
        )
    model_dir, chosen = local_model(model), get_family(family)
    from ochatctl.vocab import add_eot as run  # torch takes seconds, which a misspelt name need not wait for

    done = run(
        model_dir, out, chosen, tokens=tuple(token or ()), pad_to_multiple_of=pad_to_multiple_of,
        check_logits=verify, yes=yes, dry_run=dry_run,
    )  # fmt: skip
    output = Output(as_json=json, quiet=quiet)
    for notice in done.notices:
        output.note(f"note: {notice}")
    output.result(done, lambda: _text(done, dry_run=dry_run))


def _text(done: "AddedTokens", *, dry_run: bool) -> str:
    from ochatctl.memory import size_text

    names = list(done.added.items())
    shown = [f"{token} {index}" for token, index in (names if len(names) <= 4 else [*names[:2], *names[-1:]])]
    if len(names) > 4:
        shown.insert(2, f"... {len(names) - 3} more ...")
    lines = [
        f"{'would write' if dry_run else 'wrote'} {done.out}: {done.family}, end of turn `{done.eot}` {done.eot_id}",
        f"  tokens   {', '.join(shown) or 'none added'}",
        f"  rows     {done.num_rows_before} -> {done.num_rows}"
        f" ({' and '.join(done.matrices)}{', tied' if done.tied else ''}); mean of {done.num_mean_rows}",
        f"  files    {len(done.rewritten)} rewritten ({size_text(done.rewritten_bytes)}), {len(done.linked)} linked "
        f"({size_text(done.linked_bytes)}), {len(done.copied)} copied",
    ]
    return "\n".join([*lines, *(f"  checked  {check}" for check in done.checks)])
