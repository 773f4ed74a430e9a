"""Read JSONL with line numbers; write files and folders so that the final name is never half-written."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ochatctl.errors import ConfigError, DataError, EnvironmentProblem, UsageProblem

_DIGEST_CHUNK_BYTES = 1 << 20


def read_json(path: Path) -> Any:
    """Give the JSON value that a UTF-8 file holds.

    Raises:
        DataError: missing, not UTF-8 or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def read_optional_table(path: Path) -> dict[str, Any]:
    """Give the JSON object that a file of a model folder holds: empty where there is no such file, or no object in it.

    Raises:
        ConfigError: not UTF-8 or not JSON.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """Give `("file:line", value)` for each line that is not blank.

    Raises:
        DataError: names `file:line`.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    yield where, json.loads(line)
                except (UnicodeDecodeError, json.JSONDecodeError) as error:
                    raise DataError(f"{where}: not valid JSON: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a folder, where a JSONL file is expected") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_existing(path: Path, *, yes: bool) -> None:
    """Stop before anything is written where `path` exists and the user did not say `--yes`.

    Raises:
        UsageProblem: names the path and the flag.
    """
    if os.path.lexists(path) and not yes:
        raise UsageProblem(f"`{path}` exists", hint="choose another `--out`, or add `--yes` to overwrite it")


def require_disk(path: Path, *, need_bytes: int) -> None:
    """Stop before anything is written where the disk under `path` is too small.

    Raises:
        EnvironmentProblem: with both figures.
    """
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        raise EnvironmentProblem(
            f"`{path}` needs {need_bytes / 1e9:.2f} GB of disk, and {free_bytes / 1e9:.2f} GB are free",
            hint="free some space, or choose another `--out`",
        )


def make_dir(path: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        EnvironmentProblem: nothing can be made there, as below `/proc`; it is no missing file, as the system says.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise EnvironmentProblem(
            f"`{os.fsdecode(error.filename)}`: no folder can be made there", hint="choose another place"
        ) from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it on success, remove it on failure."""
    make_dir(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    part.chmod(0o666 & ~_umask())  # mkstemp makes 0600, which would lock out a shared folder's group
    try:
        yield part
        _sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it on success, remove it on failure.

    An existing `path` is replaced: call `refuse_existing` before any work is done.
    """
    path = path.absolute()
    make_dir(path.parent)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    part.chmod(0o777 & ~_umask())
    try:
        yield part
        for file in part.rglob("*"):
            # A hard link's bytes belong to another folder and are on disk already.
            if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:
                _sync(file)
        old = None
        if os.path.lexists(path):
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent)) / path.name
            path.rename(old)
        part.rename(path)
        if old is not None:
            shutil.rmtree(old.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def digest(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_DIGEST_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
