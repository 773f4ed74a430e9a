"""A final name is never half-written."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ochatctl.errors import ConfigError, DataError, EnvironmentProblem, UsageProblem
from ochatctl.files import (
    atomic_dir,
    atomic_file,
    digest,
    read_json,
    read_jsonl,
    read_optional_table,
    refuse_existing,
    require_disk,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    with atomic_file(target) as part:
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with contextlib.suppress(ZeroDivisionError), atomic_file(target) as part:
        part.write_text("broken")
        raise ZeroDivisionError
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_folder_replaces_the_old_one_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("old", "new"):
        with atomic_dir(target) as part:
            (part / "weights").write_text(content)
    assert (target / "weights").read_text() == "new"
    with contextlib.suppress(ZeroDivisionError), atomic_dir(target) as part:
        (part / "weights").write_text("broken")
        raise ZeroDivisionError
    assert (target / "weights").read_text() == "new"
    assert os.listdir(tmp_path) == ["model"]


KILLED = """
import sys, time
from pathlib import Path
from ochatctl.files import atomic_dir, atomic_file
with atomic_dir(Path(sys.argv[1]) / "model") as folder, atomic_file(Path(sys.argv[1]) / "file") as file:
    (folder / "weights").write_text("half")
    file.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "file").exists()


def test_new_files_obey_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with atomic_file(tmp_path / "atomic") as part:
        part.write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_existing_output_is_refused_without_yes(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="exists") as caught:
        refuse_existing(tmp_path, yes=False)
    assert "--yes" in caught.value.hint
    refuse_existing(tmp_path, yes=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    with pytest.raises(UsageProblem):
        refuse_existing(tmp_path / "dangling", yes=False)


def test_a_disk_too_small_is_refused_with_both_figures(tmp_path: Path) -> None:
    require_disk(tmp_path / "not" / "yet", need_bytes=1)
    with pytest.raises(EnvironmentProblem, match=r"needs 1000000000\.00 GB of disk, and .* GB are free"):
        require_disk(tmp_path / "not" / "yet", need_bytes=10**18)


def test_json_lines_come_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n  \n[2]\r\n"\xc3\xa9"')
    assert list(read_jsonl(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", [2]), (f"{path}:5", "é")]
    path.write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: not valid JSON"):
        list(read_jsonl(path))
    with pytest.raises(DataError, match="a folder"):
        list(read_jsonl(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "absent")


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_optional_table_is_empty_where_there_is_none_and_a_malformed_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert read_optional_table(path) == {}
    path.write_text('{"a": "é"}', encoding="utf-8")
    assert read_optional_table(path) == {"a": "é"}
    path.write_text("[1]")
    assert read_optional_table(path) == {}
    for content in (b"", b"{", b'{"a": "\xff"}'):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"config\.json: not valid JSON"):
            read_optional_table(path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux's file system for processes")
def test_where_no_folder_can_be_made_it_is_said_and_is_no_missing_file() -> None:
    for make in (atomic_file, atomic_dir):
        with pytest.raises(EnvironmentProblem, match="`/proc/x`: no folder can be made there"), make(Path("/proc/x/y")):
            pass
