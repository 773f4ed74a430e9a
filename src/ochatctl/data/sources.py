"""What there is to download: a table of known data sets, and the files of a hub data set, an address or a local path.

in: a source as the user names it, out: a DownloadPlan; nothing is downloaded here.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from ochatctl.config import did_you_mean
from ochatctl.errors import ConfigError
from ochatctl.hub import RemoteFile, hub_dataset, hub_id

MANIFEST_NAME = "download.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data set that people train chat models on. `size` is about what is downloaded, of the files of `include`."""

    repo: str
    about: str
    licence: str
    size: str
    include: tuple[str, ...] = ()


# Licences are those that the sets' own pages state. Whose the text of a chat is, they do not settle.
_DOCUMENTS = ("README.md", "LICENSE")
SOURCES = {
    "openchat_sharegpt_v3": Source(
        repo="openchat/openchat_sharegpt_v3",
        about="OpenChat's own: ShareGPT chats in Markdown with their models; `--include '*'` for its token files too",
        licence="MIT",
        size="1.4 GB",
        include=("sharegpt_clean.json", *_DOCUMENTS),
    ),
    "sharegpt_vicuna_unfiltered": Source(
        repo="anon8231489123/ShareGPT_Vicuna_unfiltered",
        about="ShareGPT chats as FastChat split them; `--rule join` joins the parts again",
        licence="Apache-2.0",
        size="0.7 GB",
        include=("ShareGPT_V3_unfiltered_cleaned_split.json", *_DOCUMENTS),
    ),
    "sharegpt_90k": Source(
        repo="RyokoAI/ShareGPT52K",
        about="90,000 ShareGPT chats in many languages, as HTML",
        licence="CC0-1.0",
        size="unknown",
        include=("sg_90k_*.json", *_DOCUMENTS),
    ),
    "ultrachat_200k": Source(
        repo="HuggingFaceH4/ultrachat_200k",
        about="207,865 chats that ChatGPT had with itself, filtered",
        licence="MIT",
        size="unknown",
        include=("data/train_sft-*", *_DOCUMENTS),
    ),
    "openorca": Source(
        repo="Open-Orca/OpenOrca",
        about="FLAN questions, answered by GPT-4 and GPT-3.5",
        licence="MIT",
        size="4.1 GB",
        include=("*-Augmented.parquet", *_DOCUMENTS),
    ),
    "metamathqa": Source(
        repo="meta-math/MetaMathQA",
        about="questions of GSM8K and MATH, rewritten and answered",
        licence="MIT",
        size="unknown",
    ),
    "dolly": Source(
        repo="databricks/databricks-dolly-15k",
        about="15,000 instructions and answers written by people",
        licence="CC-BY-SA-3.0",
        size="13 MB",
    ),
}


Kind = Literal["hub", "url", "local"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadPlan:
    """The files of a source, and what is known of their bytes. `revision` is a hub data set's commit."""

    source: str
    kind: Kind
    files: tuple[RemoteFile, ...]
    include: tuple[str, ...] = ()
    revision: str = ""
    licence: str = ""

    @property
    def num_bytes(self) -> int | None:
        """The size of all files, or None where one is unknown."""
        sizes = [file.num_bytes for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


def plan_download(source: str, include: Iterable[str] = (), *, sha256: str = "") -> DownloadPlan:
    """Find out what a source has: a name of SOURCES, a hub id, an address, or a local file or folder.

    Raises:
        ConfigError: the source is none of them, `include` matches nothing, or `sha256` is not of one file.
        RemoteError: the hub cannot be reached, or refuses.
    """
    include = tuple(include)
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"`--sha256 {sha256}` is not 64 hexadecimal digits")
    repo, revision = hub_id(source) or ("", None)
    known = SOURCES.get(source) or next((known for known in SOURCES.values() if known.repo == repo), None)
    local = Path(source).expanduser()
    if source and local.exists() and source not in SOURCES:
        plan = DownloadPlan(source=source, kind="local", files=_local_files(local), include=include)
    elif re.match(r"https?://", source, re.IGNORECASE):
        file = RemoteFile(path=_url_name(source), url=source)
        plan = DownloadPlan(source=source, kind="url", files=(file,), include=include)
    elif known or repo:
        dataset = hub_dataset(known.repo if known else repo, revision)
        plan = DownloadPlan(
            source=source,
            kind="hub",
            files=dataset.files,
            include=include or (known.include if known else ()),
            revision=dataset.commit,
            licence=known.licence if known else "",
        )
    else:
        raise ConfigError(
            f"`{source}` is no known source, hub id, address or local path{did_you_mean(source, SOURCES)}",
            hint="`ochatctl data sources` lists what is known; a hub id is `owner/name[@revision]`",
        )
    return _chosen(plan, sha256)


def _chosen(plan: DownloadPlan, sha256: str) -> DownloadPlan:
    files = [file for file in plan.files if not plan.include or _matches(file.path, plan.include)]
    if not files:
        wanted = ", ".join(f"`{glob}`" for glob in plan.include)
        there = ", ".join(f"`{file.path}`" for file in plan.files[:8]) or "none"
        raise ConfigError(f"`{plan.source}` has no file that matches {wanted or 'at all'}", hint=f"its files: {there}")
    if sha256 and len(files) != 1:
        raise ConfigError(f"`--sha256` is of one file, and these are {len(files)}", hint="choose one with `--include`")
    for file in files:
        path = PurePosixPath(file.path)
        # What a server names must not leave the folder, and must not be our own manifest.
        if path.is_absolute() or ".." in path.parts or "\\" in file.path or file.path == MANIFEST_NAME:
            raise ConfigError(f"`{plan.source}` has a file named `{file.path}`", hint="choose others with `--include`")
    if sha256:
        files = [replace(files[0], sha256=sha256.lower())]
    return replace(plan, files=tuple(files))


def _matches(path: str, include: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, glob) for glob in include)


def _local_files(path: Path) -> tuple[RemoteFile, ...]:
    path = path.resolve()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    folder = path.parent if path.is_file() else path
    chosen: list[RemoteFile] = []
    for file in files:
        relative = file.relative_to(folder)
        # Hidden ones are a version control's or an editor's; a manifest is the other folder's.
        if relative.as_posix() != MANIFEST_NAME and not any(part.startswith(".") for part in relative.parts):
            chosen.append(RemoteFile(path=relative.as_posix(), url=str(file), num_bytes=file.stat().st_size))
    return tuple(chosen)


def _url_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    name = re.sub(r"[^\w.+ -]", "_", name).lstrip(".")
    return f"file-{name}" if name == MANIFEST_NAME else name or "file"
