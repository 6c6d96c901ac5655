"""How many invocations run at once, who waits, and whether sync code runs on the loop or on a thread.

Pure state: no clock, no loop, no I/O; `dataplane/worker.py` feeds it measured times and acts on its answers.
The rules are design decisions 8 and 9: one gate for HTTP and events, a queue of concurrency * 10 behind it,
sync handlers on the loop while their 90th percentile stays low.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from enum import Enum
from typing import Final, Generic, TypeVar

__all__ = ["MAX_THREADS", "UNLIMITED_QUEUE", "Admission", "Gate", "InlineChoice"]

MAX_THREADS: Final = 32
"""Sync calls that run at once at most: more threads than this only take turns at the interpreter lock."""
UNLIMITED_QUEUE: Final = 1000
"""Queue length of a function that names no concurrency; ten times the common soft target of 100."""

T = TypeVar("T")


class Admission(Enum):
    """What the gate says to a newcomer."""

    RUN = "run"
    WAIT = "wait"
    FULL = "full"


class Gate(Generic[T]):
    """Counts what runs and keeps what waits, first come first served.

    Args:
        concurrency: Invocations that may run at once; 0 for no limit.
        ceiling: Upper bound from how they run (threads), 0 for none.

    Attributes:
        running: Invocations inside; the owner may count it up and down itself while nothing waits.
        waiting: What waits, oldest first.
        limit: Invocations that may be inside.
        queue_limit: Invocations that may wait.

    Something waits only while `running == limit`.
    """

    __slots__ = ("limit", "queue_limit", "running", "waiting")

    def __init__(self, concurrency: int, *, ceiling: int = 0) -> None:
        wanted = concurrency or sys.maxsize
        self.limit = min(wanted, ceiling) if ceiling else wanted
        self.queue_limit = concurrency * 10 if concurrency else UNLIMITED_QUEUE
        self.running = 0
        self.waiting: OrderedDict[T, None] = OrderedDict()

    def offer(self, item: T) -> Admission:
        """Let an invocation in, put it into the queue, or turn it away."""
        if self.running < self.limit:
            self.running += 1
            return Admission.RUN
        if len(self.waiting) < self.queue_limit:
            self.waiting[item] = None
            return Admission.WAIT
        return Admission.FULL

    def leave(self) -> T | None:
        """Note that one ended; returns the oldest that waited, which is inside from now on."""
        if self.waiting:
            return self.waiting.popitem(last=False)[0]
        self.running -= 1
        return None

    def withdraw(self, item: T) -> bool:
        """Take one out of the queue; False when it was not waiting."""
        if item in self.waiting:
            del self.waiting[item]
            return True
        return False


class InlineChoice:
    """Decides between the event loop and a thread for sync code, from measured run times.

    On a thread: 16 samples whose 90th percentile is under 0.5 ms move it to the loop. On the loop: a 90th
    percentile over 1 ms among the last 64, or one call over 20 ms, moves it back. After each return the loop
    is not tried again for a while: 0.1 s at first, doubled up to 60 s, and 0.1 s again after a stay on the
    loop ten times as long as the wait that is due. Percentiles are by nearest rank, so they come down to
    counting: at most 1 slow call of 16, 6 of 64.

    Attributes:
        inline: Whether sync code runs on the loop now.
        seen: Calls since the last change; whoever leaves `record` out for an inline call of at most KEEP_NS,
            which could change nothing, counts it here.
    """

    __slots__ = ("_entered_ns", "_retry_ns", "_slow", "_wait_ns", "inline", "seen")

    TRY_SAMPLES: Final = 16
    TRY_SLOW: Final = 1
    TRY_NS: Final = 500_000
    KEEP_SAMPLES: Final = 64
    KEEP_SLOW: Final = 6
    KEEP_NS: Final = 1_000_000
    OUTLIER_NS: Final = 20_000_000
    FIRST_WAIT_NS: Final = 100_000_000  # short, since a busy machine makes outliers that are nobody's fault
    MAX_WAIT_NS: Final = 60_000_000_000

    def __init__(self) -> None:
        self.inline = False
        self.seen = 0
        self._slow: deque[int] = deque()
        self._entered_ns = 0
        self._retry_ns = 0
        self._wait_ns = self.FIRST_WAIT_NS

    def record(self, elapsed_ns: int, now_ns: int) -> bool:
        """Take one finished call into account.

        Args:
            elapsed_ns: How long the call took.
            now_ns: Monotonic nanoseconds when it ended.

        Returns:
            Whether `inline` changed.
        """
        self.seen = seen = self.seen + 1
        slow = self._slow
        if self.inline:
            if elapsed_ns <= self.KEEP_NS:
                return False
            slow.append(seen)
            while slow[0] <= seen - self.KEEP_SAMPLES:
                slow.popleft()
            if elapsed_ns <= self.OUTLIER_NS and len(slow) <= self.KEEP_SLOW:
                return False
            if now_ns - self._entered_ns >= 10 * self._wait_ns:
                self._wait_ns = self.FIRST_WAIT_NS
            self._retry_ns = now_ns + self._wait_ns
            self._wait_ns = min(2 * self._wait_ns, self.MAX_WAIT_NS)
            self._switch(now_ns, inline=False)
            return True
        if elapsed_ns >= self.TRY_NS:
            slow.append(seen)
        while slow and slow[0] <= seen - self.TRY_SAMPLES:
            slow.popleft()
        if seen < self.TRY_SAMPLES or len(slow) > self.TRY_SLOW or now_ns < self._retry_ns:
            return False
        self._switch(now_ns, inline=True)
        return True

    def _switch(self, now_ns: int, *, inline: bool) -> None:
        self.inline = inline
        self._entered_ns = now_ns
        self.seen = 0
        self._slow.clear()
