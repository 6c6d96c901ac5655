"""The thread pool for sync user code: few threads, made when needed, one wake-up for many results.

Smaller than `concurrent.futures`: no future per call, and results that finish close together share one
callback. Called by `dataplane/worker.py`; the only threads of a worker besides those that user code starts.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

__all__ = ["Job", "Threads"]


class Job(Protocol):
    """Something to run on a thread; keeps its own result."""

    def execute(self) -> None:
        """Run; never raises."""
        ...


J = TypeVar("J", bound=Job)


class Threads(Generic[J]):
    """Runs jobs on at most `size` daemon threads and hands them back on the loop.

    Args:
        loop: The loop that `done` is called on.
        size: Most threads there may be.
        done: Takes each finished job.

    Attributes:
        strayed: Called instead of handing a job back, in a copy of the process that the job itself forked.

    Threads are daemons: a call that never returns must not keep the process from ending.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int, done: Callable[[J], None]) -> None:
        self._loop = loop
        self._size = size
        self._done = done
        self._jobs: SimpleQueue[J | None] = SimpleQueue()
        self._finished: deque[J] = deque()
        self._woken = False
        self._outstanding = 0
        self.count = 0
        self.strayed: Callable[[], object] | None = None

    def submit(self, job: J) -> None:
        """Run a job as soon as a thread is free; call it on the loop's thread."""
        self._outstanding += 1
        if self._outstanding > self.count and self.count < self._size:
            self.count += 1
            threading.Thread(target=self._work, name=f"function-{self.count}", daemon=True).start()
        self._jobs.put(job)

    def close(self) -> None:
        """Let idle threads end; busy ones end with their call."""
        for _ in range(self.count):
            self._jobs.put(None)

    def _work(self) -> None:
        get, finished = self._jobs.get, self._finished
        while (job := get()) is not None:
            job.execute()
            if self.strayed is not None:
                self.strayed()
            finished.append(job)
            del job  # an idle thread must not keep the last body alive
            # Whoever sees the flag set has appended before the collector lowered it, so nothing is left
            # behind.
            if not self._woken:
                self._woken = True
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:  # the loop is closed: the process is about to end
                    return

    def _collect(self) -> None:
        self._woken = False
        finished = self._finished
        while finished:
            job = finished.popleft()
            self._outstanding -= 1
            self._done(job)
