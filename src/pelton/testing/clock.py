"""A clock that stands still until a test moves it; nothing in a test sleeps.

Implements `clock.Clock`. Tests of controllers, drivers and retries use it.
"""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count

__all__ = ["FakeClock"]

_SETTLE_TURNS = 50
"""Turns of the loop given to whoever was woken; a chain of more awaits needs another `advance(0)`."""


class FakeClock:
    """Virtual time; `monotonic` and `now` move together.

    Args:
        start: Monotonic seconds to begin at.
        at: Time of day to begin at.
    """

    def __init__(
        self, start: float = 1000.0, at: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ) -> None:
        self._monotonic = start
        self._offset = at - timedelta(seconds=start)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._monotonic

    def now(self) -> datetime:
        """Return the virtual time of day in UTC."""
        return self._offset + timedelta(seconds=self._monotonic)

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has moved time that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Move time, waking sleepers in order; returns after they had some turns of the loop."""
        until = self._monotonic + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, woken = heapq.heappop(self._sleepers)
            self._monotonic = max(self._monotonic, due)
            if not woken.done():
                woken.set_result(None)
                await _settle()
        self._monotonic = until
        await _settle()

    @property
    def sleepers(self) -> int:
        """How many sleeps wait for time to move."""
        return sum(1 for _, _, woken in self._sleepers if not woken.done())


async def _settle() -> None:
    for _ in range(_SETTLE_TURNS):
        await asyncio.sleep(0)
