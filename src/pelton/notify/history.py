"""Tells one webhook of everything that was sent: the history of a NotificationManager.

`notify/pipeline.py` notes each notification that was accepted; what waits is on the bus, so that neither a
slow webhook nor a restart loses it. Source: contracts, log and notification, section 6.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pelton import log
from pelton.clock import Clock, rfc3339
from pelton.notify.alert import Alert
from pelton.notify.dead_letters import DEAD_NOTIFICATIONS, dead_letter
from pelton.notify.envelope import Notification
from pelton.notify.settings import MISSING
from pelton.ports import Bus, Delivery, Message, Sender, SendResult

__all__ = ["HISTORY_TOPIC", "HistoryFeed", "history_payload"]

HISTORY_TOPIC: Final = "pelton.notification-history"
"""Where what was sent waits to be told."""

_CONSUMER: Final = "notify-history"
_TRIES: Final = 4
_GAP_S: Final = 5.0
_TROUBLE_S: Final = 1.0
_IN_FLIGHT: Final = 64
_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One notification that was accepted.

    Attributes:
        id: The notification's.
        receiver, block: Who got it.
        channels: Whom that reached.
        at: RFC 3339.
        alerts: What it told.
    """

    id: str
    receiver: str
    block: str
    channels: tuple[str, ...]
    at: str
    alerts: tuple[Alert, ...]


_entry = msgspec.json.Decoder(Entry)


def history_payload(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the body: each alert once, with all receivers that got it."""
    told: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in entries:
        for alert in entry.alerts:
            key = (alert.fingerprint, alert.starts_at, alert.status)
            item = told.setdefault(
                key,
                {
                    "id": str(int(alert.fingerprint, 16)) if alert.fingerprint else "",
                    "status": alert.status,
                    "labels": {name: text for name, text in alert.labels.items() if name != "receiver"},
                    "annotations": alert.annotations,
                    "startsAt": alert.starts_at,
                    "endsAt": alert.ends_at,
                    "notificationTime": entry.at,
                    "receiver": {},
                },
            )
            item["receiver"].setdefault(entry.receiver, {})[entry.block] = list(entry.channels)
    return {"alerts": list(told.values())}


class HistoryFeed:
    """Takes notes of what was sent, and posts them.

    Args:
        bus: Where they wait.
        sender: The one for webhooks; None = nothing is told.
        clock: Time.
    """

    def __init__(self, bus: Bus, sender: Sender | None, clock: Clock) -> None:
        self._bus = bus
        self._sender = sender
        self._clock = clock
        self._wanted = asyncio.Event()
        self._settings: Mapping[str, Any] | None = None
        self.posted = 0
        self.dead = 0

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """Settings of the webhook; None while nobody wants to be told: notes that wait are dropped then."""
        return self._settings

    @settings.setter
    def settings(self, settings: Mapping[str, Any] | None) -> None:
        self._settings = settings
        if settings is not None:
            self._wanted.set()

    async def note(self, notification: Notification, channels: Sequence[str]) -> None:
        """Store that a notification was accepted; raises DeliveryError."""
        if self._settings is None or self._sender is None:
            return
        entry = Entry(
            id=notification.id,
            receiver=notification.receiver,
            block=notification.block,
            channels=tuple(channels),
            at=rfc3339(self._clock.now(), fraction=True),
            alerts=tuple(notification.group.alerts),
        )
        await self._bus.publish(
            Message(topic=HISTORY_TOPIC, data=msgspec.json.encode(entry), id=f"{notification.id}#history")
        )

    async def run(self) -> None:
        """Post until cancelled; begins once somebody wants to be told."""
        await self._wanted.wait()
        while True:
            stream = self._bus.subscribe(
                HISTORY_TOPIC, consumer=_CONSUMER, max_in_flight=_IN_FLIGHT, options={}
            )
            try:
                async for batch in stream:
                    await self._post(batch)
            except Exception as error:  # whatever the broker's client raises, it goes on
                _log.warning("bus trouble doing=history error=%s", error)
            finally:
                if (close := getattr(stream, "aclose", None)) is not None:
                    with suppress(Exception):
                        await close()
            await self._clock.sleep(_TROUBLE_S)

    async def _post(self, batch: Sequence[Delivery]) -> None:
        entries, readable = [], []
        for delivery in batch:
            try:
                entries.append(_entry.decode(delivery.message.data))
                readable.append(delivery)
            except msgspec.DecodeError as error:
                await self._bury([delivery], f"The message is no note: {error}", attempts=0)
        if not entries:
            return
        result = SendResult(ok=True)
        for attempt in range(_TRIES):
            if attempt:
                await self._clock.sleep(_GAP_S)
                for delivery in readable:
                    await delivery.extend()
            if self._settings is None or self._sender is None:
                break  # nobody wants to be told any more
            settings = {**self._settings, "deliveryId": f"{entries[0].id}#history"}
            if missing := settings.get(MISSING):
                result = SendResult(ok=False, detail=str(missing))  # it may be created any moment
            else:
                result = await self._sender.send(settings, history_payload(entries))
            if result.ok or not result.retriable:
                break
        if not result.ok:
            await self._bury(readable, result.detail, attempts=_TRIES)
            return
        self.posted += len(readable)
        for delivery in readable:
            await delivery.ack()

    async def _bury(self, deliveries: Sequence[Delivery], reason: str, *, attempts: int) -> None:
        _log.error("history not accepted, it became dead letters notes=%d reason=%r", len(deliveries), reason)
        for delivery in deliveries:
            await self._bus.publish(
                dead_letter(
                    delivery,
                    subscription="notifications.history.webhook",
                    topic=f"{DEAD_NOTIFICATIONS}history",
                    id=delivery.message.id or HISTORY_TOPIC,
                    reason=reason,
                    attempts=attempts,
                    failed_at=self._clock.now().timestamp(),
                )
            )
            self.dead += 1
            await delivery.term()
