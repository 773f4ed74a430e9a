"""A folder or a hub id -> a local folder; what can go wrong on the way is said with what to do."""

import contextlib
import importlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.errors import ConfigError, RemoteError
from ochatctl.extras import has
from ochatctl.files import read_json

# peft's; it names the base.
ADAPTER_FILE = "adapter_config.json"
_EPOCH = re.compile(r"ep_\d+")
# A training run's own.
_RUN_FILE = "run.json"
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_HUB_FILE = re.compile(_HUB_ID.pattern + r":(?P<file>.+)")
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot")
_PAUSES_SECONDS = (0.5, 1.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file to download, and what is known of its bytes before: a git blob's SHA-1 where it has no SHA-256."""

    path: str
    url: str
    num_bytes: int | None = None
    sha256: str = ""
    git_sha1: str = ""
    terms_url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubDataset:
    """A data set at one commit."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]


def local_model(name: str, *, weights: bool = True) -> Path:
    """Give the folder of a model: the folder itself, or a hub snapshot, downloaded where it is not cached.

    Without `weights` only what is small is downloaded: configs and the tokenizer.

    Raises:
        ConfigError: neither a folder nor a hub id.
        RemoteError: the hub cannot be reached, or refuses.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name and path.is_file():
        raise ConfigError(f"`{name}` is a file, and a model is a folder", hint=f"its own folder is `{path.parent}`")
    match = _HUB_ID.fullmatch(name)
    if match is None or name.startswith((".", "/", "~")):
        raise ConfigError(f"`{name}` is neither a folder nor a hub id", hint="a hub id is `owner/name[@revision]`")
    but = None if weights else _WEIGHT_FILES
    return _snapshot(match["repo"], match["revision"], repo_type="model", but=but)


def chat_model(name: str) -> Path:
    """Give the folder of a model to talk to: as `local_model`, and of a training run's folder its last whole `ep_N`.

    Raises:
        ConfigError: as `local_model`, or a training run in which no epoch has ended.
    """
    folder = local_model(name)
    # A run renames an epoch's folder when it is whole, so that a name of this form stands for a whole one.
    epochs = [path for path in folder.glob("ep_*") if _EPOCH.fullmatch(path.name) and (path / "config.json").is_file()]
    if (folder / "config.json").is_file():
        return folder
    if not epochs and (folder / _RUN_FILE).is_file():
        raise ConfigError(
            f"`{folder}` is a training run in which no epoch has ended yet",
            hint="the `ochatctl train` line that began it goes on with it; each epoch leaves a model, `ep_N`",
        )
    return max(epochs, key=lambda path: int(path.name.removeprefix("ep_")), default=folder)


def adapter_base(folder: Path) -> str | None:
    """Give the name of the base that a folder of adapters goes with; None for a folder of anything else."""
    path = folder / ADAPTER_FILE
    if not path.is_file():
        return None
    table = read_json(path)
    return str((table.get("base_model_name_or_path") if isinstance(table, dict) else None) or "")


def adapter_base_dir(folder: Path, *, base: str | None = None) -> Path:
    """Give the folder of that base, or of the one that is named instead.

    Raises:
        ConfigError: the folder holds no adapters, or names a base that is not here.
        RemoteError: the hub cannot be reached, or refuses.
    """
    named = adapter_base(folder)
    if named is None:
        raise ConfigError(f"`{folder}` holds no adapters: it has no `{ADAPTER_FILE}`")
    try:
        return local_model(base or named).absolute()
    except ConfigError as error:
        raise ConfigError(
            f"`{folder}` holds adapters for `{base or named}`, which is neither a folder here nor a hub id",
            hint=f"ochatctl merge {folder} --base DIR --out {folder}-merged",
        ) from error


def local_data(name: str) -> Path:
    """Give the path of a data file, or a prefix: itself, or that of `owner/name[@revision]:FILE` in a hub data set.

    Raises:
        RemoteError: the hub cannot be reached, or refuses.
    """
    match = _HUB_FILE.fullmatch(name)
    if match is None or Path(name).exists():
        return Path(name).expanduser()
    return _snapshot(match["repo"], match["revision"], repo_type="dataset", files=f"{match['file']}*") / match["file"]


def hub_dataset(repo: str, revision: str | None = None) -> HubDataset:
    """Give the files of a hub data set at one commit, with what they must be: nothing is downloaded.

    Raises:
        RemoteError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, constants, hf_hub_url

    with _faults(repo, revision, repo_type="dataset"):
        info = _patiently(lambda: HfApi().dataset_info(repo, revision=revision, files_metadata=True))
    commit = str(info.sha)
    files = [
        RemoteFile(
            path=sibling.rfilename,
            url=hf_hub_url(repo, sibling.rfilename, repo_type="dataset", revision=commit),
            num_bytes=sibling.size,
            sha256=sibling.lfs.sha256 if sibling.lfs else "",
            git_sha1=(sibling.blob_id or "") if not sibling.lfs else "",
            terms_url=f"{constants.ENDPOINT}/datasets/{repo}",
        )
        for sibling in info.siblings or ()
    ]
    return HubDataset(repo=repo, commit=commit, files=tuple(sorted(files, key=lambda file: file.path)))


def hub_headers() -> dict[str, str]:
    """Give the headers that let us in: the token of `HF_TOKEN` or of `hf auth login`, where there is one."""
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers(library_name="ochatctl"))


def hub_id(name: str) -> tuple[str, str | None] | None:
    """Give the repository and the revision of `owner/name[@revision]`, or None where a name has not that form."""
    match = _HUB_ID.fullmatch(name)
    return (match["repo"], match["revision"]) if match and not name.startswith((".", "/", "~")) else None


def _snapshot(
    repo: str,
    revision: str | None,
    *,
    repo_type: str,
    files: str | None = None,
    but: Sequence[str] | None = None,
) -> Path:
    from huggingface_hub import snapshot_download

    with _faults(repo, revision, repo_type=repo_type):
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                repo_type=repo_type,
                allow_patterns=files,
                ignore_patterns=list(but) if but else None,
            )
        )


@contextlib.contextmanager
def _faults(repo: str, revision: str | None, *, repo_type: str) -> Iterator[None]:
    from huggingface_hub import errors

    kind = "datasets/" if repo_type == "dataset" else ""
    unreachable: tuple[type[Exception], ...] = (*_http_errors(), OSError)
    try:
        yield
    except errors.GatedRepoError as error:
        raise RemoteError(
            f"`{repo}` is gated: its owner must let you in",
            hint=f"ask at https://huggingface.co/{kind}{repo}, then `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise RemoteError(
            f"`{repo}` has no revision `{revision}`", hint="leave `@revision` out for the newest"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise RemoteError(
            f"no {repo_type} `{repo}` on the hub, or it is private, and there is no folder of that name here",
            hint="check the spelling; for a private one, `hf auth login`",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        fetch = "ochatctl data download" if repo_type == "dataset" else "hf download"
        raise RemoteError(
            f"`{repo}` is no folder here and not in the cache, and the hub cannot be reached",
            hint=f"go online (`HF_HUB_OFFLINE` unset) and run `{fetch} {repo}`, or give a folder",
        ) from error
    except errors.HfHubHTTPError as error:
        raise RemoteError(
            f"`{repo}`: the hub failed: {str(error).partition(chr(10))[0]}",
            hint="try again; what was downloaded is kept",
        ) from error
    except unreachable as error:
        raise RemoteError(
            f"`{repo}`: the hub cannot be reached, or what it sent not written: {error}",
            hint="check the network and `HF_ENDPOINT`, then try again, or give a local path",
        ) from error


def _http_errors() -> tuple[type[Exception], ...]:
    """Give what the hub's client raises where no answer comes: since 2.0 of another package's."""
    found = []
    for name in ("httpx", "httpx2"):
        if has(name):
            found.append(importlib.import_module(name).HTTPError)
    return tuple(found)


def _patiently(call: Callable[[], Any]) -> Any:
    """Call again, a little later each time, where the hub is overloaded or out of reach for a moment."""
    from huggingface_hub import errors

    for pause_seconds in (*_PAUSES_SECONDS, None):
        try:
            return call()
        except (errors.HfHubHTTPError, *_http_errors()) as error:
            status = getattr(getattr(error, "response", None), "status_code", 503)
            if pause_seconds is None or (status < 500 and status != 429):
                raise
        time.sleep(pause_seconds)
    raise AssertionError
