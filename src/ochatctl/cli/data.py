"""`ochatctl data`: the group; each of its commands is a file beside this one."""

import typer

from ochatctl.cli import data_clean, data_download, data_pack, data_plan, data_stats, data_verify, data_view
from ochatctl.cli.options import CommandGroup
from ochatctl.cli.output import examples


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="data",
        cls=CommandGroup,
        help="Download and clean conversations, pack them for training, and look at the result.",
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog=examples(
            "ochatctl data clean chats.json --out clean.jsonl",
            "ochatctl data pack clean.jsonl --model DIR --family openchat_v3.2 --out packed/chats",
            "ochatctl data inspect packed/chats --model DIR",
        ),
    )
    for command in (data_download, data_clean, data_pack, data_view, data_stats, data_verify, data_plan):
        command.register(group)
    app.add_typer(group)
