"""The clocks: the only place that reads the time of day or the monotonic clock.

Shells take a `Clock` and hand `now` to the pure layers as an argument; `pelton.testing` has the virtual one.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "rfc3339"]


class Clock(Protocol):
    """Where time comes from, and how to wait."""

    def monotonic(self) -> float:
        """Return monotonic seconds; comparable between processes of one machine."""
        ...

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC seconds."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds."""
        await asyncio.sleep(seconds)


def rfc3339(moment: datetime, *, fraction: bool = False) -> str:
    """Render a UTC time as Kubernetes does: `2026-01-02T03:04:05Z`, with 6 fractional digits if asked."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds" if fraction else "seconds")[: -len("+00:00")] + "Z"
