"""A worker's load page: shared memory that says how busy the worker is (design decision 4).

The worker writes, the node reads every 100 ms; no lock. 4096 bytes of little-endian 64-bit words: magic,
mode, queued, pid, slots in use, total, crowd sequence, then two records of the crowd {in_flight, busy_ns up
to changed_ns, changed_ns}, then the slots' clocks and the slots' deadlines.
A slot has one invocation at a time. Its clock is one signed word: while it is free, the nanoseconds it was
ever busy; while something runs, those less CLOCK_MONOTONIC at the begin, which is negative. So one store
begins or ends an invocation, and a reader that adds the time now to the negative ones is right at whatever
moment it looks and wherever the writer was preempted. A deadline is CLOCK_MONOTONIC seconds as a double, inf
for none; it holds while its clock is negative.
What finds no free slot is the crowd, counted and summed in two words that must agree: the writer fills the
record that the sequence does not name and then moves the sequence on, and a reader that sees the same
sequence before and after has a record from one moment.
Called by `dataplane/worker.py` and `dataplane/instances.py`; standard library only.
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
_MAGIC: Final = 0x50454C544F4E0003
_MODE, _QUEUED, _PID, _SLOTS_USED, _TOTAL, _SEQUENCE, _FIRST_RECORD, _SECOND_RECORD = 1, 2, 3, 4, 5, 6, 7, 10
_FIRST_SLOT: Final = 14
_SLOTS: Final = (SIZE_BYTES // 8 - _FIRST_SLOT) // 2
_OFFSETS: Final = (_FIRST_RECORD * 8, _SECOND_RECORD * 8)
_INFINITY: Final = float("inf")
_RECORD: Final = struct.Struct("<3Q")
_monotonic_ns = time.monotonic_ns


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
        middle = (_FIRST_SLOT + _SLOTS) * 8
        self._clocks = memoryview(self._map)[_FIRST_SLOT * 8 : middle].cast("q")
        self._deadlines = memoryview(self._map)[middle : middle + _SLOTS * 8].cast("d")
        self._free: list[int] = []
        self._used = self._total = self._sequence = 0
        self._crowd = self._crowd_busy = self._crowd_changed_ns = 0
        if create:
            self.reset()

    def reset(self) -> None:
        """Make this process the writer of an empty page."""
        words = self._words
        for index in range(1, len(words)):
            words[index] = 0
        self._free = []
        self._used = self._total = self._sequence = 0
        self._crowd = self._crowd_busy = self._crowd_changed_ns = 0
        words[_PID] = os.getpid()
        words[0] = _MAGIC

    def begin(self, deadline: float, now_ns: int = 0) -> int:
        """Note that an invocation began; returns the token for `end`.

        Args:
            deadline: CLOCK_MONOTONIC seconds, inf for none.
            now_ns: CLOCK_MONOTONIC nanoseconds, where the caller has just asked for them.
        """
        now = now_ns or _monotonic_ns()
        self._total = total = self._total + 1
        self._words[_TOTAL] = total
        token = self._free.pop() if self._free else self._new_slot(now)
        if token >= 0:
            self._deadlines[token] = deadline
            clocks = self._clocks
            clocks[token] = clocks[token] - now
        return token

    def follow(self, token: int, deadline: float) -> None:
        """Note that an invocation ended and another began in its place, in the same moment.

        Args:
            token: Of the one that ended; from now on of the other.
            deadline: Of the other one, as for `begin`.
        """
        self._total = total = self._total + 1
        self._words[_TOTAL] = total
        if token >= 0:
            self._deadlines[token] = deadline

    def end(self, token: int) -> int:
        """Note that an invocation ended; returns when, CLOCK_MONOTONIC nanoseconds."""
        now = _monotonic_ns()
        if token >= 0:
            clocks = self._clocks
            clocks[token] = clocks[token] + now
            self._free.append(token)
        else:
            self._crowd_changes(-1, now)
        return now

    def exempt(self, token: int) -> None:
        """Lift the deadline of a running invocation (a stream whose headers are sent)."""
        if token >= 0:
            self._deadlines[token] = _INFINITY

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
        return self.read().in_flight

    @property
    def mode_name(self) -> str:
        """How sync handlers run now."""
        index = self._words[_MODE]
        return MODES[index] if index < len(MODES) else ""

    def read(self) -> LoadReading:
        """Return a consistent reading, with busy time extrapolated to now."""
        running, busy, changed = self._read_crowd()
        used = self._words[_SLOTS_USED]
        clocks = self._clocks[:used].tolist()
        now = _monotonic_ns()
        busy += running * max(0, now - changed)
        earliest = _INFINITY
        for slot, clock in enumerate(clocks):
            if clock < 0:
                running += 1
                busy += now
                earliest = min(earliest, self._deadlines[slot])
            busy += clock
        return LoadReading(
            in_flight=running,
            queued=self._words[_QUEUED],
            total=self._words[_TOTAL],
            busy_ns=busy,
            at_ns=now,
            earliest_deadline=earliest,
        )

    def close(self) -> None:
        """Unmap; the file stays."""
        self._clocks.release()
        self._deadlines.release()
        self._words.release()
        self._map.close()

    def _new_slot(self, now_ns: int) -> int:
        """Return a slot that was never used; without any, count the invocation in the crowd and return -1."""
        token = self._used
        if token == _SLOTS:
            self._crowd_changes(1, now_ns)
            return -1  # the worker's own timer keeps its deadline
        self._used = token + 1
        self._words[_SLOTS_USED] = token + 1
        return token

    def _crowd_changes(self, by: int, now_ns: int) -> None:
        self._crowd_busy += self._crowd * (now_ns - self._crowd_changed_ns)
        self._crowd_changed_ns = now_ns
        self._crowd += by
        self._sequence = sequence = self._sequence + 1
        _RECORD.pack_into(self._map, _OFFSETS[sequence & 1], self._crowd, self._crowd_busy, now_ns)
        self._words[_SEQUENCE] = sequence

    def _read_crowd(self) -> tuple[int, int, int]:
        """Return in_flight, busy_ns and changed_ns of what has no slot."""
        record = 0, 0, 0
        for _ in range(100):
            sequence = self._words[_SEQUENCE]
            record = _RECORD.unpack_from(self._map, _OFFSETS[sequence & 1])
            if self._words[_SEQUENCE] == sequence:
                break
        running, busy, changed = record
        return running, busy, changed
