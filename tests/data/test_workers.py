"""Worker processes: Ctrl-C is answered by the one that has them, at any moment of theirs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import time
from ochatctl.data.workers import Workers

def start(): pass

if __name__ == "__main__":
    with Workers(2, start, ()) as workers:
        slept = [workers.submit(time.sleep, 0.1) for _ in range(2)]
        print("started", flush=True)
        for one in slept:
            one.result()
        time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends Ctrl-C to a process group")
def test_ctrl_c_is_answered_once_though_workers_are_just_starting(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does; the workers are in the middle of their imports
    _, said = process.communicate(timeout=60)
    assert said.count("Traceback") == 1, said
    assert process.returncode == -signal.SIGINT
