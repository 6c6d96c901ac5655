"""MQTT 3.1.1: `pubsub.mqtt3` and `bindings.mqtt3`, and the older names without the 3.

Implements `ports.Bus` and `ports.Binding`. A subscription is a connection with a session of its own, which
the broker keeps while nobody is connected unless `cleanSession` says otherwise. A message is acknowledged
after its outcome; one that is not comes again when the connection is made anew, with the packet id that it
had, so a session that the broker still has is gone on with and one that it lost makes everything held here
void. The protocol knows neither headers, nor de-duplication, nor how many messages wait at the broker.
Source: `dapr-components` contract, sections 2 (`pubsub.mqtt3`) and 4 (`bindings.mqtt3`).
"""

from __future__ import annotations

import asyncio
import uuid
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from paho.mqtt.client import MQTTMessage, topic_matches_sub

from pelton.clock import Clock
from pelton.drivers.mqtt.session import Link, Session
from pelton.errors import ComponentError, DeliveryError
from pelton.holding import Holding
from pelton.log import get
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.model.settings import truthy
from pelton.ports import Delivery, Message

__all__ = ["MqttBinding", "MqttBus"]

KEPT: Final = 1000
"""Messages of one subscription that are kept here beyond those in flight; then the connection is made anew
later, and the broker has the rest until then."""

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Bytes of all of them, at which it is the same."""

_Handle = tuple[int, int, int]
"""Packet id, quality, bytes."""

_log = get(__name__)


class _Subscription:
    """Messages of one session, pushed by the broker, held here."""

    def __init__(self, link: Link, client_id: str, topic: str, max_in_flight: int) -> None:
        self._link = link
        self.client_id = client_id
        self._topic = topic
        # A shared subscription is `$share/<group>/<filter>`.
        self._filter = (
            topic.split("/", 2)[2] if topic.startswith("$share/") and topic.count("/") > 1 else topic
        )
        self._session: Session | None = None
        self._most = max(1, max_in_flight) + KEPT
        self._left = 0
        self._unacknowledged = 0
        self._bytes = 0
        self.holding = Holding[_Handle](max_in_flight, finish=self._finish)

    async def batches(self) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate until the connection is gone. Raises DeliveryError, ComponentError."""
        holding = self.holding
        try:
            while True:
                await self._connect()
                while not (self._left and self._roomy):
                    if self._session is None or self._session.ended:
                        raise DeliveryError(f"{self._link.name} broke off", where=self._link.where)
                    batch = holding.take()
                    if batch:
                        yield batch
                        continue
                    holding.changed.clear()
                    if not self._session.ended:
                        await holding.changed.wait()
                _log.info("%s: %d messages that found no room are fetched now", self._link.where, self._left)
        finally:
            self.forget()
            await self._disconnect()

    @property
    def _roomy(self) -> bool:
        return len(self.holding) <= self._most // 2 and self._bytes <= KEPT_BYTES // 2

    def forget(self) -> None:
        """Drop what is held; the broker gives it again where it has the session."""
        self.holding.forget()
        self._bytes = 0

    async def open_only(self) -> None:
        """Make the session and leave it to the broker."""
        await self._connect()
        await self._disconnect()

    async def _connect(self) -> None:
        await self._disconnect()
        self._left = 0
        session = Session(
            self._link,
            self.client_id,
            clean=self._link.clean,
            take=self._take,
            lost=self.holding.changed.set,
        )
        self._session = session
        if not await session.open():
            # Packet ids of a session that is gone may be those of other messages now.
            self.forget()
        # Acknowledged by hand, so a message of quality 2 would be lost between its two answers: 1 is enough.
        await session.subscribe(self._topic, min(1, self._link.qos))

    async def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _take(self, received: MQTTMessage) -> None:
        try:
            topic = received.topic
        except UnicodeDecodeError:
            _log.warning("%s: a message whose topic is no UTF-8 is dropped", self._link.where)
            self._drop(received)
            return
        if not topic_matches_sub(self._filter, topic):
            self._drop(received)  # of a subscription that this session had once
            return
        size = len(received.payload)
        if len(self.holding) >= self._most or (len(self.holding) and self._bytes + size > KEPT_BYTES):
            if not self._left:
                _log.warning(
                    "%s: %d messages wait here, more stay behind", self._link.where, len(self.holding)
                )
            self._left += 1
            return
        name = f"{received.mid}"
        if not received.qos:
            self._unacknowledged += 1
            name = f"q{self._unacknowledged}"
        digest = zlib.crc32(received.payload, zlib.crc32(topic.encode()))
        headers = {"topic": topic, **({"retain": "true"} if received.retain else {})}
        message = Message(topic=topic, data=bytes(received.payload), headers=headers)
        key = f"{self.client_id}:{name}-{digest:08x}"
        if key not in self.holding:  # else it comes again on a new connection
            self._bytes += size
            self.holding.offer(key, message, (received.mid, received.qos, size))

    def _drop(self, received: MQTTMessage) -> None:
        if received.qos and self._session is not None:
            self._session.ack(received.mid, received.qos)

    async def _finish(self, handle: _Handle, _success: bool) -> None:
        mid, qos, size = handle
        self._bytes -= size
        if qos:
            if self._session is None:
                raise DeliveryError(f"{self._link.name} broke off", where=self._link.where)
            self._session.ack(mid, qos)


class _Publisher:
    """The connection that is published on, made when it is needed."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._session: Session | None = None
        self._lock = asyncio.Lock()

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        given = {key.lower(): value for key, value in metadata.items()}
        retain = truthy(given["retain"]) if given.get("retain") else self._link.retain
        qos = self._link.qos
        if given.get("qos"):
            if given["qos"] not in {"0", "1", "2"}:
                raise ComponentError("`qos` is not 0, 1 or 2", where=self._link.where)
            qos = int(given["qos"])
        session = await self._open()
        await session.publish(topic, data, qos=qos, retain=retain)

    async def _open(self) -> Session:
        async with self._lock:
            if self._session is None or self._session.ended:
                # A name of its own: a broker ends the older of two connections with one name.
                name = f"{self._link.client_id('pelton')[:40]}-{uuid.uuid4().hex[:12]}"
                session = Session(self._link, name, clean=True)
                await session.open()
                self._session = session
            return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class MqttBus:
    """Topics of one broker; `bindings.mqtt3` as a source is the one topic that its metadata name.

    Args:
        component: `url` is required, and `topic` for the binding; the keys of the contract.
        clock: Unused; the broker keeps no times.

    Raises:
        ComponentError: The metadata cannot be used.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._link = Link(component)
        self._topic = ""
        if component.type.startswith("bindings."):
            self._topic = self._link.settings.required("topic")
        self._publisher = _Publisher(self._link)
        self._subscriptions: dict[tuple[str, str], _Subscription] = {}

    async def __aenter__(self) -> MqttBus:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection that is published on."""
        await self._publisher.close()

    async def publish(self, message: Message) -> None:
        """Publish to the topic; see `ports.Bus`. Headers are not sent, a repeated id is a second message.

        Metadata: `retain`, `qos`.
        """
        await self._publisher.publish(self._topic or message.topic, message.data, message.metadata)

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches of a session; see `ports.Bus`."""
        del options
        name = self._name(topic, consumer)
        if any(name == other.client_id for other in self._subscriptions.values()):
            raise DeliveryError(
                f"the client id {name!r} is in use by another subscription of this component",
                where=self._link.where,
            )
        if self._link.clean:
            _log.warning(
                "%s: cleanSession is true; what is published while %s is not connected is lost",
                self._link.where,
                name,
            )
        subscription = _Subscription(self._link, name, self._topic or topic, max_in_flight)
        self._subscriptions[topic, consumer] = subscription
        try:
            async for batch in subscription.batches():
                yield batch
        finally:
            del self._subscriptions[topic, consumer]
            subscription.forget()

    async def prepare(self, topic: str, *, consumer: str, options: Mapping[str, str]) -> None:
        """Make the session of a consumer, so that what is published from now on waits for it."""
        del options
        name = self._name(topic, consumer)
        await _Subscription(self._link, name, self._topic or topic, 1).open_only()

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return what is held here; what waits at the broker cannot be asked for. 0 for an unknown one."""
        found = self._subscriptions.get((topic, consumer))
        return len(found.holding) if found is not None else 0

    def _name(self, topic: str, consumer: str) -> str:
        """Return the client id; a session holds one topic's messages, so a pub/sub one names it too."""
        name = self._link.client_id(consumer)
        return name if self._topic else f"{name}-{topic}"


class MqttBinding:
    """`bindings.mqtt3` as an output: one topic.

    Args:
        component: `url` and `topic` are required.

    Raises:
        ComponentError: The metadata cannot be used.
    """

    def __init__(self, component: Component) -> None:
        self._link = Link(component)
        self._topic = self._link.settings.required("topic")
        self._publisher = _Publisher(self._link)

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Publish and wait until the broker has it; see `ports.Binding`.

        Args:
            operation: create.
            data: The payload.
            metadata: `topic` instead of the component's, `retain`, `qos`.
        """
        if operation.lower() != "create":
            raise ComponentError(
                f"bindings.mqtt3 has no operation {operation!r}", where=self._link.where, hint="Use create."
            )
        given = {key.lower(): value for key, value in metadata.items()}
        await self._publisher.publish(given.get("topic") or self._topic, data, metadata)
        return Delivered(ok=True)

    async def close(self) -> None:
        """Close the connection."""
        await self._publisher.close()
