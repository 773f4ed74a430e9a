"""`ochatctl tokens`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import Condition, Json, MaybeFamily, Model, OchatCommand, System
from ochatctl.cli.output import Output, examples
from ochatctl.cli.token_text import print_tokens
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from ochatctl.chat.conversation import Conversation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "tokens",
        cls=OchatCommand,
        epilog=examples(
            'ochatctl tokens --model DIR "Hello" --inference',
            "ochatctl tokens --model DIR --family openchat_v3.2 --file chats.jsonl --json",
        ),
    )(tokens)


def tokens(
    model: Model,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="A user message.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Conversations, one JSON object a line.")] = None,
    family: MaybeFamily = None,
    inference: Annotated[bool, typer.Option("--inference", help="End where the model is to go on.")] = False,
    system: System = "",
    condition: Condition = "",
    json: Json = False,
) -> None:
    """Show the tokens that the model sees, coloured by their weight in the loss."""
    from ochatctl.chat.families import load_family
    from ochatctl.hub import local_model

    if (text is None) == (file is None):
        raise UsageProblem("give either TEXT or `--file`", hint=f'ochatctl tokens --model {model} "Hello"')
    chosen, tokenizer = load_family(local_model(model), family)
    output = Output(as_json=json)
    for conversation in _conversations(text, file, system, condition):
        encoded = chosen.template.encode(conversation, tokenizer, inference)
        if json:
            output.line(encoded)
        else:
            print_tokens(encoded.token_ids, encoded.loss_weights, tokenizer.token_text)


def _conversations(text: str | None, file: Path | None, system: str, condition: str) -> "Iterable[Conversation]":
    from ochatctl.chat.conversation import parse_conversation, read_conversations

    if file is not None:
        return read_conversations(file)
    value = {"messages": [{"role": "user", "content": text}], "system": system, "condition": condition}
    return [parse_conversation(value, where="TEXT")]
