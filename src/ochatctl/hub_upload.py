"""A folder of ours -> a model repository on the hub, in one commit; private unless asked otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.errors import RemoteError, UsageProblem

_CARD_FILE = "README.md"
# What the hub itself puts into a new repository.
_HUB_FILES = {".gitattributes"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploaded:
    """A commit on the hub."""

    repo: str
    url: str
    private: bool
    num_files: int


def licence_of(model_dir: Path) -> dict[str, str]:
    """Give what a model's own card says of its licence: `license`, and its name and link where it is a custom one."""
    from huggingface_hub import metadata_load

    card = model_dir / _CARD_FILE
    table = (metadata_load(card) if card.is_file() else None) or {}
    keys = ("license", "license_name", "license_link")
    return {key: table[key] for key in keys if isinstance(table.get(key), str)}


def hub_name_of(model_dir: Path) -> str | None:
    """Give `owner/name` of a snapshot in the hub's cache; None for any other folder."""
    for part in model_dir.absolute().parts:
        kind, *names = part.split("--")
        if kind == "models" and len(names) == 2:
            return "/".join(names)
    return None


def upload_model(repo: str, files: Sequence[Path], card: str | None, *, private: bool, replace: bool) -> Uploaded:
    """Make the repository where there is none, and add the files, and the card, in one commit.

    Guarantees: a repository that holds anything is not touched without `replace`, nor a public one by a private upload.

    Raises:
        UsageProblem: the repository holds files already, or is public.
        RemoteError: not logged in, not allowed, or the hub failed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    api = HfApi()
    operations = [CommitOperationAdd(file.name, file) for file in files]
    if card is not None:
        operations.append(CommitOperationAdd(_CARD_FILE, card.encode("utf-8")))
    try:
        name = api.create_repo(repo, repo_type="model", private=private, exist_ok=True).repo_id
        info: Any = api.model_info(name)
        held = sorted({sibling.rfilename for sibling in info.siblings or ()} - _HUB_FILES)
        if held and not replace:
            raise UsageProblem(
                f"`{name}` holds {len(held)} files already, such as `{held[0]}`",
                hint="choose another name, or add `--yes` to commit on top of them",
            )
        if private and info.private is False:
            raise UsageProblem(f"`{name}` is public", hint="add `--public`, or choose another name")
        commit = api.create_commit(name, operations, commit_message="Add the model")
    except errors.LocalTokenNotFoundError as error:
        raise RemoteError("nobody is logged in to the hub", hint="hf auth login") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise RemoteError(
                f"the hub does not let you write to `{repo}`", hint="`hf auth login` with a token that may write"
            ) from error
        raise RemoteError(f"`{repo}`: the hub failed: {error}", hint="try again") from error
    # The error of the HTTP client, which is another package in each major version of the hub's library.
    except (errors.HTTPError, OSError) as error:
        raise RemoteError(f"`{repo}`: the hub cannot be reached: {error}", hint="try again when online") from error
    return Uploaded(repo=name, url=commit.commit_url, private=private, num_files=len(operations))
