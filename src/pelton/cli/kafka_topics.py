"""KafkaTopics across processes: the control plane asks (`asking`), the runtime speaks to Kafka (`ensured`).

`controlplane/kafka_topics` decides when, `plan/kafka_topics` what, `drivers/kafka/topics` does it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from pelton.cli.tables import resolve_topic_admin
from pelton.controlplane.kafka_topics import Ensure
from pelton.errors import DeliveryError
from pelton.model.kafka_topic import TopicFound, TopicWanted
from pelton.plan.kafka_topics import changes

__all__ = ["asking", "ensured"]


def asking(call: Callable[[str, dict[str, Any]], Awaitable[Any]]) -> Ensure:
    """Return what asks the runtime by `call(op, body)`."""

    async def ensure(brokers: str, wanted: TopicWanted) -> tuple[TopicFound | None, str]:
        answer = await call("kafka-topic", {"brokers": brokers, "wanted": msgspec.to_builtins(wanted)})
        if answer["error"]:
            raise DeliveryError(answer["error"], retriable=answer["retriable"])
        found = msgspec.convert(answer["found"], TopicFound) if answer["found"] else None
        return found, answer["problem"]

    return ensure


async def ensured(body: Mapping[str, Any]) -> dict[str, Any]:
    """Make a topic what it should be; the runtime's half. Raises ComponentError without the library."""
    wanted = msgspec.convert(body["wanted"], TopicWanted)
    metadata = {"brokers": body["brokers"], "authType": "none"}
    admin = resolve_topic_admin()(metadata, where=f"topic {wanted.name}")
    answer: dict[str, Any] = {"found": None, "problem": "", "error": "", "retriable": True}
    try:
        found: TopicFound | None = await admin.find(wanted.name)
        if found is None:
            await admin.create(
                wanted.name,
                partitions=wanted.partitions,
                replicas=wanted.replicas,
                config=wanted.config,
            )
        else:
            todo = changes(wanted, found)
            answer["problem"] = todo.refused
            if todo.partitions:
                await admin.grow(wanted.name, todo.partitions)
            if not todo.refused:
                await admin.configure(wanted.name, todo.set, todo.unset)
        answer["found"] = msgspec.to_builtins(await admin.find(wanted.name))
    except DeliveryError as error:
        answer |= {"error": error.message, "retriable": error.retriable}
    return answer
