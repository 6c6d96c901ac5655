"""Kafka as event bus and as binding: `pubsub.kafka`, `bindings.kafka`.

Implements `ports.Bus` and `ports.Binding`; `consumer.py` holds a subscription, `publisher.py` the producer,
`records.py` says how records and messages look to each other, `settings.py` what metadata means. Only files
of this package import `confluent_kafka`.
Kafka differs from the port in three points: a message id makes nothing unique (only the producer's own
repetitions are stored once), an ack is committed a little later, and order holds within a partition.
Source: `dapr-components` contract, sections 2 and 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pelton import errors
from pelton.drivers.kafka.consumer import Consumption, Noted, finish_all
from pelton.drivers.kafka.offsets import GroupOffsets, ends
from pelton.drivers.kafka.publisher import Publisher
from pelton.drivers.kafka.reader import RecordReader
from pelton.drivers.kafka.settings import KafkaSettings
from pelton.drivers.kafka.topics import TopicAdmin
from pelton.log import get
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.ports import Delivery, Message, Place, Recorded

__all__ = ["KafkaBinding", "KafkaBus", "PartitionLag"]

_ANSWER_S: Final = 10.0
_LINGER_S: Final = 30.0
_GROUPS_AT_ONCE: Final = 8

_T = TypeVar("_T")

_log = get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """How far a group is in one partition: next offset to commit (-1: none yet) and the end of the log."""

    group: str
    topic: str
    partition: int
    committed: int
    end: int

    @property
    def waiting(self) -> int:
        """Records that the group has not finished; 0 while it has committed nothing."""
        return max(0, self.end - self.committed) if self.committed >= 0 else 0


class KafkaBus:
    """A Kafka cluster as bus; an async context manager.

    Args:
        metadata: The component's.
        where: For messages.

    Raises:
        ComponentError: The metadata is not usable.
    """

    def __init__(self, metadata: Mapping[str, str], *, where: str = "") -> None:
        self._settings = KafkaSettings.of(metadata, where=where)
        self._where = where
        self._publisher = Publisher(self._settings, where=where)
        self._topics = TopicAdmin(metadata, where=where)
        self._active: dict[tuple[str, str], Consumption] = {}
        self._stalls: dict[tuple[str, int], int] = {}
        self._finished: dict[str, dict[tuple[str, int], Noted]] = {}  # by group
        self._admin: AdminClient | None = None
        self._offsets = GroupOffsets(self._settings.client, answer_s=_ANSWER_S)
        self._endings: set[asyncio.Task[None]] = set()
        for note in self._settings.notes:
            _log.info("%s: %s", where, note)

    async def __aenter__(self) -> KafkaBus:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave all groups and send what is queued."""
        await asyncio.gather(*(found.end() for found in self._active.values()))
        self._active.clear()
        for task in self._endings:
            task.cancel()
        await asyncio.gather(*self._endings, return_exceptions=True)
        await asyncio.to_thread(self._offsets.close)
        await self._publisher.close()

    async def publish(self, message: Message) -> None:
        """Publish; see `ports.Bus`. The record's key and partition come from the message's metadata."""
        await self._publisher.publish(message)

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches; see `ports.Bus`.

        The group is the component's `consumerGroup` or `consumerID`, else `consumer`. Ending the iteration
        leaves the group once what is held is finished, at the latest with the next subscription.
        """
        settings = KafkaSettings.of(options, where=self._where) if options else self._settings
        topics = [topic] if topic else list(settings.topics)
        if not topics:
            raise errors.ComponentError('"topics" is required of an input', where=self._where)
        where = (topic, consumer)
        before = self._active.pop(where, None)
        if before is not None:
            await before.end()
        found = Consumption(
            settings,
            topics,
            group=settings.group or consumer,
            max_in_flight=max_in_flight,
            where=self._where,
            stalls=self._stalls,
            finished=self._finished.setdefault(settings.group or consumer, {}),
        )
        self._active[where] = found
        found.start()
        try:
            while True:
                yield await found.next()
        finally:
            found.drain()
            task = asyncio.create_task(self._finish(where, found))
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)

    async def finish_all(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge several deliveries of this bus at once."""
        finish_all(deliveries)

    async def _finish(self, where: tuple[str, str], found: Consumption) -> None:
        """Leave the group when what is held is finished, or not finished in time."""
        await found.over(_LINGER_S)
        await found.end()
        if self._active.get(where) is found:
            del self._active[where]

    async def read(self, topic: str, *, first: Place, last: Place) -> AsyncIterator[Sequence[Recorded]]:
        """Iterate over what a topic keeps; see `ports.ReadableBus`."""
        async with RecordReader(self._settings, topic, where=self._where) as reader:
            async for batch in reader.read(first, last):
                yield batch

    async def follow(self, topic: str) -> AsyncIterator[Message]:
        """Iterate over messages that come from now on; see `ports.ReadableBus`."""
        async with RecordReader(self._settings, topic, where=self._where) as reader:
            async for message in reader.follow():
                yield message

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return records that the group has not finished, in the partitions of this member if it is one."""
        active = self._active.get((topic, consumer))
        if active is not None and not active.ended:
            return active.pending()
        topics = [topic] if topic else list(self._settings.topics)
        lags = await self.lags(self._settings.group or consumer)
        return sum(lag.waiting for lag in lags if lag.topic in topics)

    def trouble(self, topic: str, *, consumer: str) -> str:
        """Return what keeps a subscription from its broker, "" for nothing."""
        active = self._active.get((topic, consumer))
        return active.trouble if active is not None else ""

    def lanes(self, topic: str, *, consumer: str) -> int:
        """Return how many partitions a subscription holds: more events than that have to wait for others."""
        active = self._active.get((topic, consumer))
        return active.lanes if active is not None else 0

    async def lags(self, group: str = "") -> list[PartitionLag]:
        """Return where groups are, by topic and partition; all groups with offsets unless one is named.

        Raises:
            DeliveryError: The broker did not answer.
        """
        return await self._ask(self._lags, group)

    async def create_topic(
        self, name: str, *, partitions: int, replicas: int, config: Mapping[str, str]
    ) -> bool:
        """Create a topic; False when it exists already. Raises DeliveryError."""
        return await self._topics.create(name, partitions=partitions, replicas=replicas, config=config)

    async def _ask(self, call: Callable[..., _T], *args: Any) -> _T:
        try:
            return await asyncio.to_thread(call, *args)
        except KafkaException as exc:
            error = exc.args[0] if exc.args else exc
            text = error.str() if hasattr(error, "str") else str(exc)
            raise errors.DeliveryError(f"Kafka: {text}", where=self._where) from exc

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._settings.admin)
        return self._admin

    def _committed(self, groups: Sequence[str]) -> list[tuple[str, dict[tuple[str, int], int]]]:
        if len(groups) == 1:
            return [(groups[0], self._offsets.committed(groups[0]))]
        once = GroupOffsets(self._settings.client, answer_s=_ANSWER_S)  # each group takes a connection
        with ThreadPoolExecutor(_GROUPS_AT_ONCE) as pool:
            return list(zip(groups, pool.map(once.committed, groups), strict=True))

    def _lags(self, group: str) -> list[PartitionLag]:
        admin = self._client()
        groups = [group]
        if not group:
            listed = admin.list_consumer_groups(request_timeout=_ANSWER_S).result()
            groups = sorted(each.group_id for each in listed.valid)
        found = [(name, *one) for name, offsets in self._committed(groups) for one in offsets.items()]
        if not found:
            return []
        known = ends(admin, {place for _, place, _ in found}, answer_s=_ANSWER_S)
        return [
            PartitionLag(group=name, topic=topic, partition=number, committed=at, end=known[topic, number])
            for name, (topic, number), at in found
            if (topic, number) in known
        ]


class KafkaBinding:
    """`bindings.kafka` as output: `create` publishes a record on `publishTopic`.

    Args:
        component: The component.

    Raises:
        ComponentError: The metadata is not usable.
    """

    def __init__(self, component: Component) -> None:
        self._where = f"component {component.namespace}/{component.name}"
        self._settings = KafkaSettings.of(component.metadata, where=self._where)
        self._publisher = Publisher(self._settings, where=self._where)

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Publish one record; see `ports.Binding`."""
        if operation != "create":
            raise errors.ComponentError(
                f"bindings.kafka has no operation {operation!r}", where=self._where, hint='It has "create".'
            )
        topic = self._settings.publish_topic
        if not topic:
            raise errors.ComponentError('"publishTopic" is required of an output', where=self._where)
        await self._publisher.publish(Message(topic=topic, data=data, metadata=metadata))
        return Delivered(ok=True)

    async def close(self) -> None:
        """Send what is queued."""
        await self._publisher.close()
