"""Opens state stores, one for all who have the same component, so that functions and apps meet in it.

Made once per process, by the runtime process and by a runtime of one app; drivers come from `tables.py`.
Whoever got a store closes it; the last one closes the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pelton.cli.tables import resolve_state
from pelton.clock import Clock
from pelton.model.desired import Component
from pelton.model.state import StateChange, StateItem
from pelton.ports import StateStore

__all__ = ["StateStores"]

_Content = tuple[str, str, str, str, tuple[tuple[str, str], ...]]


class StateStores:
    """State stores by content of their component. Used from one event loop.

    Args:
        clock: For drivers that keep times.
        folder: Where stores with a relative path keep their files.
    """

    def __init__(self, clock: Clock, folder: Path) -> None:
        self._clock = clock
        self._folder = folder
        self._open: dict[_Content, _Shared] = {}

    def open(self, component: Component) -> StateStore:
        """Return a component's store.

        Raises:
            ComponentError: Its type is unknown, or its metadata cannot be used.
        """
        settings = tuple(sorted(component.metadata.items()))
        content = (component.namespace, component.name, component.type, component.version, settings)
        shared = self._open.get(content)
        if shared is None:
            driver: StateStore = resolve_state(component.type)(
                component, clock=self._clock, folder=self._folder
            )
            shared = self._open[content] = _Shared(driver)
        shared.users += 1
        return _Lease(self._open, content, shared)


class _Shared:
    """A driver and how many have it."""

    def __init__(self, driver: StateStore) -> None:
        self.driver = driver
        self.users = 0


class _Lease:
    """One user's hold on a driver; implements `ports.StateStore`."""

    def __init__(self, opened: dict[_Content, _Shared], content: _Content, shared: _Shared) -> None:
        self._opened = opened
        self._content = content
        self._shared = shared
        self._closed = False

    async def get(self, keys: Sequence[str]) -> list[StateItem]:
        """As the driver does it; see `ports.StateStore`."""
        return await self._shared.driver.get(keys)

    async def write(self, changes: Sequence[StateChange]) -> None:
        """As the driver does it; see `ports.StateStore`."""
        await self._shared.driver.write(changes)

    async def scan(self, prefix: str, *, limit: int) -> list[StateItem]:
        """As the driver does it; see `ports.StateStore`."""
        return await self._shared.driver.scan(prefix, limit=limit)

    async def close(self) -> None:
        """Give it back; safe to repeat."""
        if self._closed:
            return
        self._closed = True
        self._shared.users -= 1
        if not self._shared.users:
            del self._opened[self._content]
            await self._shared.driver.close()
