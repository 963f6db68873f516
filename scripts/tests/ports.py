"""Ports for tests that must know one before a program listens on it, or that need one on which nobody does.

Most tests need neither: they listen on port 0 and ask what they got.
"""

from __future__ import annotations

import fcntl
import socket
import tempfile
from pathlib import Path
from typing import Dict, List, TextIO

# Blocks below the ports that Linux gives to whoever asks for any, so that nobody comes by one of these by chance.
BLOCKS = range(21000, 31000, 20)

# What this run holds until it ends.
LOCKS: Dict[str, TextIO] = {}
SILENT: List[socket.socket] = []
# What is left of the block that was claimed last.
spare = range(0)


def claimed(name: str) -> bool:
    """Whether a name is this run's alone among all runs on this machine; once it is, it stays so until the end."""
    if name in LOCKS:
        return True
    try:
        file = (Path(tempfile.gettempdir()) / f"ringq-tests-{name}.lock").open("a")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    LOCKS[name] = file
    return True


def is_free(port: int) -> bool:
    """Whether a program could listen on the port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def kept_ports(count: int = 2) -> int:
    """The first of `count` free ports in a row, at most twenty, that are the caller's until the run ends.

    For programs whose ports are known before they start, or stay the same over a restart.
    """
    global spare
    if len(spare) < count:
        spare = next(block for block in map(block_at, BLOCKS) if is_ours(block))
    first, spare = spare[0], spare[count:]
    return first


def block_at(base: int) -> range:
    return range(base, base + BLOCKS.step)


def is_ours(block: range) -> bool:
    """Claims a block that no run has, unless somebody else is on it."""
    name = f"port-{block.start}"
    return name not in LOCKS and claimed(name) and all(is_free(port) for port in block)


def silent_port() -> int:
    """A port on which nobody listens until the run ends: it is bound, so nobody else gets it either."""
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    SILENT.append(probe)
    return probe.getsockname()[1]
