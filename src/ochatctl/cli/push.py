"""`ochatctl push`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import DryRun, Json, OchatCommand, Quiet, Yes
from ochatctl.cli.output import Output, examples

if TYPE_CHECKING:
    from ochatctl.train.push import PushPlan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "push",
        cls=OchatCommand,
        epilog=examples("ochatctl push run owner/name --dry-run", "ochatctl push run/ep_3 owner/name"),
    )(push)


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="`RUN/ep_N`, or RUN for its last.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="`owner/name` on the hub.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see; default: private.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Send a trained model to the Hugging Face hub, private by default, with a card written from `run.json`."""
    from ochatctl.memory import size_text
    from ochatctl.train.push import prepare_push
    from ochatctl.train.push import push as send

    output = Output(as_json=json, quiet=quiet)
    plan = prepare_push(folder, repo, public=public)
    for note in plan.notes:
        output.note(note)
    if dry_run:
        output.result(plan, lambda: _plan_text(plan))
        return
    output.note(f"sending {len(plan.files)} files, {size_text(plan.num_bytes)}, to `{repo}`")
    done = send(plan, replace=yes)
    output.result(done, lambda: f"{done.num_files} files -> {done.url} ({'private' if done.private else 'public'})")


def _plan_text(plan: "PushPlan") -> str:
    lines = [f"would send to `{plan.repo}`, {'private' if plan.private else 'public'}:"]
    lines += [f"{path.stat().st_size:>16,}  {path.name}" for path in plan.files]
    if plan.card is not None:
        lines += [f"{len(plan.card.encode()):>16,}  README.md, written for it:", "", plan.card]
    return "\n".join(lines).rstrip()
