"""A Kafka topic as an object asks for it, and as a cluster has it: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KafkaTopic", "TopicFound", "TopicWanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaTopic:
    """A KafkaTopic of kafka.strimzi.io.

    Attributes:
        namespace, name: The object's.
        labels: The object's; `strimzi.io/cluster` names the Kafka cluster.
        annotations: The object's.
        topic: Name of the topic; "" for the object's.
        partitions: Wanted; None for the cluster's default.
        replicas: Wanted; None for the cluster's default.
        config: Settings of the topic, name -> text, number or boolean.
    """

    namespace: str = ""
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    topic: str = ""
    partitions: int | None = None
    replicas: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        """The Kafka cluster; "" when nothing names it."""
        return self.labels.get("strimzi.io/cluster", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicWanted:
    """What a topic should be.

    Attributes:
        name: Its name.
        partitions: Wanted; -1 for the cluster's default.
        replicas: Wanted; -1 for the cluster's default.
        config: Settings, name -> text as Kafka has it.
    """

    name: str
    partitions: int = -1
    replicas: int = -1
    config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFound:
    """What a cluster has.

    Attributes:
        id: The topic's id, as Kafka prints it; "" from clusters without ids.
        partitions: How many.
        replicas: Copies of the partition with the fewest.
        config: Settings that were set for this topic, name -> text.
    """

    id: str = ""
    partitions: int
    replicas: int
    config: dict[str, str] = field(default_factory=dict)
