"""A worker's load page: shared memory that says how busy the worker is (design decision 4).

The worker writes, the node reads every 100 ms; no lock. 4096 bytes of little-endian 64-bit words: magic,
mode, queued, pid, sequence, then two records {in_flight, total, busy_ns up to changed_ns, changed_ns}, then
the deadlines of what runs in nanoseconds (0 = free, all-ones = no deadline). The writer fills the record that
`sequence` does not name and then moves `sequence` on, so a reader that sees the same sequence before and
after has a record from one moment; with fields stored one by one, a worker preempted between two of them
showed an interval twice. Called by `dataplane/worker.py` and `dataplane/instances.py`; standard library only.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import Final

from pelton.model.snapshot import LoadReading

__all__ = ["MODES", "SIZE_BYTES", "LoadPage"]

SIZE_BYTES: Final = 4096
MODES: Final = ("", "inline", "thread", "async")
_MAGIC: Final = 0x50454C544F4E0002
_MODE, _QUEUED, _PID, _SEQUENCE, _FIRST_RECORD, _SECOND_RECORD, _FIRST_SLOT = 1, 2, 3, 4, 5, 9, 13
_SLOTS: Final = SIZE_BYTES // 8 - _FIRST_SLOT
_OFFSETS: Final = (_FIRST_RECORD * 8, _SECOND_RECORD * 8)
_NO_DEADLINE: Final = 2**64 - 1
_INFINITY: Final = float("inf")
_RECORD: Final = struct.Struct("<4Q")
_pack_into = _RECORD.pack_into
_monotonic_ns = time.monotonic_ns


class LoadPage:
    """One page, mapped from a file of SIZE_BYTES.

    Args:
        path_or_fd: File to map; created by whoever starts the worker.
        create: Make the file (mode 0600) and initialise it; with a descriptor, only initialise.

    Attributes:
        changed_ns: CLOCK_MONOTONIC nanoseconds of the writer's last `begin` or `end`; 0 in readers.
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
        self._running = self._total = self._busy = self._sequence = self.changed_ns = 0
        if create:
            self.reset()

    def reset(self) -> None:
        """Make this process the writer of an empty page."""
        words = self._words
        for index in range(1, _FIRST_SLOT + _SLOTS):
            words[index] = 0
        self._running = self._total = self._busy = self._sequence = 0
        self.changed_ns = _monotonic_ns()
        self._publish()
        words[_PID] = os.getpid()
        words[0] = _MAGIC
        self._free = list(range(_FIRST_SLOT + _SLOTS - 1, _FIRST_SLOT - 1, -1))

    def begin(self, deadline: float) -> int:
        """Note that an invocation began; returns the token for `end`.

        Args:
            deadline: CLOCK_MONOTONIC seconds, inf for none.
        """
        now = _monotonic_ns()
        running = self._running
        if running:
            self._busy += running * (now - self.changed_ns)
        self.changed_ns = now
        self._running = running + 1
        self._total += 1
        # Written out here and in `end` instead of calling _publish: both run once per request.
        self._sequence = sequence = self._sequence + 1
        _pack_into(self._map, _OFFSETS[sequence & 1], running + 1, self._total, self._busy, now)
        words = self._words
        words[_SEQUENCE] = sequence
        if not self._free:
            return -1  # more running than slots: counted, and the worker's own timer keeps the deadline
        slot = self._free.pop()
        words[slot] = _NO_DEADLINE if deadline == _INFINITY else int(deadline * 1e9)
        return slot

    def end(self, token: int) -> None:
        """Note that an invocation ended."""
        now = _monotonic_ns()
        running = self._running
        self._busy += running * (now - self.changed_ns)
        self.changed_ns = now
        self._running = running - 1
        self._sequence = sequence = self._sequence + 1
        _pack_into(self._map, _OFFSETS[sequence & 1], running - 1, self._total, self._busy, now)
        words = self._words
        words[_SEQUENCE] = sequence
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
        """The worker's process id; the writer may put the one that is valid outside its namespace."""
        return self._words[_PID]

    @pid.setter
    def pid(self, value: int) -> None:
        self._words[_PID] = value

    @property
    def in_flight(self) -> int:
        """Invocations running now."""
        return self._record()[0]

    @property
    def mode_name(self) -> str:
        """How sync handlers run now."""
        index = self._words[_MODE]
        return MODES[index] if index < len(MODES) else ""

    def read(self) -> LoadReading:
        """Return a consistent reading, with busy time extrapolated to now."""
        running, total, busy, changed, now = self._record()
        earliest = _NO_DEADLINE
        if running:
            for value in self._words[_FIRST_SLOT:].tolist():
                if 0 < value < earliest:
                    earliest = value
        return LoadReading(
            in_flight=running,
            queued=self._words[_QUEUED],
            total=total,
            busy_ns=busy + running * max(0, now - changed),
            at_ns=now,
            earliest_deadline=_INFINITY if earliest == _NO_DEADLINE else earliest / 1e9,
        )

    def close(self) -> None:
        """Unmap; the file stays."""
        self._words.release()
        self._map.close()

    def _publish(self) -> None:
        self._sequence = sequence = self._sequence + 1
        _pack_into(self._map, _OFFSETS[sequence & 1], self._running, self._total, self._busy, self.changed_ns)
        self._words[_SEQUENCE] = sequence

    def _record(self) -> tuple[int, int, int, int, int]:
        """Return in_flight, total, busy_ns, changed_ns, and a time at which they held."""
        running = total = busy = changed = now = 0
        for _ in range(100):
            sequence = self._words[_SEQUENCE]
            running, total, busy, changed = _RECORD.unpack_from(self._map, _OFFSETS[sequence & 1])
            now = _monotonic_ns()
            if self._words[_SEQUENCE] == sequence:
                break
        return running, total, busy, changed, now
