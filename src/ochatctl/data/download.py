"""`ochatctl data download`: a plan and a folder -> whole, checked files.

in: a source and a folder, out: its files, and `download.json`, written last: what they are, and where they are from.
While it is not whole, `.download.part.json` has the plan: the next run goes on with the same commit.
"""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ochatctl.data.sources import MANIFEST_NAME, DownloadPlan, plan_download
from ochatctl.data.transfer import Patience, download_file, part_path, wrong_bytes
from ochatctl.errors import ConfigError, DataError, UsageProblem
from ochatctl.files import digest, make_dir, read_json, refuse_existing, require_disk, write_json
from ochatctl.hub import RemoteFile, hub_headers
from ochatctl.lock import LOCK_FILE, hold

MANIFEST_FORMAT = "ochatctl-download"
MANIFEST_VERSION = 1
_STATE_NAME = ".download.part.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeFile:
    """A file that is there, whole and checked."""

    path: str
    bytes: int
    sha256: str


@dataclass(kw_only=True, slots=True)
class DownloadReport:
    """What is in the folder now; `num_new` files came in this run, the others were whole already."""

    source: str
    revision: str
    out_dir: str
    num_new: int = 0
    files: list[WholeFile] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)


def plan_into(
    source: str, out_dir: Path, include: Iterable[str] = (), *, sha256: str = "", yes: bool = False
) -> DownloadPlan:
    """Give what a folder is to hold: what was begun there, as it was begun, or else what the source has now.

    Guarantees: a download that is whole or half in the folder is planned without asking the source, unless `yes`.

    Raises:
        UsageProblem: the folder holds something else, and `yes` is not given.
        ConfigError, RemoteError: as `plan_download`.
        DataError: the manifest is of a newer ochatctl.
    """
    include = tuple(include)
    if out_dir.exists() and not out_dir.is_dir():
        raise UsageProblem(f"`{out_dir}` is a file", hint="choose another `--out`, a folder")
    begun = _read_plan(out_dir / _STATE_NAME) or _read_plan(out_dir / MANIFEST_NAME)
    if begun is not None and begun.source == source and (begun.include == include or not include) and not yes:
        return _with_sha256(begun, sha256)
    # A plan of which nothing came yet, such as one of a misspelt address, is in nobody's way.
    if out_dir.is_dir() and any(path.name not in (_STATE_NAME, LOCK_FILE) for path in out_dir.iterdir()):
        refuse_existing(out_dir, yes=yes)
    plan = plan_download(source, include, sha256=sha256)
    if plan.kind == "local":
        _refuse_inside(Path(source).expanduser(), out_dir)
    return plan


def download(
    plan: DownloadPlan,
    out_dir: Path,
    *,
    patience: Patience | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> DownloadReport:
    """Bring the plan's files into a folder, and write the manifest.

    Guarantees: a file that has its name is whole; a run that was killed is finished by the next one, which asks only
    for what is missing; files that are whole are verified and kept.

    Raises:
        RemoteError: a server refuses, goes on failing, or sends other bytes than promised.
        EnvironmentProblem: the disk is too small, or another process downloads into the folder.
    """
    # What cannot be written, such as a shared copy, can still be verified.
    is_read_only = out_dir.is_dir() and not os.access(out_dir, os.W_OK)
    with contextlib.nullcontext() if is_read_only else hold(out_dir):
        return _download(plan, out_dir, patience or Patience(), advance)


def _download(plan: DownloadPlan, out_dir: Path, patience: Patience, advance: Callable[[int], None]) -> DownloadReport:
    require_disk(out_dir, need_bytes=_missing_bytes(plan, out_dir))
    manifest_path, state_path = out_dir / MANIFEST_NAME, out_dir / _STATE_NAME
    before = _read_plan(manifest_path)
    report = DownloadReport(source=plan.source, revision=plan.revision, out_dir=str(out_dir))
    headers = hub_headers() if plan.kind == "hub" else {}

    def note(file: RemoteFile, path: Path, sha256: str) -> None:
        nonlocal plan
        noted = replace(file, num_bytes=path.stat().st_size, sha256=sha256, git_sha1="")
        plan = replace(plan, files=tuple(noted if other.path == file.path else other for other in plan.files))

    def note_part(file: RemoteFile, part: Path, sha256: str) -> None:
        note(file, part, sha256)
        _write_plan(state_path, plan)

    for file in plan.files:
        target = out_dir / file.path
        sha256 = digest(target) if target.is_file() and (file.sha256 or file.git_sha1) else ""
        if sha256 and not wrong_bytes(target, file, sha256):
            advance(target.stat().st_size)
        else:
            if not report.num_new:
                # In this order, a folder with a manifest is whole.
                _write_plan(state_path, plan)
                manifest_path.unlink(missing_ok=True)
            if plan.kind == "local":
                sha256 = _copy(file, target, advance)
            else:
                sha256 = download_file(
                    file,
                    target,
                    headers=headers,
                    patience=patience,
                    advance=advance,
                    whole=functools.partial(note_part, file),
                )
            report.num_new += 1
        note(file, target, sha256)
        report.files.append(WholeFile(path=file.path, bytes=target.stat().st_size, sha256=sha256))
    if before != plan or report.num_new:
        _write_plan(manifest_path, plan)
    state_path.unlink(missing_ok=True)
    return report


def _with_sha256(plan: DownloadPlan, sha256: str) -> DownloadPlan:
    if not sha256:
        return plan
    if len(plan.files) != 1:
        raise ConfigError(f"`--sha256` is of one file, and these are {len(plan.files)}")
    return replace(plan, files=(replace(plan.files[0], sha256=sha256.lower()),))


def _missing_bytes(plan: DownloadPlan, out_dir: Path) -> int:
    missing = 0
    for file in plan.files:
        paths = [path for path in (out_dir / file.path, part_path(out_dir / file.path)) if path.is_file()]
        missing += max(0, (file.num_bytes or 0) - sum(path.stat().st_size for path in paths[:1]))
    return missing


def _copy(file: RemoteFile, target: Path, advance: Callable[[int], None]) -> str:
    make_dir(target.parent)
    part = part_path(target)
    try:
        shutil.copyfile(file.url, part)
    except OSError as error:
        raise DataError(f"{file.url}: cannot be copied: {error}") from error
    sha256 = digest(part)
    if problem := wrong_bytes(part, replace(file, num_bytes=None), sha256):
        part.unlink()
        raise DataError(
            f"{file.url}: {problem}", hint="add `--yes` where the file has changed and shall be copied anew"
        )
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    advance(part.stat().st_size)
    part.replace(target)
    return sha256


def _refuse_inside(source: Path, out_dir: Path) -> None:
    source, out_dir = source.resolve(), out_dir.resolve()
    if source.is_dir() and out_dir.is_relative_to(source):
        raise UsageProblem(f"`{out_dir}` is inside `{source}`, which would be copied into itself")
    if source.parent == out_dir:
        raise UsageProblem(f"`{source}` is in `{out_dir}` already", hint="choose another `--out`")


def _read_plan(path: Path) -> DownloadPlan | None:
    """Give a manifest's plan, or None where there is none, or another program's."""
    if not path.is_file():
        return None
    table = read_json(path)
    if not isinstance(table, dict) or table.get("format") != MANIFEST_FORMAT:
        return None
    if table.get("version") != MANIFEST_VERSION:
        raise DataError(
            f"{path}: version {table.get('version')} of `{MANIFEST_FORMAT}`; this ochatctl reads {MANIFEST_VERSION}",
            hint="pip install -U ochatctl",
        )
    try:
        files = tuple(
            RemoteFile(
                path=file["path"],
                url=file["url"],
                num_bytes=file["bytes"],
                sha256=file["sha256"],
                git_sha1=file.get("git_sha1", ""),
                terms_url=file.get("terms_url", ""),
            )
            for file in table["files"]
        )
        return DownloadPlan(
            source=table["source"],
            kind=table["kind"],
            files=files,
            include=tuple(table["include"]),
            revision=table["revision"],
            licence=table["licence"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a whole `{MANIFEST_FORMAT}`: {error!r}", hint="remove it, and run again"
        ) from error


def _write_plan(path: Path, plan: DownloadPlan) -> None:
    files: list[dict[str, Any]] = []
    for file in plan.files:
        table: dict[str, Any] = {"path": file.path, "bytes": file.num_bytes, "sha256": file.sha256, "url": file.url}
        table |= {key: value for key in ("git_sha1", "terms_url") if (value := getattr(file, key))}
        files.append(table)
    write_json(
        path,
        {
            "format": MANIFEST_FORMAT,
            "version": MANIFEST_VERSION,
            "source": plan.source,
            "kind": plan.kind,
            "revision": plan.revision,
            "licence": plan.licence,
            "include": list(plan.include),
            "files": files,
        },
    )
