"""`state.in-memory`: values that live as long as this process (contracts, Dapr components, section 3).

Implements `ports.StateStore`. What has expired is taken away when it is met and, now and then, all at once.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left, insort
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from pelton.clock import Clock, rfc3339
from pelton.model.desired import Component
from pelton.model.state import StateChange, StateItem, check_etag

__all__ = ["MemoryStates"]

_SWEEP_S: Final = 60.0

_Value = tuple[bytes, bool, str, float]
"""Data, whether it is JSON, etag, monotonic seconds of its end (0 = never)."""


class MemoryStates:
    """A store in memory.

    Args:
        component: Has no settings of its own.
        clock: Ends what has a time-to-live.
        folder: Unused; other stores keep files there.
    """

    def __init__(self, component: Component, *, clock: Clock, folder: Path | None = None) -> None:
        self._clock = clock
        self._values: dict[str, _Value] = {}
        self._order: list[str] = []
        self._swept = clock.monotonic()

    async def get(self, keys: Sequence[str]) -> list[StateItem]:
        """Return an item per key; see `ports.StateStore`."""
        return [self._item(key) for key in keys]

    async def write(self, changes: Sequence[StateChange]) -> None:
        """Carry out all changes or none; see `ports.StateStore`."""
        self._sweep()
        before = {change.key: self._values.get(change.key) for change in changes}
        try:
            for change in changes:
                check_etag(change, self._item(change.key).etag)
                self._put(change.key, None if change.delete else self._value(change))
        except BaseException:
            for key, value in before.items():
                self._put(key, value)
            raise

    async def scan(self, prefix: str, *, limit: int) -> list[StateItem]:
        """Return items whose key begins so, in order of their keys."""
        found = list[StateItem]()
        for key in self._order[bisect_left(self._order, prefix) :]:
            if len(found) >= limit or not key.startswith(prefix):
                break
            item = self._item(key)
            if item.data is not None:
                found.append(item)
        return found

    async def close(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._order.clear()

    def _item(self, key: str) -> StateItem:
        value = self._values.get(key)
        if value is None or 0 < value[3] <= self._clock.monotonic():
            return StateItem(key=key)
        left_s = value[3] - self._clock.monotonic()
        expires = rfc3339(self._clock.now() + timedelta(seconds=left_s)) if value[3] else ""
        return StateItem(key=key, data=value[0], json=value[1], etag=value[2], expires=expires)

    def _value(self, change: StateChange) -> _Value:
        ttl_s = change.ttl_s()
        end = self._clock.monotonic() + ttl_s if ttl_s else 0.0
        return change.data, change.json, str(uuid.uuid4()), end

    def _put(self, key: str, value: _Value | None) -> None:
        known = key in self._values
        if value is not None:
            self._values[key] = value
            if not known:
                insort(self._order, key)
        elif known:
            del self._values[key]
            del self._order[bisect_left(self._order, key)]

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        if now - self._swept >= _SWEEP_S:
            self._swept = now
            for key in [key for key, value in self._values.items() if 0 < value[3] <= now]:
                self._put(key, None)
