"""Ports for programs that cannot be given one by the system."""

import random
import socket


def free_port() -> int:
    """Give a port that nobody has now, and that the system gives to nobody who asks for any: those are higher."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("100 ports, and all are taken")
