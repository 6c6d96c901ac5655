"""`configuration.in-memory`: settings that the component's metadata list, for tests and for one machine.

Implements `ports.ConfigurationStore`. Dapr has no such type. Each metadata item is a key; a value may end in
`||version` as in `configuration.redis`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from pelton.clock import Clock
from pelton.model.desired import Component
from pelton.ports import ConfigurationItem

__all__ = ["MemoryConfiguration"]


class MemoryConfiguration:
    """Settings in memory.

    Args:
        component: Its metadata are the settings.
        clock: Unused; nothing here has a time.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._items: dict[str, ConfigurationItem] = {}
        self._changed: set[asyncio.Event] = set()
        for key, value in component.metadata.items():
            self.put(key, value)

    def put(self, key: str, text: str | None) -> None:
        """Set a value, `value` or `value||version`; None deletes the key."""
        if text is None:
            self._items.pop(key, None)
        else:
            value, _, version = text.partition("||")
            self._items[key] = ConfigurationItem(value=value, version=version)
        for event in self._changed:
            event.set()

    async def get(
        self, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None
    ) -> dict[str, ConfigurationItem]:
        """Return items by key; see `ports.ConfigurationStore`."""
        return {key: self._items[key] for key in (keys or self._items) if key in self._items}

    async def subscribe(
        self, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[Mapping[str, ConfigurationItem]]:
        """Iterate over changes; see `ports.ConfigurationStore`."""
        event = asyncio.Event()
        self._changed.add(event)
        known = await self.get(keys)
        try:
            while True:
                await event.wait()
                event.clear()
                now = await self.get(keys)
                changes = {key: item for key, item in now.items() if known.get(key) != item}
                changes |= {key: ConfigurationItem(value="") for key in known if key not in now}
                known = now
                if changes:
                    yield changes
        finally:
            self._changed.discard(event)

    async def close(self) -> None:
        """Do nothing: there is no connection."""
