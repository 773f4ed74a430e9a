"""`ochatctl bench`: the group; each of its commands is a file beside this one."""

import typer

from ochatctl.cli import bench_alpacaeval, bench_download, bench_mtbench, bench_report, bench_rescore, bench_suite
from ochatctl.cli.options import CommandGroup
from ochatctl.cli.output import examples


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="bench",
        cls=CommandGroup,
        help="Benchmark a model folder or a server.",
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog=examples(
            "ochatctl bench suite --tasks tasks.jsonl --model DIR",
            "ochatctl bench mtbench --base-url http://localhost:18888/v1 --judge NAME --max-cost 2",
        ),
    )
    for command in (bench_mtbench, bench_alpacaeval, bench_suite, bench_rescore, bench_report, bench_download):
        command.register(group)
    app.add_typer(group)
