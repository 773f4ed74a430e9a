"""One writer at a time in a folder: `FOLDER/.lock` is held by a process and names it.

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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ochatctl.errors import ConfigError, EnvironmentProblem
from ochatctl.files import make_dir, read_optional_table

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
# A holder has no name yet between taking the lock and writing it; `check_free` holds it for as short a time.
_NAMELESS_SECONDS = 1.0
_TICK_SECONDS = 0.02


@contextlib.contextmanager
def hold(folder: Path, *, shown: str | None = None, saves: bool = False) -> Iterator[None]:
    """Make the folder, and hold its lock for as long as the block runs.

    `shown` is the folder's name in errors, where the user knows it by another one; `saves`: a holder that is asked to
    end saves first.

    Guarantees: the lock's file goes with it, and so do the folders that were made for it and are empty.

    Raises:
        EnvironmentProblem: another process holds it; names it.
    """
    path = folder / LOCK_FILE
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    handle = _take(path, shown or str(folder), create=True, saves=saves)
    try:
        holder = {
            "pid": os.getpid(),
            "host": platform.node(),
            "command": shlex.join(sys.orig_argv),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(handle, 0)
        os.write(handle, f"{json.dumps(holder)}\n".encode())
        try:
            yield
        finally:
            # Under the lock: whoever has opened this file meanwhile sees that it has no name any more.
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()


def check_free(folder: Path, *, shown: str | None = None, saves: bool = False) -> None:
    """Refuse a folder that another process holds.

    Raises:
        EnvironmentProblem: names it.
    """
    with contextlib.suppress(FileNotFoundError):
        os.close(_take(folder / LOCK_FILE, shown or str(folder), create=False, saves=saves))


def _take(path: Path, shown: str, *, create: bool, saves: bool) -> int:
    """Give the lock's file, open and locked; without `create`, a missing one is a FileNotFoundError."""
    deadline = time.monotonic() + _NAMELESS_SECONDS
    while True:
        if create:
            make_dir(path.parent)
        try:
            handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        except FileNotFoundError:
            if create:
                continue  # a holder that ended took the folder with it
            raise
        is_ours = False
        try:
            has_lock = _try_lock(handle)
            if has_lock and not _is_at(handle, path):
                continue
            holder = _read(path)
            is_ours = has_lock and (_has_locks(handle) or not _lives(holder))
            if is_ours:
                return handle
        finally:
            if not is_ours:
                os.close(handle)
        if _lives(holder) or holder.get("pid") == os.getpid() or time.monotonic() > deadline:
            raise _in_use(path, holder, shown, saves=saves)
        time.sleep(_TICK_SECONDS)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file still has its name: one that was removed meanwhile keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


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
        return {}  # being written


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


def _in_use(path: Path, holder: dict[str, Any], shown: str, *, saves: bool) -> EnvironmentProblem:
    pid, host = holder.get("pid", "unknown"), holder.get("host", "unknown")
    return EnvironmentProblem(
        f"`{shown}` is in use by process {pid} on `{host}`, since {holder.get('since', 'unknown')}: "
        f"`{holder.get('command', 'unknown')}`",
        hint=f"wait for it, end it with `kill {pid}`{', which saves first' if saves else ''}, or name another `--out`; "
        f"where that process is gone, `rm {shlex.quote(str(path))}`",
    )
