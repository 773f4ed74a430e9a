"""A folder or a hub id -> a local folder; what can go wrong on the way is said with what to do."""

import re
from pathlib import Path

from ochatctl.errors import ConfigError, RemoteError

_EPOCH = re.compile(r"ep_\d+")
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_HUB_FILE = re.compile(_HUB_ID.pattern + r":(?P<file>.+)")


def local_model(name: str) -> Path:
    """Give the folder of a model: the folder itself, or a hub snapshot, downloaded where it is not cached.

    Raises:
        ConfigError: neither a folder nor a hub id.
        RemoteError: the hub cannot be reached, or refuses.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    match = _HUB_ID.fullmatch(name)
    if match is None or name.startswith((".", "/", "~")):
        raise ConfigError(f"`{name}` is neither a folder nor a hub id", hint="a hub id is `owner/name[@revision]`")
    return _snapshot(match["repo"], match["revision"], repo_type="model")


def chat_model(name: str) -> Path:
    """Give the folder of a model to talk to: as `local_model`, and of a training run's folder its last whole `ep_N`."""
    folder = local_model(name)
    # A run renames an epoch's folder when it is whole, so that a name of this form stands for a whole one.
    epochs = [path for path in folder.glob("ep_*") if _EPOCH.fullmatch(path.name) and (path / "config.json").is_file()]
    if (folder / "config.json").is_file() or not epochs:
        return folder
    return max(epochs, key=lambda path: int(path.name.removeprefix("ep_")))


def local_data(name: str) -> Path:
    """Give the path of a data file, or a prefix: itself, or that of `owner/name[@revision]:FILE` in a hub data set.

    Raises:
        RemoteError: the hub cannot be reached, or refuses.
    """
    match = _HUB_FILE.fullmatch(name)
    if match is None or Path(name).exists():
        return Path(name).expanduser()
    return _snapshot(match["repo"], match["revision"], repo_type="dataset", files=f"{match['file']}*") / match["file"]


def _snapshot(repo: str, revision: str | None, *, repo_type: str, files: str | None = None) -> Path:
    import httpx
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, repo_type=repo_type, allow_patterns=files))
    except errors.GatedRepoError as error:
        raise RemoteError(
            f"`{repo}` is gated: its owner must let you in",
            hint=f"ask at https://huggingface.co/{repo}, then `hf auth login`",
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
        raise RemoteError(
            f"`{repo}` is no folder here and not in the cache, and the hub cannot be reached",
            hint=f"go online (`HF_HUB_OFFLINE` unset) and run `hf download {repo}`, or give a folder",
        ) from error
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise RemoteError(
            f"`{repo}`: the hub failed: {error}", hint="try again; what was downloaded is kept"
        ) from error
