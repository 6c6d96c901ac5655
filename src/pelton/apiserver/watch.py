"""Recent changes of one resource, kept in memory, and the waiting for more.

`store.py` appends to one `ChangeLog` per resource; watches (`Store.watch` and the REST stream) read from it
by resourceVersion, so a watcher holds no queue of its own and a slow one costs nothing: it is told to list
again once the log no longer reaches back to where it stands.

Source: contracts operator-webhook.md 6.3 (410, events strictly after the version, at least 75 s of history).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from pelton.errors import PeltonError

__all__ = ["Change", "ChangeLog", "GoneError"]

_version = attrgetter("version")


class GoneError(PeltonError):
    """The history no longer reaches back to that resourceVersion: list again and watch from there."""

    code = "PEL-API-004"
    http_status = 410


@dataclass(frozen=True, slots=True)
class Change:
    """One committed write.

    Attributes:
        type: ADDED, MODIFIED or DELETED.
        version: The resourceVersion of the write.
        namespace, name: Which object.
        raw: The object as JSON after the write; for DELETED its last state with the fresh resourceVersion.
        labels: Its labels after the write.
        previous_labels: Its labels before the write; None when it did not exist.
        api_version: The apiVersion in which `raw` is.
        previous: The object as JSON before the write; None when it did not exist.
    """

    type: str
    version: int
    namespace: str
    name: str
    raw: bytes
    labels: Mapping[str, str]
    previous_labels: Mapping[str, str] | None
    api_version: str = ""
    previous: bytes | None = None


class ChangeLog:
    """The last changes of one resource, oldest first.

    Bounded by count and by bytes: 10,000 changes are over 75 s of history at any rate that one machine's
    reconciler keeps up with. A short log may remember for days; a long one is cut by `forget` once it is old
    enough, so that a burst of writes does not hold its memory for good.

    Args:
        resource: For messages.
        horizon: resourceVersion up to which changes are unknown (inclusive), i.e. that of the opened store.
        limit: Most changes kept.
        limit_bytes: Most bytes of objects kept; the newest change always stays.
    """

    def __init__(
        self, resource: str, horizon: int, *, limit: int = 10_000, limit_bytes: int = 64 << 20
    ) -> None:
        self.resource = resource
        self.closed = False
        self.watchers = 0
        """Streams that follow this log now."""
        self._horizon = horizon
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._changes: list[Change] = []
        self._bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def append(self, change: Change) -> None:
        """Add the newest change and wake whoever waits."""
        self._changes.append(change)
        self._bytes += len(change.raw)
        if len(self._changes) > self._limit or self._bytes > self._limit_bytes:
            self._trim()
        self._wake()

    @property
    def size_bytes(self) -> int:
        """Bytes of the objects that are remembered."""
        return self._bytes

    def forget(self, version: int, *, down_to_bytes: int) -> None:
        """Drop changes up to `version` (inclusive), the oldest first, until so many bytes are left."""
        drop = 0
        while (
            drop < len(self._changes) - 1
            and self._changes[drop].version <= version
            and self._bytes > down_to_bytes
        ):
            self._bytes -= len(self._changes[drop].raw)
            drop += 1
        if drop:
            self._horizon = self._changes[drop - 1].version
            del self._changes[:drop]

    def after(self, version: int, *, current: int) -> list[Change]:
        """Return changes with a resourceVersion above `version`, oldest first.

        Args:
            version: Where the watcher stands.
            current: The store's resourceVersion; a watcher beyond it saw a store that no longer exists.

        Raises:
            GoneError: The log does not reach back that far.
        """
        if version < self._horizon or version > current:
            raise GoneError(
                f"too old resource version: {version} (current {current})"
                if version < self._horizon
                else f"resource version {version} lies ahead of this store ({current})",
                where=self.resource,
                hint="List again and watch from the resourceVersion of that list.",
            )
        if not self._changes or self._changes[-1].version <= version:
            return []
        return self._changes[bisect_right(self._changes, version, key=_version) :]

    async def wait(self, version: int) -> None:
        """Return when there is a change above `version` or the log is closed. Safe to cancel."""
        if self.closed or (self._changes and self._changes[-1].version > version):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def close(self) -> None:
        """End all watches."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _trim(self) -> None:
        # A tenth at a time, so that the cost of shifting the list is spread over many appends.
        drop = max(1, len(self._changes) - self._limit * 9 // 10 if len(self._changes) > self._limit else 1)
        left = self._bytes - sum(len(change.raw) for change in self._changes[:drop])
        while left > self._limit_bytes and drop < len(self._changes) - 1:
            left -= len(self._changes[drop].raw)
            drop += 1
        drop = min(drop, len(self._changes) - 1)
        if drop > 0:
            self._horizon = self._changes[drop - 1].version
            del self._changes[:drop]
            self._bytes = sum(len(change.raw) for change in self._changes)
