"""What a rank hears from its parent and tells it.

The parent holds the other end of the ranks' standard input. Its end means that the parent has gone, and they go too;
a byte on it means that they are to save and stop. One rank reads that byte: the ranks agree at the next step.
"""

import os
import signal
import sys
import threading
from types import FrameType

from ochatctl.train.records import PARENT_HOLDS_STDIN, Record, to_line

STOP_ORDER = b"s"


class StopSwitch:
    """Whether this rank has been told to stop. Signals count as well: a cluster may send them to every process."""

    def __init__(self) -> None:
        self.is_on = False

    def listen(self) -> None:
        """Follow the parent, if there is one, and signals."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        if os.environ.get(PARENT_HOLDS_STDIN) == "1":
            threading.Thread(target=self._follow, daemon=True).start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.is_on = True

    def _follow(self) -> None:
        while os.read(0, 1):
            self.is_on = True
        os._exit(1)


def tell_parent(record: Record) -> None:
    """Write a record as one line, in one piece: all ranks share the pipe."""
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), to_line(record).encode())
