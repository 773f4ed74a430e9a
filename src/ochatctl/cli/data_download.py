"""`ochatctl data download`, `ochatctl data sources`."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.options import DryRun, Json, OchatCommand, Quiet, Yes
from ochatctl.cli.output import Output, examples

if TYPE_CHECKING:
    from ochatctl.data.download import DownloadReport
    from ochatctl.data.sources import DownloadPlan

_CHAT_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".html", ".gz", ".zst")


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command(
        "download",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data download openchat/openchat_sharegpt_v3 --out raw",
            "ochatctl data download owner/chats@main --include 'data/train-*' --out raw",
            "ochatctl data download https://example.org/chats.jsonl.gz --out raw",
        ),
    )(download)
    group.command(
        "sources", cls=OchatCommand, epilog=examples("ochatctl data sources", "ochatctl data sources --json")
    )(sources)


def download(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A name of `data sources`, a hub id, an address, a file or a folder."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder for the files.")],
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only files whose path matches; repeats.")
    ] = None,
    sha256: Annotated[str, typer.Option("--sha256", help="What one file must have.")] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Download a data set, checked; run it again to finish what was cut short, or to verify.

    The commit of a hub data set is pinned in DIR/download.json. `--yes` asks for its newest one.
    """
    from ochatctl.data.download import download as download_files
    from ochatctl.data.download import plan_into

    output = Output(as_json=json, quiet=quiet)
    plan = plan_into(source, out, include or (), sha256=sha256, yes=yes)
    if dry_run:
        rows = [(file.path, _size(file.num_bytes)) for file in plan.files]
        output.table(plan, ("file", "size"), [*rows, (_files(len(rows)), _size(plan.num_bytes))])
        return
    output.note(_plan_text(plan))
    with output.progress("downloading", total=plan.num_bytes, of_bytes=True) as advance:
        report = download_files(plan, out, advance=advance)
    output.result(dataclasses.asdict(report) | {"num_bytes": report.num_bytes}, lambda: _report_text(report))


def sources(json: Json = False) -> None:
    """List the data sets that `data download` knows by name, with size and licence."""
    from ochatctl.data.sources import SOURCES

    rows = [(name, each.repo, each.size, each.licence, each.about) for name, each in SOURCES.items()]
    Output(as_json=json).table(SOURCES, ("name", "hub id", "size", "licence", "what"), rows)


def _plan_text(plan: "DownloadPlan") -> str:
    text = f"{plan.source}{f' at {plan.revision}' if plan.revision else ''}: {_files(len(plan.files))}"
    if plan.include:
        text += f" that match {' '.join(plan.include)}"
    return f"{text}, {_size(plan.num_bytes)}{f', licence {plan.licence}' if plan.licence else ''}"


def _report_text(report: "DownloadReport") -> str:
    lines = [f"{_size(file.bytes):>10}  {file.sha256[:12]}  {file.path}" for file in report.files]
    whole = len(report.files) - report.num_new
    state = f"{report.num_new} new, {whole} whole before" if report.num_new else "already whole, verified"
    lines.append(f"{_files(len(report.files))}, {_size(report.num_bytes)} in {report.out_dir}: {state}")
    chats = [file.path for file in report.files if file.path.endswith(_CHAT_SUFFIXES)]
    if chats:
        what = str(Path(report.out_dir, chats[0])) if len(chats) == 1 else report.out_dir
        lines.append(f"next: ochatctl data clean {shlex.quote(what)} --out clean.jsonl")
    return "\n".join(lines)


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "size unknown"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"
