"""Topics of a Kafka cluster: looked at, made, given more partitions and other settings.

What is to be done is decided by whoever calls (`cli/runtime.py`, by `plan/kafka_topics`). Calls of the client
library block and so run on a thread. Called by `bus.py` beside it for topics that nobody described.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from pelton import errors
from pelton.drivers.kafka.settings import KafkaSettings
from pelton.model.kafka_topic import TopicFound

__all__ = ["TopicAdmin"]

_ANSWER_S: Final = 10.0
_T = TypeVar("_T")


class TopicAdmin:
    """One cluster's topics.

    Args:
        metadata: As a component's: `brokers` and what logging in takes.
        where: For messages.

    Raises:
        ComponentError: The metadata is not usable.
    """

    def __init__(self, metadata: Mapping[str, str], *, where: str = "") -> None:
        self._where = where
        self._settings = KafkaSettings.of(metadata, where=where)
        self._client: AdminClient | None = None

    async def find(self, name: str) -> TopicFound | None:
        """Return a topic, None when it is not there; raises DeliveryError."""
        return await self._ask(self._find, name)

    async def create(self, name: str, *, partitions: int, replicas: int, config: Mapping[str, str]) -> bool:
        """Create a topic, with -1 for the cluster's defaults; False when it exists. Raises DeliveryError."""
        return await self._ask(self._create, name, partitions, replicas, dict(config))

    async def grow(self, name: str, partitions: int) -> None:
        """Give a topic so many partitions in all; raises DeliveryError."""
        await self._ask(self._grow, name, partitions)

    async def configure(self, name: str, settings: Mapping[str, str], unset: tuple[str, ...] = ()) -> None:
        """Set and take back settings of a topic; raises DeliveryError."""
        if settings or unset:
            await self._ask(self._configure, name, dict(settings), unset)

    async def _ask(self, call: Callable[..., _T], *args: Any) -> _T:
        try:
            return await asyncio.to_thread(call, *args)
        except KafkaException as exc:
            error = exc.args[0] if exc.args else exc
            text = error.str() if hasattr(error, "str") else str(exc)
            final = hasattr(error, "code") and error.code() in _FINAL
            raise errors.DeliveryError(f"Kafka: {text}", where=self._where, retriable=not final) from exc

    def _admin(self) -> AdminClient:
        if self._client is None:
            self._client = AdminClient(self._settings.admin)
        return self._client

    def _find(self, name: str) -> TopicFound | None:
        asked = self._admin().describe_topics(TopicCollection([name]), request_timeout=_ANSWER_S)[name]
        try:
            topic = asked.result()
        except KafkaException as exc:
            if exc.args and exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            raise
        resource = ConfigResource(ResourceType.TOPIC, name)
        entries = self._admin().describe_configs([resource], request_timeout=_ANSWER_S)[resource].result()
        own = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        return TopicFound(
            id=str(topic.topic_id),
            partitions=len(topic.partitions),
            replicas=min(len(partition.replicas) for partition in topic.partitions),
            config={
                key: entry.value or ""
                for key, entry in entries.items()
                if int(getattr(entry.source, "value", entry.source)) == own
            },
        )

    def _create(self, name: str, partitions: int, replicas: int, config: dict[str, str]) -> bool:
        topic = NewTopic(name, num_partitions=partitions, replication_factor=replicas, config=config)
        future = self._admin().create_topics([topic], request_timeout=_ANSWER_S)[name]
        try:
            future.result()
        except KafkaException as exc:
            if exc.args and exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    def _grow(self, name: str, partitions: int) -> None:
        self._admin().create_partitions([NewPartitions(name, partitions)], request_timeout=_ANSWER_S)[
            name
        ].result()

    def _configure(self, name: str, settings: dict[str, str], unset: tuple[str, ...]) -> None:
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in settings.items()
        ]
        entries += [ConfigEntry(key, None, incremental_operation=AlterConfigOpType.DELETE) for key in unset]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        self._admin().incremental_alter_configs([resource], request_timeout=_ANSWER_S)[resource].result()


# What asking again does not cure.
_FINAL: Final = frozenset(
    {
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_REPLICA_ASSIGNMENT,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)
