"""What vLLM's engine process does first: it binds its life to that of our process.

vLLM starts it by `multiprocessing`, and it outlives a parent that is killed, with all of its GPU memory. vLLM calls
`die_with_server` in every process of its own (entry point `vllm.general_plugins` in `pyproject.toml`).
"""

import ctypes
import multiprocessing
import os
import signal
import sys

# The process that a child is to end with. Set by the engine: whoever else runs vLLM in this environment is left alone.
PARENT_PID = "OCHATCTL_VLLM_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def die_with_server() -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends; in our own process, nothing.

    vLLM's workers are children of its engine's process, and end with that.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and str(parent.pid) == os.environ.get(PARENT_PID):
        die_with(parent.pid)
        os.environ[PARENT_PID] = str(os.getpid())


def die_with(parent_pid: int | None) -> None:
    """Ask the kernel to kill this process when its parent ends; at once where that has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent_pid:
            os._exit(1)
