"""KafkaTopics: topics that have to exist in a Kafka cluster, and what their status says.

Each object is looked at when it appears, when it changes, and now and then; whoever is not ready is looked at
again, later each time. The deletion of an object leaves its topic, whose records nobody could bring back.
Run by `cli/control_plane.py`; the runtime process speaks to Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pelton import log
from pelton.clock import Clock, rfc3339
from pelton.errors import ConflictError, NotFoundError, PeltonError
from pelton.manifest.strimzi import KAFKA_TOPIC
from pelton.model.kafka_topic import TopicFound, TopicWanted
from pelton.plan.aliases import Aliases
from pelton.plan.kafka_topics import bootstrap_of, status_of, wanted_of
from pelton.ports import Store

__all__ = ["TOPICS", "Ensure", "KafkaTopics"]

TOPICS: Final = "kafkatopics.kafka.strimzi.io"
_AGAIN_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
_KEPT_S: Final = 120.0
"""Seconds between looks at a topic that is as it should be, as Strimzi has it: Kafka's may be deleted."""

_log = log.get(__name__)

Ensure = Callable[[str, TopicWanted], Awaitable[tuple[TopicFound | None, str]]]
"""(brokers, what it should be) -> the topic as it is then, and why it is not that, "" when it is.

Raises PeltonError when the cluster cannot be asked.
"""


class KafkaTopics:
    """Keeps topics.

    Args:
        store: Where KafkaTopics are.
        ensure: Makes a topic what it should be.
        aliases: Says where clusters are.
        clock: Stamps conditions and times further looks.
    """

    def __init__(self, store: Store, ensure: Ensure, *, aliases: Aliases, clock: Clock) -> None:
        self._store = store
        self._ensure = ensure
        self._aliases = aliases
        self._clock = clock
        self._working: dict[tuple[str, str], tuple[int, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Keep them until cancelled."""
        try:
            while True:
                try:
                    async for event in self._store.watch(TOPICS):
                        self._take(event.type, event.object)
                except PeltonError as error:
                    _log.warning("KafkaTopics are read again: %s", error)
                await self._clock.sleep(_AGAIN_S[0])
        finally:
            for _, task in self._working.values():
                task.cancel()

    def _take(self, change: str, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        key = metadata["namespace"], metadata["name"]
        generation = int(metadata.get("generation", 1))
        known = self._working.get(key)
        if change != "DELETED" and known is not None and known[0] == generation:
            return  # only its status changed
        if known is not None:
            known[1].cancel()
            del self._working[key]
        if change != "DELETED":
            self._working[key] = generation, asyncio.create_task(self._settle(*key))

    async def _settle(self, namespace: str, name: str) -> None:
        """Look at a topic until its object is gone: often until it is as it should be, then now and then."""
        failures = 0
        while True:
            wait_s = _AGAIN_S[min(failures, len(_AGAIN_S) - 1)]
            failures += 1
            try:
                if await self.look(namespace, name):
                    failures, wait_s = 0, _KEPT_S
            except NotFoundError:
                return
            except ConflictError:
                continue  # somebody changed it meanwhile: by what it says now
            except PeltonError as error:
                _log.warning("KafkaTopic %s/%s: %s", namespace, name, error)
            await self._clock.sleep(wait_s)

    async def look(self, namespace: str, name: str) -> bool:
        """Make a topic what its object says and write the status; False when another look may help."""
        obj = await self._store.get(TOPICS, namespace, name)
        topic, _ = KAFKA_TOPIC.decode(KAFKA_TOPIC.default(obj))
        wanted = wanted_of(topic)
        brokers = bootstrap_of(topic, self._aliases)
        found, reason, message, settled = None, "", "", True
        if not topic.cluster:
            reason, message = "ClusterNotNamed", 'the label "strimzi.io/cluster" has to name a Kafka cluster'
        elif not brokers:
            reason = "ClusterUnknown"
            message = (
                f"nothing says where the Kafka cluster {topic.cluster} is; start the platform with "
                f"--alias {topic.cluster}-kafka-bootstrap=HOST:PORT"
            )
        else:
            try:
                found, message = await self._ensure(brokers, wanted)
                reason = "NotSupported" if message else ""
            except PeltonError as error:
                reason, message = "KafkaError", error.message
                settled = not getattr(error, "retriable", True)
            except (ConnectionError, TimeoutError) as error:
                reason, message, settled = "KafkaError", f"the runtime did not answer: {error}", False
        await self._write(obj, wanted.name, found, reason, message)
        return settled

    async def _write(
        self, obj: Mapping[str, Any], name: str, found: TopicFound | None, reason: str, message: str
    ) -> None:
        previous = obj.get("status") or {}
        known = previous.get("topicId")
        if found is not None and found.id and known and known != found.id:
            _log.warning("the topic %s had gone and is there again, without its records", name)
        status = status_of(
            previous,
            generation=int(obj["metadata"].get("generation", 1)),
            name=name,
            found=found,
            reason=reason,
            message=message,
            now=rfc3339(self._clock.now()),
        )
        if status != previous:
            await self._store.update(TOPICS, {**obj, "status": status}, subresource="status")
