"""What vLLM's engine process does first: it binds its life to that of our process.

vLLM starts it by `multiprocessing`, and it outlives a parent that is killed, with all of its GPU memory. vLLM calls
`die_with_server` in every process of its own (entry point `vllm.platform_plugins` in `pyproject.toml`).
"""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

# The process that a child is to end with. Set by the engine: whoever else runs vLLM in this environment is left alone.
PARENT_PID = "OCHATCTL_VLLM_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def die_with_server() -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends; in our own process, nothing.

    vLLM's workers are children of its engine's process, and end with that. Called as vLLM is imported, before the
    engine waits for a first word of its parent; it names no platform, which is what else such a plugin could do.
    """
    named = os.environ.get(PARENT_PID, "")
    if not named or named == str(os.getpid()):
        return
    if os.getppid() == int(named):
        die_with(int(named))
        # A terminal's Ctrl-C is for the server alone, which has its streams to end. A session's leader has a group.
        with contextlib.suppress(PermissionError):
            os.setpgid(0, 0)
        os.environ[PARENT_PID] = str(os.getpid())
        return
    if _has_ended(int(named)):
        os._exit(1)


def _has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or just waits to be reaped, as a container's first process may leave it."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except (PermissionError, FileNotFoundError):  # another user's by now; no Linux
        return False


def die_with(parent_pid: int | None) -> None:
    """Ask the kernel to kill this process when its parent ends; at once where that has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent_pid:
            os._exit(1)
