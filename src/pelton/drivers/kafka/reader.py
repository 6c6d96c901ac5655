"""Reads what a topic keeps, without joining a group: nobody else notices, nothing is committed.

Called by `bus.py` for `pelton topic replay` and `tail`. Calls of the client library block and so run on a
thread, one after the other.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeVar

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from pelton import errors
from pelton.drivers.kafka.records import message_of, plain_error
from pelton.drivers.kafka.settings import KafkaSettings
from pelton.ports import Message, Place, Recorded

__all__ = ["RecordReader"]

_ANSWER_S: Final = 10.0
_POLL_S: Final = 0.3
_BATCH: Final = 500
_SILENT_S: Final = 20.0
_T = TypeVar("_T")


class RecordReader:
    """One reading of a topic; an async context manager.

    Args:
        settings: The component's.
        topic: The topic.
        where: For messages.
    """

    def __init__(self, settings: KafkaSettings, topic: str, *, where: str) -> None:
        self._settings = settings
        self._topic = topic
        self._where = where
        self._consumer: Consumer | None = None
        self._at_eof: set[int] = set()

    async def __aenter__(self) -> RecordReader:
        try:
            self._consumer = Consumer(
                {
                    **self._settings.client,
                    "group.id": f"pelton-reader-{uuid.uuid4()}",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",
                }
            )
        except KafkaException as exc:
            raise errors.ComponentError(f"Kafka: {plain_error(exc.args[0])}", where=self._where) from exc
        return self

    async def __aexit__(self, *_exc: object) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await asyncio.to_thread(consumer.close)

    async def read(self, first: Place, last: Place) -> AsyncIterator[Sequence[Recorded]]:
        """Iterate over records; see `ports.ReadableBus.read`."""
        ends = await self._ask(self._begin, first, last)
        silent = 0.0
        while ends:
            records: list[Record] = await self._ask(self._records)
            batch = [
                record for record in records if (record.offset() or 0) <= ends.get(_partition(record), -1)
            ]
            if batch:
                silent = 0.0
                yield [self._recorded(record) for record in batch]
            else:
                silent += _POLL_S
                if silent > _SILENT_S:
                    raise errors.DeliveryError(f"Kafka: {self._topic} says nothing more", where=self._where)
            ends = await self._ask(self._open, ends)

    async def follow(self) -> AsyncIterator[Message]:
        """Iterate over records that come from now on."""
        await self._ask(self._at_end)
        while True:
            for record in await self._ask(self._records):
                yield self._message(record)

    def _begin(self, first: Place, last: Place) -> dict[int, int]:
        """Go to the first record of each partition; returns partition -> last offset, where there is one."""
        consumer = self._client()
        assigned: list[TopicPartition] = []
        ends: dict[int, int] = {}
        partitions = self._partitions()
        begins, stops = self._at_time(partitions, first), self._at_time(partitions, last)
        for partition in partitions:
            where = TopicPartition(self._topic, partition)
            low, high = consumer.get_watermark_offsets(where, timeout=_ANSWER_S, cached=False)
            begin = max(low, begins.get(partition, first.offset))
            if partition in begins and begins[partition] < 0:
                begin = high  # nothing is that late
            stop = high - 1
            if stops.get(partition, -1) >= 0:
                stop = min(stop, stops[partition] - 1)
            elif last.offset >= 0:
                stop = min(stop, last.offset)
            if begin <= stop:
                assigned.append(TopicPartition(self._topic, partition, begin))
                ends[partition] = stop
        if assigned:
            consumer.assign(assigned)
        return ends

    def _at_time(self, partitions: Sequence[int], place: Place) -> dict[int, int]:
        """Return partition -> offset of the first record that is not older; -1 for none."""
        if place.offset >= 0 or not place.time_s:
            return {}
        asked = [TopicPartition(self._topic, number, int(place.time_s * 1000)) for number in partitions]
        found = self._client().offsets_for_times(asked, timeout=_ANSWER_S)
        return {each.partition: each.offset for each in found}

    def _at_end(self) -> None:
        self._client().assign(
            [TopicPartition(self._topic, number, OFFSET_END) for number in self._partitions()]
        )

    def _partitions(self) -> list[int]:
        found = self._client().list_topics(self._topic, timeout=_ANSWER_S).topics.get(self._topic)
        if found is None or found.error is not None:
            raise errors.DeliveryError(f"the topic {self._topic} does not exist", where=self._where)
        return sorted(found.partitions)

    def _records(self) -> list[Record]:
        good: list[Record] = []
        for record in self._client().consume(_BATCH, _POLL_S):
            error = record.error()
            if error is None:
                good.append(record)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_eof.add(_partition(record))
            elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
                raise KafkaException(error)
        return good

    def _open(self, ends: dict[int, int]) -> dict[int, int]:
        """Return those partitions that are not read to their end.

        Not by positions alone: the last offsets of a partition may be markers, which nobody is given.
        """
        asked = [TopicPartition(self._topic, number) for number in ends]
        reached = {each.partition: each.offset for each in self._client().position(asked)}
        return {
            number: end
            for number, end in ends.items()
            if reached.get(number, -1) <= end and number not in self._at_eof
        }

    def _recorded(self, record: Record) -> Recorded:
        _, stamp = record.timestamp()
        key = f"{record.topic()}:{record.partition()}:{record.offset()}"
        return Recorded(key=key, time_s=stamp / 1000, message=self._message(record))

    def _message(self, record: Record) -> Message:
        settings = self._settings
        return message_of(record, escape=settings.escape_headers, exclude=settings.exclude_headers)

    def _client(self) -> Consumer:
        if self._consumer is None:
            raise errors.DeliveryError("the reading has ended", where=self._where)
        return self._consumer

    async def _ask(self, call: Callable[..., _T], *args: Any) -> _T:
        try:
            return await asyncio.to_thread(call, *args)
        except KafkaException as exc:
            error = exc.args[0] if exc.args else exc
            text = plain_error(error) if isinstance(error, KafkaError) else str(exc)
            raise errors.DeliveryError(f"Kafka: {text}", where=self._where) from exc


def _partition(record: Record) -> int:
    return record.partition() or 0
