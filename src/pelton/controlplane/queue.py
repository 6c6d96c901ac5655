"""A work queue of keys: one run per key at a time, keys side by side, repeated requests merged.

Level-triggered: a key says "look again", never what happened. A key that fails comes again after a wait that
doubles up to a cap; a key that is added runs at once, waiting or not. Used by `controlplane/reconciler`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from pelton import log
from pelton.clock import Clock

__all__ = ["KeyQueue"]

_log = log.get(__name__)


class KeyQueue:
    """Runs a handler for keys until cancelled.

    Args:
        handle: Called with a key; returns seconds after which to look again, or None. Raising: try again.
        clock: For waits.
        parallel: Most keys handled at once, >= 1.
        backoff_s: Wait after the first failure of a key, seconds; doubles per failure in a row.
        max_backoff_s: Upper bound of that wait, seconds.
    """

    def __init__(
        self,
        handle: Callable[[str], Awaitable[float | None]],
        *,
        clock: Clock,
        parallel: int = 32,
        backoff_s: float = 0.1,
        max_backoff_s: float = 60.0,
    ) -> None:
        self._handle = handle
        self._clock = clock
        self._parallel = parallel
        self._backoff_s = backoff_s
        self._max_backoff_s = max_backoff_s
        self._ready: deque[str] = deque()
        self._waiting: set[str] = set()  # keys in `_ready`
        self._running: set[str] = set()
        self._again: set[str] = set()  # running keys that were added meanwhile
        self._failures: dict[str, int] = {}
        self._timers: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, key: str) -> None:
        """Ask for a key to be handled as soon as it can be."""
        self._cancel_timer(key)
        self._idle.clear()
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: str, seconds: float) -> None:
        """Ask for a key to be handled in `seconds`; the earliest request counts. Needs a running loop."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        known = self._timers.get(key)
        if known is not None and known[0] <= due:
            return
        self._cancel_timer(key)
        self._timers[key] = (due, asyncio.get_running_loop().create_task(self._later(key, seconds)))

    def failures(self, key: str) -> int:
        """Return how often a key failed in a row."""
        return self._failures.get(key, 0)

    async def run(self) -> None:
        """Handle keys until cancelled; cancelling cancels the handlers that run."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wake.wait()
                    while self._ready and len(self._running) < self._parallel:
                        key = self._ready.popleft()
                        self._waiting.discard(key)
                        self._running.add(key)
                        group.create_task(self._one(key), name=f"reconcile {key}")
                    self._wake.clear()
        finally:
            for key in list(self._timers):
                self._cancel_timer(key)

    async def idle(self) -> None:
        """Wait until nothing is ready or running; keys that wait for their time do not count."""
        await self._idle.wait()

    async def _one(self, key: str) -> None:
        wait_s: float | None
        try:
            wait_s = await self._handle(key)
            self._failures.pop(key, None)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            wait_s = min(self._max_backoff_s, self._backoff_s * 2.0 ** min(failures - 1, 30))
            # The stack matters once; a part that is down would fill the log with it.
            _log.warning("%s failed, again in %.1f s: %s", key, wait_s, error, exc_info=failures == 1)
        finally:
            self._running.discard(key)
            self._wake.set()
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif wait_s is not None:
            self.add_after(key, wait_s)
        if not self._ready and not self._running:
            self._idle.set()

    async def _later(self, key: str, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None and timer[1] is not asyncio.current_task():
            timer[1].cancel()
