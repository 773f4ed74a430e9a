"""`ochatctl data plan`."""

from typing import Annotated, Any

import typer

from ochatctl.cli.options import Json, OchatCommand, Prefix, Seed, Split
from ochatctl.cli.output import Output, examples

_DEFAULT_SEED = 42


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "plan",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data plan packed/chats --gpus 8 --batch-tokens 32768",
            "ochatctl data plan packed/chats --gpus 2 --batch-tokens 4096 --json",
        ),
    )(plan)


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
