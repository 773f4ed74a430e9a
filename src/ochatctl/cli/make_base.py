"""`ochatctl make-base`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ochatctl.cli.options import DryRun, Json, OchatCommand, Out, Quiet, Seed, Yes
from ochatctl.cli.output import Output, examples


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "make-base",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl make-base chats.jsonl --out base", "ochatctl make-base chats.jsonl --out base --vocab-size 2048"
        ),
    )(make_base)


def make_base(
    chats: Annotated[Path, typer.Argument(metavar="CHATS.jsonl", help="Conversations, one JSON object a line.")],
    out: Out,
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Tokens; fewer where the text has fewer.")] = 1024,
    hidden_size: Annotated[int, typer.Option("--hidden-size", help="A multiple of 64, the size of a head.")] = 128,
    layers: Annotated[int, typer.Option("--layers", help="Number of layers.")] = 3,
    seed: Seed = 0,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a small Llama base from scratch, its tokenizer trained on conversations; it knows nothing yet."""
    from ochatctl.base_model import BaseConfig
    from ochatctl.base_model import make_base as run

    config = BaseConfig(vocab_size=vocab_size, hidden_size=hidden_size, num_layers=layers, seed=seed)
    made = run(chats, out, config, yes=yes, dry_run=dry_run)
    output = Output(as_json=json, quiet=quiet)
    for notice in made.notices:
        output.note(f"note: {notice}")
    output.result(
        made,
        f"{'would make' if dry_run else 'made'} {made.out}: a Llama of {made.num_parameters:,} parameters, "
        f"{made.num_layers} layers of {made.hidden_size}, {made.vocab_size} tokens "
        f"learnt from {made.num_chars:,} characters in {made.num_conversations} conversations",
    )
    if not dry_run:
        output.note(f"next: ochatctl add-eot {shlex.quote(str(out))} --out {shlex.quote(f'{out}-eot')}")
