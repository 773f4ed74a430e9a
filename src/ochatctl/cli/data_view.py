"""`ochatctl data inspect` and `ochatctl data plan`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ochatctl.cli.options import Json, MaybeFamily, MaybeModel, OchatCommand, Seed
from ochatctl.cli.output import Output, examples
from ochatctl.cli.token_text import print_tokens
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from collections.abc import Callable

    from ochatctl.data.dataset import PackedDataset

_DEFAULT_SEED = 42
Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="What `data pack --out` was given.")]
Split = Annotated[Literal["train", "eval"], typer.Option("--split", help="Which of the two files.")]


def register(group: typer.Typer) -> None:
    """Add the commands to the group `data`."""
    group.command(
        "inspect",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data inspect packed/chats --model DIR", "ochatctl data inspect packed/chats --row 7 --json"
        ),
    )(inspect)
    group.command(
        "plan",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data plan packed/chats --gpus 8 --batch-tokens 32768",
            "ochatctl data plan packed/chats --gpus 2 --batch-tokens 4096 --json",
        ),
    )(plan)


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


def plan(
    prefix: Prefix,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Ranks.")],
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=1, help="Tokens that a rank takes at once.")],
    accumulation: Annotated[int, typer.Option("--accumulation", min=1, help="Batches of a rank in a step.")] = 1,
    epoch: Annotated[int, typer.Option("--epoch", min=0, help="Which epoch.")] = 0,
    split: Split = "train",
    seed: Seed = _DEFAULT_SEED,
    json: Json = False,
) -> None:
    """Plan an epoch before a GPU is taken: its steps, how full they are, how alike."""
    from ochatctl.data.dataset import open_dataset, split_path
    from ochatctl.data.packing import plan_epoch
    from ochatctl.hub import local_data

    lengths = open_dataset(split_path(local_data(str(prefix)), split)).lengths
    planned = plan_epoch(lengths, bin_tokens=batch_tokens, bins_per_step=gpus * accumulation, seed=seed, epoch=epoch)
    summary: dict[str, Any] = {
        "rows": len(lengths), "tokens": planned.num_tokens, "longest_tokens": int(lengths.max()),
        "steps": len(planned.steps), "efficiency_ratio": planned.efficiency_ratio,
        "imbalance_ratio": planned.imbalance_ratio, "dropped": len(lengths) - planned.num_rows,
        "digest": planned.digest,
    }  # fmt: skip
    Output(as_json=json).table(summary, ("", ""), [(key, _figure(value)) for key, value in summary.items()])


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _token_text(dataset: "PackedDataset", model: str | None, family: str | None) -> "Callable[[int], str]":
    model = model or dataset.info.model_dir
    if not model:
        return lambda token_id: ""
    from ochatctl.chat.families import load_family
    from ochatctl.hub import local_model

    _, tokenizer = load_family(local_model(model), family or dataset.model_type)
    dataset.check_tokenizer(tokenizer)
    return tokenizer.token_text
