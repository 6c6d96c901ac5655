"""What a runtime prints: passed on to the worker's own output, its end kept for callers who ask for it.

A pipe of `runtime_api.py`, since the end of an invocation's log (`LogType: Tail`) can be known only to who
reads it; read by the worker's loop, without a thread.
Source: `faas-conventions` contract, section 2.5 (X-Amz-Log-Result).
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from pelton.compat.aws_lambda.logs import TAIL_BYTES

__all__ = ["RuntimeOutput"]

_READ_BYTES: Final = 65536
_MOST_READS: Final = 16
"""At once, so that a runtime that prints without end does not keep the loop for itself."""


class RuntimeOutput:
    """The output of one runtime after another.

    Args:
        fd: Where it is passed on to.

    Attributes:
        write_fd: What runtimes print into; -1 before `open`.
    """

    def __init__(self, fd: int = 1) -> None:
        self.write_fd = -1
        self._fd = fd
        self._read_fd = -1
        self._tail = b""
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Make the pipe and read it with the running loop."""
        self._read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_fd, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_fd, self.drain)

    def close(self) -> None:
        """Pass the rest on and end."""
        if self._read_fd < 0:
            return
        self.drain()
        if self._loop is not None:
            self._loop.remove_reader(self._read_fd)
        os.close(self._read_fd)
        os.close(self.write_fd)
        self._read_fd = self.write_fd = -1

    def drain(self) -> None:
        """Pass on what is there now."""
        for _ in range(_MOST_READS):
            try:
                data = os.read(self._read_fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                return
            self.add(data)
            self.say(data)

    def say(self, data: bytes) -> None:
        """Write to the worker's output, whatever becomes of it."""
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:  # nobody reads it any more; the function goes on
            pass

    def add(self, data: bytes) -> None:
        """Take a piece of the log for the tail only."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def begin(self) -> None:
        """Forget what was printed before an invocation."""
        self.drain()
        self._tail = b""

    def tail(self) -> bytes:
        """Return the end of what was printed since `begin`, 4 KiB at most."""
        self.drain()
        return self._tail
