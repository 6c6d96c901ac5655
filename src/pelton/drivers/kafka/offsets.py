"""Reads what consumer groups have committed, without joining them, and where partitions end.

Called from threads by `bus.py` and `scaler.py`. A consumer that subscribes to nothing asks the group's
coordinator; the admin client's `list_consumer_group_offsets` must not be used for it: librdkafka up to 2.16
reads a null pointer, and so ends the process, when the coordinator answers that it has moved or is still
loading, which every broker does for a moment after its start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

__all__ = ["GroupOffsets", "ends"]

_AGAIN_S: Final = 0.1
_MOVING: Final = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
"""What a cluster answers until it knows who coordinates a group."""
_KEPT: Final = 32
"""Groups whose connection is kept; the one that was opened first makes room."""


class GroupOffsets:
    """Committed offsets of groups of one cluster; connections are kept until `close`. Safe with threads.

    Args:
        client: librdkafka's settings of the cluster and the login.
        answer_s: Seconds that the cluster has for each answer.
    """

    def __init__(self, client: Mapping[str, Any], *, answer_s: float) -> None:
        self._client = dict(client)
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._consumers: dict[str, Consumer] = {}

    def committed(
        self, group: str, places: Iterable[tuple[str, int]] | None = None
    ) -> dict[tuple[str, int], int]:
        """Return topic and partition -> next offset, without those where the group has committed nothing.

        Args:
            group: The group.
            places: Topics with partitions; None for all of the cluster.

        Raises:
            KafkaException: The cluster did not answer in time, or refused.
        """
        consumer = self._opened(group)
        if places is None:
            every = consumer.list_topics(timeout=self._answer_s).topics
            places = [(name, number) for name, topic in every.items() for number in topic.partitions]
        wanted = [TopicPartition(name, number) for name, number in places]
        if not wanted:
            return {}
        until = time.monotonic() + self._answer_s
        while True:
            try:
                return _offsets(consumer.committed(wanted, timeout=self._answer_s))
            except KafkaException as exc:
                if exc.args[0].code() not in _MOVING or time.monotonic() > until:
                    raise
            time.sleep(_AGAIN_S)

    def close(self) -> None:
        """End all connections; one that a thread still reads by ends with that."""
        with self._lock:
            self._consumers.clear()

    def _opened(self, group: str) -> Consumer:
        # Never closed, only forgotten: another thread may be reading, and there is no group to leave.
        with self._lock:
            found = self._consumers.get(group)
            if found is None:
                if len(self._consumers) >= _KEPT:
                    del self._consumers[next(iter(self._consumers))]
                found = Consumer({**self._client, "group.id": group, "enable.auto.commit": False})
                self._consumers[group] = found
        return found


def _offsets(answered: Iterable[TopicPartition]) -> dict[tuple[str, int], int]:
    found: dict[tuple[str, int], int] = {}
    for each in answered:
        if each.error is not None:
            raise KafkaException(each.error)
        if each.offset >= 0:
            found[each.topic, each.partition] = each.offset
    return found


def ends(
    admin: AdminClient, places: Collection[tuple[str, int]], *, answer_s: float
) -> dict[tuple[str, int], int]:
    """Return topic and partition -> end of the log, without those that do not exist or have no leader.

    Args:
        admin: Of the cluster.
        places: Topics with partitions.
        answer_s: Seconds that the cluster has for each answer.

    Raises:
        KafkaException: The cluster did not answer in time.
    """
    topics = {name for name, _ in places}
    # Asked about a partition that nobody leads, the library waits the whole time for one who does.
    asked = admin.list_topics(topics.pop(), timeout=answer_s) if len(topics) == 1 else None
    listed = (asked or admin.list_topics(timeout=answer_s)).topics
    led = [
        TopicPartition(name, number)
        for name, number in places
        if name in listed and number in (there := listed[name].partitions) and there[number].leader >= 0
    ]
    if not led:
        return {}
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    futures = admin.list_offsets(
        dict.fromkeys(led, latest),
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=answer_s,
    )
    found: dict[tuple[str, int], int] = {}
    for place, future in futures.items():
        try:
            end = future.result().offset
        except KafkaException:  # the topic, or the leader, has just gone
            continue
        if end >= 0:
            found[place.topic, place.partition] = end
    return found
