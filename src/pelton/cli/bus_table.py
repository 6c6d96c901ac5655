"""The buses that are open: one per component as it reads, closed some time after no Function has it any more.

Functions may have components of one name and different metadata, so it is the content that counts. Used by
`cli/runtime.py`; `cli/buses.py` opens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from pelton.clock import Clock
from pelton.log import get
from pelton.model.desired import Component
from pelton.ports import Bus

__all__ = ["BusTable"]

GRACE_S: Final = 40.0
"""Longer than a subscription takes to finish what it holds when it ends."""

_Key = tuple[str, str, str, str, tuple[tuple[str, str], ...]]
_log = get(__name__)


class BusTable:
    """Opens and closes buses.

    Args:
        open_bus: Opens a component's; raises PeltonError.
        clock: Times the grace.
    """

    def __init__(self, open_bus: Callable[[Component], Awaitable[Bus]], clock: Clock) -> None:
        self._open = open_bus
        self._clock = clock
        self._buses: dict[_Key, Bus] = {}
        self._kept: set[_Key] = set()
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._endings: dict[_Key, asyncio.Task[None]] = {}

    async def get(self, component: Component) -> Bus:
        """Return a component's bus, the same for the same content; raises what opening it raises."""
        key = _key(component)
        if (known := self._buses.get(key)) is not None:
            return known
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._buses:
                self._buses[key] = await self._open(component)
            return self._buses[key]

    def keep(self, used: Iterable[Component]) -> None:
        """Say what Functions use now; buses that they used before, and nobody does now, are closed later."""
        now = {_key(component) for component in used}
        for key in now:
            if (ending := self._endings.pop(key, None)) is not None:
                ending.cancel()
        for key in self._kept - now:
            if key in self._buses and key not in self._endings:
                self._endings[key] = asyncio.create_task(self._end(key))
        self._kept = now

    async def close(self) -> None:
        """Leave the brokers properly: what was finished last is told to them."""
        for task in self._endings.values():
            task.cancel()
        await asyncio.gather(*self._endings.values(), return_exceptions=True)
        self._endings.clear()
        for key in list(self._buses):
            await _close(self._buses.pop(key))

    async def _end(self, key: _Key) -> None:
        await self._clock.sleep(GRACE_S)
        del self._endings[key]
        self._locks.pop(key, None)
        _log.info("the broker of component %s/%s is left: no Function uses it", key[0], key[1])
        await _close(self._buses.pop(key))


async def _close(bus: Any) -> None:
    close = getattr(bus, "close", None)
    if close is not None:
        await close()


def _key(component: Component) -> _Key:
    settings = tuple(sorted(component.metadata.items()))
    return component.namespace, component.name, component.type, component.version, settings
