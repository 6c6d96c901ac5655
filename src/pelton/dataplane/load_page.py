"""A worker's load page: shared memory that says how busy the worker is (design decision 4).

The worker writes (one store per field, no lock); the node reads every 100 ms. 4096 bytes of little-endian 64-bit
words: magic, in_flight, queued, total, busy_ns up to `changed_ns`, changed_ns, mode, pid, then SLOTS deadlines in
nanoseconds (0 = free, all-ones = no deadline). A reader that catches the page in the middle of a change reads it
again. Called by `dataplane/worker.py` and `dataplane/instances.py`; standard library only.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Final

from pelton.model.snapshot import LoadReading

__all__ = ["MODES", "SIZE_BYTES", "LoadPage"]

SIZE_BYTES: Final = 4096
MODES: Final = ("", "inline", "thread", "async")
_MAGIC: Final = 0x50454C544F4E0001
_IN_FLIGHT, _QUEUED, _TOTAL, _BUSY, _CHANGED, _MODE, _PID, _FIRST_SLOT = range(1, 9)
_SLOTS: Final = SIZE_BYTES // 8 - _FIRST_SLOT
_NO_DEADLINE: Final = 2**64 - 1


class LoadPage:
    """One page, mapped from a file of SIZE_BYTES.

    Args:
        path_or_fd: File to map; created by whoever starts the worker.
        create: Make the file (mode 0600) and initialise it; with a descriptor, only initialise.
    """

    def __init__(self, path_or_fd: str | int, *, create: bool = False) -> None:
        if isinstance(path_or_fd, str):
            fd = os.open(path_or_fd, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        else:
            fd = os.dup(path_or_fd)
        try:
            if create:
                os.ftruncate(fd, SIZE_BYTES)
            self._map = mmap.mmap(fd, SIZE_BYTES)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        self._free: list[int] = []
        if create:
            self.reset()

    def reset(self) -> None:
        """Make this process the writer of an empty page."""
        words = self._words
        for index in range(1, _FIRST_SLOT + _SLOTS):
            words[index] = 0
        words[_CHANGED] = time.monotonic_ns()
        words[0] = _MAGIC
        self._free = list(range(_FIRST_SLOT + _SLOTS - 1, _FIRST_SLOT - 1, -1))

    def begin(self, deadline: float) -> int:
        """Note that an invocation began; returns the token for `end`.

        Args:
            deadline: CLOCK_MONOTONIC seconds, inf for none.
        """
        words = self._words
        now = time.monotonic_ns()
        running = words[_IN_FLIGHT]
        words[_BUSY] += running * (now - words[_CHANGED])
        words[_CHANGED] = now
        words[_IN_FLIGHT] = running + 1
        words[_TOTAL] += 1
        if not self._free:
            return (
                -1
            )  # more running than slots: counted, but the deadline is the worker's own timer's business
        slot = self._free.pop()
        words[slot] = _NO_DEADLINE if deadline == float("inf") else int(deadline * 1e9)
        return slot

    def end(self, token: int) -> None:
        """Note that an invocation ended."""
        words = self._words
        now = time.monotonic_ns()
        running = words[_IN_FLIGHT]
        words[_BUSY] += running * (now - words[_CHANGED])
        words[_CHANGED] = now
        words[_IN_FLIGHT] = running - 1
        if token >= 0:
            words[token] = 0
            self._free.append(token)

    def exempt(self, token: int) -> None:
        """Lift the deadline of a running invocation (a stream whose headers are sent)."""
        if token >= 0:
            self._words[token] = _NO_DEADLINE

    def queued(self, count: int) -> None:
        """Publish how many invocations wait in the gate."""
        self._words[_QUEUED] = count

    def mode(self, name: str) -> None:
        """Publish how sync handlers run now; one of MODES."""
        self._words[_MODE] = MODES.index(name)

    @property
    def pid(self) -> int:
        """The writer's process id as seen from outside its PID namespace; 0 until it is known."""
        return self._words[_PID]

    @pid.setter
    def pid(self, value: int) -> None:
        self._words[_PID] = value

    @property
    def in_flight(self) -> int:
        """Invocations running now."""
        return self._words[_IN_FLIGHT]

    @property
    def mode_name(self) -> str:
        """How sync handlers run now."""
        index = self._words[_MODE]
        return MODES[index] if index < len(MODES) else ""

    def read(self) -> LoadReading:
        """Return a consistent reading, with busy time extrapolated to now."""
        words = self._words
        for _ in range(100):
            before = (words[_TOTAL], words[_CHANGED])
            running, busy, queued = words[_IN_FLIGHT], words[_BUSY], words[_QUEUED]
            if before == (words[_TOTAL], words[_CHANGED]):
                break
        now = time.monotonic_ns()
        total, changed = before
        earliest = _NO_DEADLINE
        if running:
            for value in self._words[_FIRST_SLOT:].tolist():
                if 0 < value < earliest:
                    earliest = value
        return LoadReading(
            in_flight=running,
            queued=queued,
            total=total,
            busy_ns=busy + running * max(0, now - changed),
            at_ns=now,
            earliest_deadline=float("inf") if earliest == _NO_DEADLINE else earliest / 1e9,
        )

    def close(self) -> None:
        """Unmap; the file stays."""
        self._words.release()
        self._map.close()
