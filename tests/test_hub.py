"""Folders and hub ids; what goes wrong is said with what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ochatctl.errors import ConfigError
from ochatctl.hub import chat_model, local_model


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert local_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["absent", "./absent/model", "/absent/model", "a/b/c", "owner/na me", ""])
def test_neither_a_folder_nor_a_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a hub id"):
        local_model(name)


def test_a_file_is_no_model_and_a_run_is_none_before_its_first_epoch_ends(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a file, and a model is a folder"):
        local_model(str(tmp_path / "run.json"))
    (tmp_path / ".ep_1.x.part").mkdir()
    with pytest.raises(ConfigError, match="no epoch has ended yet"):
        chat_model(str(tmp_path))
    (tmp_path / "ep_1").mkdir()
    (tmp_path / "ep_1" / "config.json").write_text("{}")
    assert chat_model(str(tmp_path)).name == "ep_1"


OFFLINE = """
from ochatctl.errors import RemoteError
from ochatctl.hub import local_data, local_model
for get, name in ((local_model, "owner/not-in-the-cache@main"), (local_data, "owner/not-in-the-cache:a.jsonl")):
    try:
        get(name)
    except RemoteError as error:
        print(error.exit_code, error.message, error.hint)
"""


def test_offline_is_exit_6_with_the_command_that_helps(tmp_path: Path) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=env, capture_output=True, text=True, check=True)
    model, data = done.stdout.splitlines()
    for line, command in ((model, "`hf download owner/"), (data, "`ochatctl data download owner/")):
        assert line.startswith("6 `owner/not-in-the-cache` is no folder here")
        assert command in line
