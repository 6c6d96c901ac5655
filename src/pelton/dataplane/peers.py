"""Tells whether whoever connected to a socket of the platform is a function, whatever user it is.

Where nothing hides a socket's path (isolation `landlock`), a function of the same user can connect to it.
Every process that user code runs in descends from the zygote, which is also its subreaper, so the ancestors
say what it is. Called where connections are accepted: `dataplane/wire.py`, `dataplane/zygote.py`.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

__all__ = ["is_function"]

_ZYGOTE: Final = b"\0pelton.cli.zygote\0"
_DEPTH: Final = 64
_credentials = struct.Struct("3i")


def is_function(sock: socket.socket, proc: str = "/proc") -> bool:
    """Return whether the other end of a connected unix socket is a function's process, or cannot be told.

    Args:
        sock: Connected; from another kind of socket nobody can come who is not meant to.
        proc: Where /proc is; for tests.
    """
    if sock.family != socket.AF_UNIX:
        return False
    # By a socket object of the standard library: the event loop's own stand-ins lack getsockopt.
    with socket.socket(fileno=os.dup(sock.fileno())) as real:
        pid = _credentials.unpack(real.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _credentials.size))[
            0
        ]
    # 0: outside this PID namespace, so not one of those who share it with their neighbours.
    return pid not in (0, os.getpid()) and descends(pid, proc)


def descends(pid: int, proc: str = "/proc") -> bool:
    """Return whether a process is below a zygote; True as well when it has ended meanwhile."""
    for _ in range(_DEPTH):
        try:
            with open(f"{proc}/{pid}/cmdline", "rb") as file:  # noqa: PTH123 -- workers have no pathlib
                if _ZYGOTE in file.read(4096):
                    return True
            with open(f"{proc}/{pid}/stat", "rb") as file:  # noqa: PTH123 -- as above
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return True
        if pid <= 1:
            return False
    return True
