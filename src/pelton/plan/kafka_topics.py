"""What has to be done to a topic, and what its object's status says. Pure.

`controlplane/kafka_topics` asks and writes, `drivers/kafka/topics` carries out.
Source: Strimzi's topic operator: settings that are not named go back to the cluster's, partitions never
become fewer, the number of replicas is not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pelton.model.kafka_topic import KafkaTopic, TopicFound, TopicWanted
from pelton.plan.aliases import Aliases

__all__ = ["Changes", "bootstrap_of", "changes", "status_of", "wanted_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to do to a topic that is there.

    Attributes:
        partitions: New total; 0 for no change.
        set: Settings to set, name -> text.
        unset: Settings to take back.
        refused: Why what is asked for cannot be; "" when it can.
    """

    partitions: int = 0
    set: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    refused: str = ""


def wanted_of(topic: KafkaTopic) -> TopicWanted:
    """Return what an object asks for, in Kafka's words."""
    return TopicWanted(
        name=topic.topic or topic.name,
        partitions=topic.partitions or -1,
        replicas=topic.replicas or -1,
        config={name: _text(value) for name, value in topic.config.items()},
    )


def bootstrap_of(topic: KafkaTopic, aliases: Aliases) -> str:
    """Return where the object's cluster is reached, "" when nothing says it.

    A cluster's Services are `<cluster>-kafka-bootstrap` and `<cluster>-kafka-brokers`; here aliases say what
    those stand for.
    """
    for service in ("bootstrap", "brokers"):
        host = f"{topic.cluster}-kafka-{service}.{topic.namespace}.svc.cluster.local"
        target = aliases.address(host, "9092") if topic.cluster else None
        if target is not None:
            return f"{target[0]}:{target[1]}"
    return ""


def changes(wanted: TopicWanted, found: TopicFound) -> Changes:
    """Return what makes a topic what it should be."""
    if 0 < wanted.partitions < found.partitions:
        return Changes(
            refused=f"it has {found.partitions} partitions, which cannot become {wanted.partitions}: "
            "partitions never become fewer"
        )
    if 0 < wanted.replicas != found.replicas:
        return Changes(
            refused=f"it has {found.replicas} replicas, which are not changed to {wanted.replicas} here"
        )
    return Changes(
        partitions=wanted.partitions if wanted.partitions > found.partitions else 0,
        set={name: text for name, text in wanted.config.items() if found.config.get(name) != text},
        unset=tuple(sorted(name for name in found.config if name not in wanted.config)),
    )


def status_of(
    previous: Mapping[str, Any],
    *,
    generation: int,
    name: str,
    found: TopicFound | None,
    reason: str = "",
    message: str = "",
    now: str,
) -> dict[str, Any]:
    """Return the status of a KafkaTopic.

    Args:
        previous: The stored one, whose time of transition is kept while nothing changes.
        generation: metadata.generation that this is about.
        name: The topic's.
        found: The topic as it is; None while it is not there.
        reason: Why it is not ready, in one word; "" when it is.
        message: Why, in a sentence.
        now: RFC 3339 time.
    """
    ready = "False" if reason else "True"
    old: Mapping[str, Any] = next(
        (one for one in previous.get("conditions") or () if one.get("type") == "Ready"), {}
    )
    since = old.get("lastTransitionTime") if old.get("status") == ready else None
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": since or now}
    if reason:
        condition |= {"reason": reason, "message": message}
    status: dict[str, Any] = {"conditions": [condition], "observedGeneration": generation, "topicName": name}
    topic_id = found.id if found is not None else previous.get("topicId")
    return {**status, "topicId": topic_id} if topic_id else status


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
