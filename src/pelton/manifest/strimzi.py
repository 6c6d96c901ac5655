"""KafkaTopic of kafka.strimzi.io/v1beta2: a topic that has to exist in a Kafka cluster.

Called through `manifest/kinds`; `controlplane/kafka_topics` makes it so. The status is `CONDITIONS` and two
names. Source: Strimzi's CRD as the samples use it (contracts, OpenFunction, section 11).
"""

from __future__ import annotations

from typing import Any, Final

from pelton.manifest.fields import AnyValue, Field, Integer, Mapped, Problem, Record, Text, describe
from pelton.manifest.verbs import TableVerbs
from pelton.model.kafka_topic import KafkaTopic

__all__ = ["KAFKA_TOPIC", "TOPIC_NAME"]

TOPIC_NAME: Final = r"[a-zA-Z0-9._-]{1,249}"
_SPEC = Record(
    KafkaTopic,
    (
        Field(
            "topicName",
            "topic",
            Text(TOPIC_NAME, "a topic's name: letters, digits, dot, underscore, hyphen", max_length=249),
            doc="Name of the topic; by default the object's.",
        ),
        Field("partitions", "partitions", Integer(1), doc="Partitions; they can only become more."),
        Field("replicas", "replicas", Integer(1, 32767), doc="Copies of each partition."),
        Field(
            "config",
            "config",
            Mapped(AnyValue()),
            doc="Settings of the topic; those that are not named go back to the cluster's.",
        ),
    ),
)


def _rules(topic: KafkaTopic) -> list[Problem]:
    problems = [
        Problem(f"spec.config.{name}", f"must be a text, a number or true or false, found {describe(value)}")
        for name, value in topic.config.items()
        if not isinstance(value, str | int | float)
    ]
    name = topic.topic or topic.name
    if name in {".", ".."}:
        problems.append(Problem("spec.topicName" if topic.topic else "metadata.name", "names no topic"))
    return problems


def _default(filled: dict[str, Any]) -> None:
    """Fill in nothing: what is absent is the cluster's default."""


KAFKA_TOPIC: TableVerbs[KafkaTopic] = TableVerbs(
    "kafka.strimzi.io/v1beta2", "KafkaTopic", _SPEC, rules=_rules, default=_default
)
"""The verbs of KafkaTopic."""
