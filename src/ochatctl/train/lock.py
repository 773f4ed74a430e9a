"""One run at a time in an output folder: `OUT/.lock` is held by a process and names it. No torch.

The operating system lets go of the lock when its holder ends, however it ends; what the file still says then is stale.
On a disk without locks the file's own word is all there is: a process of this machine that has ended holds nothing.
"""

import contextlib
import datetime
import errno
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ochatctl.errors import ConfigError, EnvironmentProblem
from ochatctl.files import read_optional_table

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def hold(out_dir: Path) -> Iterator[None]:
    """Hold the folder's lock for as long as the block runs.

    Raises:
        EnvironmentProblem: another process holds it; names it.
    """
    path = out_dir / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        if not _try_lock(file.fileno()) or (not _has_locks(file.fileno()) and _lives(_read(path))):
            raise _in_use(out_dir, _read(path))
        file.truncate(0)
        holder = {
            "pid": os.getpid(),
            "host": platform.node(),
            "command": shlex.join(sys.orig_argv),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        file.write(json.dumps(holder) + "\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def check_free(out_dir: Path) -> None:
    """Refuse a folder that another process holds.

    Raises:
        EnvironmentProblem: names it.
    """
    path = out_dir / LOCK_FILE
    if not path.is_file():
        return
    with path.open("a", encoding="utf-8") as file:
        if not _try_lock(file.fileno()) or (not _has_locks(file.fileno()) and _lives(_read(path))):
            raise _in_use(out_dir, _read(path))


def _try_lock(handle: int) -> bool:
    """Take the lock of the operating system; true also where the disk has none. It goes with the open file."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def _has_locks(handle: int) -> bool:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_optional_table(path)
    except ConfigError:
        return {}  # empty, as after a run that ended well, or being written


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that the file names may still run; of another machine's nothing is known."""
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    if holder.get("host") != platform.node():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _in_use(out_dir: Path, holder: dict[str, Any]) -> EnvironmentProblem:
    pid, host = holder.get("pid", "unknown"), holder.get("host", "unknown")
    return EnvironmentProblem(
        f"`{out_dir}` is in use by process {pid} on `{host}`, since {holder.get('since', 'unknown')}: "
        f"`{holder.get('command', 'unknown')}`",
        hint=f"wait for it, end it with `kill {pid}`, which saves first, or name another `--out`; where that process "
        f"is gone, `rm {out_dir / LOCK_FILE}`",
    )
