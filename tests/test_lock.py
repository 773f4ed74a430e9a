"""One writer at a time: who holds a folder is named, and what a dead one has left is taken over."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ochatctl.errors import EnvironmentProblem
from ochatctl.lock import LOCK_FILE, check_free, hold

_HOLD = """
import pathlib, sys
from ochatctl.lock import hold
with hold(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder


def test_the_lock_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    with another_process(tmp_path) as holder:
        in_use = f"in use by process {holder.pid} on"
        with pytest.raises(EnvironmentProblem, match=in_use) as caught, hold(tmp_path, shown="packed/chats"):
            pass
        assert caught.value.message.startswith("`packed/chats` is")
        assert "saves first" not in caught.value.hint
        with pytest.raises(EnvironmentProblem, match=in_use) as caught:
            check_free(tmp_path, saves=True)
        assert f"`kill {holder.pid}`, which saves first" in caught.value.hint
        holder.kill()
    # What it wrote is stale now, and taken over.
    assert str(holder.pid) in (tmp_path / LOCK_FILE).read_text(encoding="utf-8")
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()
    check_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_ends_well_leaves_nothing_and_lets_the_next_one_in(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with another_process(folder) as holder:
        assert (folder / LOCK_FILE).is_file()
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.wait() == 0
    assert list(tmp_path.iterdir()) == []
    with hold(folder):
        (folder / "result").touch()
    assert list(folder.iterdir()) == [folder / "result"]


def test_a_lock_whose_file_was_removed_keeps_nobody_out(tmp_path: Path) -> None:
    with hold(tmp_path):
        (tmp_path / LOCK_FILE).unlink()
        with hold(tmp_path):
            assert (tmp_path / LOCK_FILE).is_file()
