"""What one subscription holds of a broker: messages that wait here, that are held, that wait out a delay.

For brokers that know no delayed redelivery themselves: the message stays unacknowledged there while its
delay runs here, so that the death of this process gives it back. Used by the drivers for Redis, RabbitMQ and
MQTT; knows no broker and does no I/O of its own.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from pelton.ports import Delivery, Message

__all__ = ["Holding"]

_H = TypeVar("_H")


class _Held(Generic[_H]):
    """One message; see `ports.Delivery`."""

    def __init__(self, holding: Holding[_H], key: str, message: Message, handle: _H) -> None:
        self._holding = holding
        self.key = key
        self.message = message
        self.handle = handle

    async def ack(self) -> None:
        """Finish it at the broker."""
        await self._holding.end(self, success=True)

    async def nak(self, delay_s: float) -> None:
        """Give it back for `delay_s` seconds."""
        self._holding.postpone(self, delay_s)

    async def term(self) -> None:
        """Finish it without success."""
        await self._holding.end(self, success=False)

    async def extend(self) -> None:
        """Tell the broker that work goes on."""
        if self._holding.holds(self):
            await self._holding.renew(self.handle)


async def _nothing(_handle: object) -> None:
    return None


class Holding(Generic[_H]):
    """Messages of one subscription on this side of the broker.

    Args:
        max_in_flight: Messages that may be held at once, at least 1.
        finish: Ends a message at the broker: (handle, success); raises DeliveryError.
        extend: Tells the broker that work on a handle goes on.
    """

    def __init__(
        self,
        max_in_flight: int,
        *,
        finish: Callable[[_H, bool], Awaitable[None]],
        extend: Callable[[_H], Awaitable[None]] = _nothing,
    ) -> None:
        self._limit = max(1, max_in_flight)
        self._finish = finish
        self.renew = extend
        self._ready: OrderedDict[str, _Held[_H]] = OrderedDict()
        self._held: dict[str, _Held[_H]] = {}
        self._delayed: dict[str, tuple[_Held[_H], asyncio.TimerHandle]] = {}
        self.changed = asyncio.Event()
        """Set when something can be taken or fetched that could not before."""

    @property
    def room(self) -> int:
        """Messages that may be fetched now; those that wait here count."""
        return self._limit - len(self._held) - len(self._ready)

    def __len__(self) -> int:
        """Return how many messages the broker sees as unfinished because of this subscription."""
        return len(self._ready) + len(self._held) + len(self._delayed)

    def __contains__(self, key: object) -> bool:
        return key in self._held or key in self._ready or key in self._delayed

    def holds(self, item: _Held[_H]) -> bool:
        """Tell whether a delivery is held still."""
        return self._held.get(item.key) is item

    def offer(self, key: str, message: Message, handle: _H) -> None:
        """Take in a message from the broker; one that is here already is ignored."""
        if key not in self:
            self._ready[key] = _Held(self, key, message, handle)
            self.changed.set()

    def take(self) -> list[Delivery]:
        """Return what may be held now, oldest first; empty when nothing waits or too many are held."""
        taken = list[Delivery]()
        while self._ready and len(self._held) < self._limit:
            key, item = self._ready.popitem(last=False)
            self._held[key] = item
            taken.append(item)
        return taken

    async def end(self, item: _Held[_H], *, success: bool) -> None:
        """Finish a delivery at the broker; safe to repeat.

        Where the broker does not confirm, the message is forgotten here, so that it can come again.
        """
        if not self.holds(item):
            return
        try:
            await self._finish(item.handle, success)
        finally:
            self._held.pop(item.key, None)
            self.changed.set()

    def postpone(self, item: _Held[_H], delay_s: float) -> None:
        """Give a delivery back to be taken again after `delay_s` seconds."""
        if not self.holds(item):
            return
        del self._held[item.key]
        if delay_s <= 0:
            self._again(item)
            return
        timer = asyncio.get_running_loop().call_later(delay_s, self._due, item)
        self._delayed[item.key] = (item, timer)
        self.changed.set()

    def forget(self) -> None:
        """Drop everything without telling the broker: its connection is gone, or the subscription ends."""
        for _, timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        self._ready.clear()
        self._held.clear()
        self.changed.set()

    def _due(self, item: _Held[_H]) -> None:
        del self._delayed[item.key]
        self._again(item)

    def _again(self, item: _Held[_H]) -> None:
        self._ready[item.key] = item
        self._ready.move_to_end(item.key, last=False)
        self.changed.set()
