"""`ochatctl data inspect`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import Json, MaybeFamily, MaybeModel, OchatCommand, Prefix, Split
from ochatctl.cli.output import Output, examples
from ochatctl.cli.token_text import print_tokens
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from collections.abc import Callable

    from ochatctl.data.dataset import PackedDataset


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "inspect",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data inspect packed/chats --model DIR", "ochatctl data inspect packed/chats --row 7 --json"
        ),
    )(inspect)


def inspect(
    prefix: Prefix,
    row: Annotated[int, typer.Option("--row", min=0, help="Which row.")] = 0,
    model: MaybeModel = None,
    family: MaybeFamily = None,
    split: Split = "train",
    json: Json = False,
) -> None:
    """Show a row of a packed dataset, coloured by loss weight; `--model` where the one it was packed with has moved."""
    from ochatctl.config import to_table
    from ochatctl.data.dataset import open_dataset, split_path
    from ochatctl.data.encode import unshift
    from ochatctl.hub import local_data

    dataset = open_dataset(split_path(local_data(str(prefix)), split))
    if row >= len(dataset):
        raise UsageProblem(f"no row {row}: `{dataset.path}` has {len(dataset):,}, counted from 0")
    shown = unshift(dataset.row(row))
    if json:
        Output(as_json=True).result({"row": row, **to_table(shown)}, "")
        return
    Output().note(
        f"row {row} of {len(dataset):,}: {len(shown.token_ids):,} tokens, "
        f"loss weight {dataset.step_weights[row]:g}, family {dataset.model_type}"
    )
    print_tokens(shown.token_ids, shown.loss_weights, _token_text(dataset, model, family))


def _token_text(dataset: "PackedDataset", model: str | None, family: str | None) -> "Callable[[int], str]":
    model = model or dataset.info.model_dir
    if not model:
        return lambda token_id: ""
    from ochatctl.chat.families import load_family
    from ochatctl.hub import local_model

    _, tokenizer = load_family(local_model(model), family or dataset.model_type)
    dataset.check_tokenizer(tokenizer)
    return tokenizer.token_text
