"""`configuration.redis`: strings `value||version` by key, and the server's notifications of their changes.

Implements `ports.ConfigurationStore`. The server is told to notify unless it does already. Notifications are
not stored: after a lost connection the keys are read and compared with what was told last.
Source: `dapr-components` contract, section 5 (`configuration.redis`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from pelton.clock import Clock
from pelton.drivers.redis.link import BLOCK_S, RedisLink
from pelton.errors import ComponentError, PeltonError
from pelton.log import get
from pelton.model.desired import Component
from pelton.ports import ConfigurationItem

__all__ = ["RedisConfiguration"]

_AGAIN_S: Final = 1.0
_PING_S: Final = 10.0
_BATCH: Final = 500

_log = get(__name__)


class RedisConfiguration:
    """Settings in a Redis database.

    Args:
        component: The keys of every Redis component.
        clock: Times attempts to connect again.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._link = RedisLink(component)
        self._database = self._link.settings.number("redisDB", 0)
        self._clock = clock

    async def get(
        self, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None
    ) -> dict[str, ConfigurationItem]:
        """Return items by key; see `ports.ConfigurationStore`. What is no string is left out."""
        found = dict[str, ConfigurationItem]()
        with self._link.translated(ComponentError):
            wanted = list(keys) or sorted(
                {key.decode(errors="replace") async for key in self._link.client.scan_iter(_type="STRING")}
            )
            for start in range(0, len(wanted), _BATCH):
                part = wanted[start : start + _BATCH]
                values = await self._link.client.mget(part)
                found |= {
                    key: _item(value) for key, value in zip(part, values, strict=True) if value is not None
                }
        return found

    async def subscribe(
        self, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[Mapping[str, ConfigurationItem]]:
        """Iterate over changes; see `ports.ConfigurationStore`."""
        known: dict[str, ConfigurationItem] | None = None
        trouble = ""
        while True:
            try:
                async with aclosing(cast(Any, self._changed(keys))) as changed:
                    async for names in changed:
                        now = await self.get(names) if names else await self.get(keys)
                        before = known if known is not None else now
                        asked = names or {*now, *before}
                        changes = {
                            key: now.get(key, ConfigurationItem(value=""))
                            for key in asked
                            if now.get(key) != before.get(key)
                        }
                        known = {key: item for key, item in before.items() if key not in asked} | now
                        trouble = ""
                        if changes:
                            yield changes
            except PeltonError as exc:
                if known is None:
                    raise
                if str(exc) != trouble:
                    _log.warning("%s: changes are told later: %s", self._link.where, exc)
                trouble = str(exc)
                await self._clock.sleep(_AGAIN_S)

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        await self._link.close()

    async def _changed(self, keys: Sequence[str]) -> AsyncIterator[Sequence[str]]:
        """Yield what has changed, each time; nothing at the start, for everything that was asked for."""
        prefix = f"__keyspace@{self._database}__:"
        with self._link.translated(ComponentError):
            await self._notify()
            async with self._link.client.pubsub(ignore_subscribe_messages=True) as listener:
                if keys:
                    await listener.subscribe(*(prefix + key for key in keys))
                else:
                    await listener.psubscribe(prefix + "*")
                made_again = asyncio.Event()
                note = _Note(made_again)
                listener.connection.register_connect_callback(note.made)
                yield ()
                quiet_s = 0.0
                while True:
                    message = await listener.get_message(timeout=BLOCK_S)
                    if made_again.is_set():  # the library did so by itself; what came meanwhile is lost
                        made_again.clear()
                        yield ()
                    if message is not None and message["type"] in {"message", "pmessage"}:
                        quiet_s = 0.0
                        yield (message["channel"].decode(errors="replace").removeprefix(prefix),)
                        continue
                    quiet_s += BLOCK_S
                    if quiet_s >= _PING_S:  # a connection that died silently shows when it is used
                        quiet_s = 0.0
                        await listener.ping()

    async def _notify(self) -> None:
        """Have the server tell of keys; one whose settings are not ours to change may do so already."""
        client = self._link.client
        try:
            with self._link.translated(ComponentError):
                answer = await client.config_get("notify-keyspace-events")
                flags = _text(answer.get("notify-keyspace-events", answer.get(b"notify-keyspace-events", "")))
                if "K" in flags and ("A" in flags or {"g", "$", "x", "e"} <= set(flags)):
                    return
                await client.config_set("notify-keyspace-events", "".join(sorted({*flags, *"KA"})))
        except ComponentError as exc:
            if "was not reached" in exc.message:
                raise
            _log.warning(
                "%s: notify-keyspace-events cannot be set (%s); without KA in it changes are not seen",
                self._link.where,
                exc.message,
            )


class _Note:
    """Notes that a connection was made; the library keeps its bound method weakly."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def made(self, _connection: Any) -> None:
        """Take note."""
        self._event.set()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _item(stored: bytes) -> ConfigurationItem:
    value, _, version = stored.decode(errors="replace").partition("||")
    return ConfigurationItem(value=value, version=version)
