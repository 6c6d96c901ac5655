"""Scalers `kafka` and `apache-kafka`: offsets of a consumer group and ends of partitions.

Implements `ports.PushScaler`: reading asks the cluster; records that come in are noticed by a
consumer without group that stands at the end of each partition. What the numbers mean is in
`autoscale/scalers/kafka.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from pelton.autoscale.scalers.kafka import KafkaScaling, Offset, measure
from pelton.clock import Clock
from pelton.drivers.kafka.offsets import GroupOffsets, ends
from pelton.drivers.kafka.settings import KafkaSettings
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["KafkaScaler"]

_ANSWER_S: Final = 5.0
_LISTEN_S: Final = 0.5
_NO_OFFSET: Final = -1


class KafkaScaler:
    """Lag of one group.

    Args:
        settings: Of the trigger.
        clock: Time.
        where: For messages.
        answer_s: Seconds that the cluster has for each answer.
    """

    def __init__(
        self, settings: KafkaScaling, *, clock: Clock, where: str, answer_s: float = _ANSWER_S
    ) -> None:
        self._answer_s = answer_s
        self._settings = settings
        self._clock = clock
        self._where = where
        self._kafka = KafkaSettings.of(settings.connection, where=where)
        self._admin: AdminClient | None = None
        self._commits = GroupOffsets(self._kafka.client, answer_s=answer_s)
        self._before: dict[tuple[str, int], int] = {}

    async def read(self) -> Sequence[ScalerReading]:
        """Return the group's lag; see `ports.Scaler`."""
        try:
            offsets = await asyncio.to_thread(self._offsets)
        except KafkaException as error:
            self._admin = None
            raise self._failed(error) from error
        return [measure(self._settings, offsets, self._before)]

    async def activity(self) -> AsyncIterator[bool]:
        """Tell True when records come in; see `ports.PushScaler`."""
        if not self._settings.topics:
            return  # which topics count is known by their offsets alone
        while True:
            consumer = Consumer(
                {
                    **self._kafka.client,
                    "group.id": "pelton-scaler",  # required by the library; nothing is committed with it
                    "enable.auto.commit": False,
                    "fetch.message.max.bytes": 1024,
                    "queued.min.messages": 1,
                    "queued.max.messages.kbytes": 64,
                }
            )
            try:
                partitions = await asyncio.to_thread(self._partitions)
                consumer.assign([TopicPartition(name, number, OFFSET_END) for name, number in partitions])
                while (
                    message := await asyncio.to_thread(consumer.poll, _LISTEN_S)
                ) is None or message.error():
                    pass
            except KafkaException as error:
                raise self._failed(error) from error
            finally:
                await asyncio.to_thread(consumer.close)
            yield True

    async def close(self) -> None:
        """Forget the clients, which closes their connections."""
        self._admin = None
        await asyncio.to_thread(self._commits.close)

    def _offsets(self) -> list[Offset]:
        admin = self._opened()
        named = self._partitions() if self._settings.topics else None
        committed = self._commits.committed(self._settings.group, named)
        wanted = self._all_of({name for name, _ in committed}) if named is None else named
        if not wanted:
            return []
        known = ends(admin, wanted, answer_s=self._answer_s)
        return [
            Offset(
                topic=name,
                partition=number,
                committed=committed.get((name, number), _NO_OFFSET),
                end=known.get((name, number)),
            )
            for name, number in wanted
        ]

    def _all_of(self, topics: set[str]) -> list[tuple[str, int]]:
        """Return all partitions of topics: of those that the group has offsets of, each counts."""
        if not topics:
            return []
        listed = self._opened().list_topics(timeout=self._answer_s).topics
        return sorted((name, number) for name in topics & listed.keys() for number in listed[name].partitions)

    def _partitions(self) -> list[tuple[str, int]]:
        """Return the partitions of the topics that count. Raises ScalerError for a topic without any."""
        admin = self._opened()
        chosen = self._settings.partitions
        found: list[tuple[str, int]] = []
        for name in self._settings.topics:
            topic: Any = admin.list_topics(name, timeout=self._answer_s).topics.get(name)
            numbers = sorted(topic.partitions) if topic is not None and topic.error is None else []
            kept = [number for number in numbers if chosen is None or number in chosen]
            if not kept:
                raise ScalerError(
                    f"the topic {name} has no partition that partitionLimitation selects"
                    if numbers
                    else f"there is no topic {name}",
                    where=self._where,
                    hint="check topic and partitionLimitation, or create the topic",
                )
            found += [(name, number) for number in kept]
        return found

    def _opened(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._kafka.admin)
        return self._admin

    def _failed(self, error: KafkaException) -> ScalerError:
        cause = error.args[0] if error.args else error
        text = cause.str() if hasattr(cause, "str") else str(error)
        return ScalerError(
            f"Kafka at {self._settings.connection['brokers']}: {text}",
            where=self._where,
            hint="check bootstrapServers and the login",
        )
