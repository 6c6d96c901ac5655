"""A message that is a batch of CloudEvents, as one delivery per event.

The events of a batch follow one another, each with attempts, retries and dead letter of its own; the message
is finished at its broker when all of them are. One that is given back comes again as a whole: what was
finished of it is handled again. Called by `dispatcher.py`.
Source: CloudEvents 1.0.2, JSON format, section 4 (batch).
"""

from __future__ import annotations

from collections.abc import Sequence

from pelton.model import cloudevent
from pelton.ports import Delivery, Message

__all__ = ["EventPart", "parts_of"]


class _Whole:
    """The message behind parts."""

    def __init__(self, delivery: Delivery, count: int) -> None:
        self.delivery = delivery
        self.left = count
        self.given_back = False

    async def finish(self) -> None:
        self.left -= 1
        if not self.left and not self.given_back:
            await self.delivery.ack()

    async def give_back(self, delay_s: float) -> None:
        if not self.given_back:
            self.given_back = True
            await self.delivery.nak(delay_s)


class EventPart:
    """One event of a batch; see `ports.OrderedDelivery`."""

    __slots__ = ("_ended", "_whole", "key", "lane", "message", "order_key")

    def __init__(self, whole: _Whole, index: int, message: Message) -> None:
        delivery = whole.delivery
        self._whole = whole
        self._ended = False
        self.message = message
        self.key = f"{delivery.key}#{index}"
        # What has no order by its broker waits here for its retries: given back, all of the batch would come.
        self.lane = str(getattr(delivery, "lane", "")) or delivery.key
        self.order_key = str(getattr(delivery, "order_key", ""))

    @property
    def lost(self) -> bool:
        """Whether somebody else gets the batch."""
        return self._whole.given_back or bool(getattr(self._whole.delivery, "lost", False))

    async def ack(self) -> None:
        """Finish it, and the message with the last one."""
        if not self._ended:
            self._ended = True
            await self._whole.finish()

    async def nak(self, delay_s: float) -> None:
        """Give the whole message back."""
        if not self._ended:
            self._ended = True
            await self._whole.give_back(delay_s)

    async def term(self) -> None:
        """Finish it for good."""
        await self.ack()

    async def extend(self) -> None:
        """Tell the broker that work on the message goes on."""
        await self._whole.delivery.extend()


def parts_of(delivery: Delivery) -> Sequence[Delivery] | None:
    """Return a delivery per event when a message is a batch, maybe none; None for every other message."""
    message = delivery.message
    if message.data[:1] != b"[":
        return None
    events = cloudevent.split_batch(message.headers, message.data)
    if events is None:
        return None
    headers = {name: text for name, text in message.headers.items() if name.lower() != "content-type"}
    headers["content-type"] = cloudevent.STRUCTURED
    whole = _Whole(delivery, len(events))
    return [
        EventPart(whole, index, Message(topic=message.topic, data=event, headers=headers, at=message.at))
        for index, event in enumerate(events)
    ]
