"""Why a resume checkpoint could not be written, in the words of whoever has to make room."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ochatctl.train.saver import save_reason


def what_torch_says(path: Path) -> str:
    """The words alone: the error itself would keep the file open."""
    try:
        torch.save(torch.zeros(100_000), path)
    except (OSError, RuntimeError) as error:
        return str(error)
    raise AssertionError("it could be written")


def test_torchs_words_for_a_full_disk_are_not_passed_on(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a small disk here")
    try:
        folder = disk / "resume" / "step_2"
        folder.mkdir(parents=True)
        said = what_torch_says(folder / "rng_0.pt")
        assert "No space left" not in said, "what this is for"
        assert save_reason(said, folder) == f"the disk that holds `{disk / 'resume'}` is full"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_where_there_is_room_what_was_said_stays(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 1 << 24:
        pytest.skip("this disk is full")
    for said in (
        "[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598",
        "[Errno 13] Permission denied",
    ):
        assert save_reason(said, tmp_path) == said
