"""A process of vLLM's that starts late learns that the server is gone, without vLLM."""

import os
import subprocess
import sys
import time

import pytest

from ochatctl.engine.vllm_child import PARENT_PID

CODE = "from ochatctl.engine.vllm_child import die_with_server as call; call(); print('alive', flush=True)"
OWN_GROUP = "; import os; print(os.getpgid(0) == os.getpid(), flush=True)"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked, and /proc")


def test_a_process_ends_at_once_where_the_server_has_ended_reaped_or_not() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    # Ended, and not reaped.
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        told = {**os.environ, PARENT_PID: str(ended.pid)}
        child = subprocess.run([sys.executable, "-c", CODE], env=told, capture_output=True, text=True)
        assert (child.returncode, child.stdout) == (1, "")
        ended.wait()
    alive = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, PARENT_PID: "1"}, capture_output=True, text=True
    )
    assert (alive.returncode, alive.stdout) == (0, "alive\n")


def test_a_process_ends_with_a_server_that_is_killed_and_hears_no_ctrl_c() -> None:
    code = f"import os, subprocess, sys; os.environ[{PARENT_PID!r}] = str(os.getpid()); "
    code += f"subprocess.run([sys.executable, '-c', {CODE + OWN_GROUP + '; import time; time.sleep(60)'!r}])"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert (server.stdout.readline(), server.stdout.readline()) == ("alive\n", "True\n")
    server.kill()
    server.wait()
    began = time.monotonic()
    # The end of its child's output, which it shares.
    assert server.stdout.read() == ""
    assert time.monotonic() - began < 40
    server.stdout.close()
