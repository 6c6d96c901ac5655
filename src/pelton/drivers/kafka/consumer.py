"""One subscription as a member of a consumer group: a polling thread, deliveries on the event loop.

The thread owns the client library's consumer: it polls, takes part in rebalances and closes. Deliveries live
on the loop; offsets of what is finished without a gap are stored there and committed by the library within
`_COMMIT_MS`. A partition that goes to another member waits for what is in hand, so that nothing is handled
twice without need; one that comes back after the broker's restart is gone on with. A full window stops
polling for a moment and then pauses the partitions, so that the member stays in its group. Over 600 lines,
since both sides share what they count.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from pelton import errors
from pelton.drivers.kafka.records import message_of, plain_error, topic_pattern
from pelton.drivers.kafka.settings import KafkaSettings
from pelton.log import get
from pelton.ports import Delivery, Message

__all__ = ["Consumption", "Noted", "finish_all"]

_BATCH: Final = 1024
_WINDOW_BYTES: Final = 64 * 1024 * 1024
_POLL_S: Final = 0.2
_COMMIT_MS: Final = 100
_FULL_S: Final = 1.0
_REVOKE_S: Final = 5.0
_ANSWER_S: Final = 5.0
_OFFSETS_S: Final = 30.0
_NOTED: Final = 10_000
_CHECK_S: Final = 2.0
_LEADER_S: Final = 0.5
_DOUBT_S: Final = 60.0
"""How long after an error leaders are looked at: a broker that died leads its partitions until its cluster
has noticed, and the library does not repeat what it said within 30 s."""
_LOOK_S: Final = 0.1
_PAUSED_LOOK_S: Final = 2.0
_STALL_S: Final = 5.0
_GONE: Final = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID)
_AWAY: Final = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)
_NAMED: Final = 5
"""Partitions that a sentence names."""

_log = get(__name__)


class Noted:
    """What former members finished of a partition and may not have committed.

    Attributes:
        position: Everything before this offset.
        stamp: Time of the last of that, epoch milliseconds; a younger record is another one, in a topic that
            was made anew.
        early: Records behind: offset -> the record's time.
    """

    __slots__ = ("early", "position", "stamp")

    def __init__(self) -> None:
        self.position = -1
        self.stamp = -1
        self.early: dict[int, str] = {}

    def has(self, offset: int, stamp: str) -> bool:
        """Tell whether a record is among them."""
        if offset < self.position:
            return stamp.isdecimal() and int(stamp) <= self.stamp
        return self.early.pop(offset, None) == stamp

    def forget_before(self, offset: int) -> None:
        """Drop what lies before a committed offset."""
        self.early = {each: stamp for each, stamp in self.early.items() if each >= offset}


class _Lane:
    """One assigned partition: what is open, and up to where everything is finished."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.name = f"{topic}:{partition}"
        self.position = -1  # the next offset to commit; -1 before the first record
        self.order: deque[int] = deque()
        self.open: dict[int, _Delivery] = {}
        self.lost = False
        self.limit: int | None = None  # the first record that was let go: the position stays at or below it
        self.early: dict[int, str] = {}  # finished behind one that is not: offset -> the record's time
        self.stamp = ""  # time of the last record before the position
        self.left = False  # whether it is another member's, or nobody's, by now

    def finish(self, offset: int, stamp: str) -> bool:
        """Close a record; True when the position moved."""
        del self.open[offset]
        if self.order[0] == offset and self.limit is None:  # the usual case
            self.order.popleft()
            self.position = offset + 1
            self.stamp = stamp
            if self.order and self.order[0] not in self.open:
                self.advance()
            return True
        self.early[offset] = stamp
        return self.advance()

    def advance(self) -> bool:
        """Move the position over what is finished without a gap; True when it moved."""
        moved = False
        while self.order and self.order[0] not in self.open and self.order[0] != self.limit:
            offset = self.order.popleft()
            self.stamp = self.early.pop(offset, self.stamp)
            self.position = offset + 1
            moved = True
        return moved

    @property
    def finished_early(self) -> int:
        """Records finished behind one that is not."""
        return len(self.order) - len(self.open)


class _Delivery(msgspec.Struct, eq=False):
    """One record held; see `ports.OrderedDelivery`. A struct: one is built per record.

    Attributes:
        key: `topic:partition:offset`.
        lane: The partition, `topic:partition`.
        message: The record.
        offset: Its place in the partition.
        stamp: The record's time, by which a topic that was made anew is told from the old one.
    """

    _consumption: Consumption
    _lane: _Lane
    key: str
    lane: str
    message: Message
    offset: int
    stamp: str

    @property
    def gone(self) -> bool:
        """Whether the partition is another member's, or nobody's, by now."""
        return self._lane.left

    @property
    def order_key(self) -> str:
        """The record's key."""
        return self.message.headers.get("__key", "")

    def move(self, lane: _Lane) -> None:
        """Belong to the partition as it was given back to this member, the record with it."""
        self._lane = lane

    @property
    def lost(self) -> bool:
        """Whether the partition has gone to another member of the group, or is about to."""
        return self._lane.lost

    async def ack(self) -> None:
        """Finish it; the commit follows within 0.1 s once all before it in its partition are finished."""
        self._consumption.finish(self._lane, self)

    async def nak(self, delay_s: float) -> None:
        """Give it back, to this consumer; a partition that is lost gives it to its next holder."""
        self._consumption.again(self._lane, self, delay_s)

    async def term(self) -> None:
        """Finish it for good."""
        self._consumption.finish(self._lane, self)

    async def extend(self) -> None:
        """Do nothing: membership in the group holds it."""


def finish_all(deliveries: Sequence[Delivery]) -> None:
    """Finish deliveries, each by the subscription that made it; safe to repeat."""
    by_source: dict[Consumption, list[_Delivery]] = {}
    for delivery in deliveries:
        if isinstance(delivery, _Delivery):
            by_source.setdefault(delivery._consumption, []).append(delivery)
    for source, own in by_source.items():
        source.finish_all(own)


class Consumption:
    """A group's member that consumes topics.

    Args:
        settings: The component's.
        topics: Topics or patterns.
        group: Consumer group.
        max_in_flight: Records held at once.
        where: For messages.
        stalls: Where former members stood when they were given up for fetching nothing; added to.
        finished: What former members finished and could not commit, by topic and partition; added to. After a
            broker's restart it comes again, and is not handled again.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Sequence[str],
        *,
        group: str,
        max_in_flight: int,
        where: str,
        stalls: dict[tuple[str, int], int] | None = None,
        finished: dict[tuple[str, int], Noted] | None = None,
    ) -> None:
        self._stalls = {} if stalls is None else stalls
        self._finished = {} if finished is None else finished
        # Deliveries whose outcome is open, of partitions that have gone and may be given back.
        self._working: dict[tuple[str, int], dict[int, _Delivery]] = {}
        self._settings = settings
        self._topics = [topic_pattern(topic) for topic in topics]
        self._group = group
        self._window = max(1, max_in_flight)
        # Fetching goes on when so much is free: a few records at a time would cost as much each as hundreds.
        self._low = max(1, self._window // 4)
        self._where = where
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._buffer: list[_Delivery] = []
        self._arrived = asyncio.Event()
        self._dirty: set[_Lane] = set()
        self._timers: dict[_Delivery, asyncio.TimerHandle] = {}
        self._leaving: list[tuple[list[_Lane], threading.Event]] = []
        # Written by the thread and by the loop respectively, so that neither needs a lock.
        self._fetched = self._fetched_bytes = 0
        self._closed = self._closed_bytes = 0
        self._positions: deque[tuple[str, int, int]] = deque()  # from the loop to the thread
        self._ends: dict[tuple[str, int], int] = {}  # ends of the partitions, as the thread saw them last
        self._room = threading.Event()
        self._draining = False
        self._stop = threading.Event()
        self._ended = asyncio.Event()
        self._failure: Exception | None = None
        self._consumer: Consumer | None = None
        self._existing: set[tuple[str, int]] = set()
        self._paused = False
        self._doubted_until = 0.0
        # Whether a broker was not reached, and not all who lead partitions have answered since.
        self._away = False
        self._leaderless: set[tuple[str, int]] = set()
        # Held since (epoch milliseconds), and paused until it has a leader: only that knows where a group
        # without offsets begins.
        self._unbegun: dict[tuple[str, int], int] = {}
        self.trouble = ""
        self._thread = threading.Thread(target=self._run, name=f"kafka-{group}", daemon=True)

    # --- on the loop ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    async def next(self) -> list[Delivery]:
        """Return what has arrived, waiting for the first; raises DeliveryError or ComponentError."""
        while not self._buffer:
            if self._ended.is_set():
                raise self._failure or errors.DeliveryError("the subscription ended", where=self._where)
            self._arrived.clear()
            await self._arrived.wait()
        batch: list[Delivery] = list(self._buffer)
        self._buffer.clear()
        return batch

    def drain(self) -> None:
        """Fetch no more; what is held can still be finished, until `end`."""
        self._draining = True
        for delivery in self._buffer:
            self._discard(delivery)
        self._buffer.clear()
        if not any(lane.open for lane in self._lanes.values()):
            self._stop.set()
        self._room.set()

    async def end(self) -> None:
        """Leave the group; what is not finished is delivered again to the next member."""
        self._flush()
        self._stop.set()
        self._room.set()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._ended.wait()

    async def over(self, timeout_s: float) -> None:
        """Wait until the member has left its group, at most so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            return

    @property
    def ended(self) -> bool:
        """Whether the member has left its group."""
        return self._ended.is_set()

    def finish(self, lane: _Lane, delivery: _Delivery) -> None:
        """Close a delivery; safe to repeat."""
        if lane.open.get(delivery.offset) is not delivery:
            self._note_late(lane, delivery)
            return
        if timer := self._timers.pop(delivery, None):
            timer.cancel()
        if lane.finish(delivery.offset, delivery.stamp):
            if not self._dirty:
                self._loop.call_soon(self._flush)
            self._dirty.add(lane)
        self._release(delivery)

    def finish_all(self, deliveries: Sequence[_Delivery]) -> None:
        """Close several; as `finish` for each, at a lower price."""
        dirty, timers = self._dirty, self._timers
        if not dirty:
            self._loop.call_soon(self._flush)
        closed = size = 0
        for delivery in deliveries:
            lane, offset = delivery._lane, delivery.offset
            if lane.open.get(offset) is not delivery:
                self._note_late(lane, delivery)
                continue
            if timers and (timer := timers.pop(delivery, None)):
                timer.cancel()
            if lane.finish(offset, delivery.stamp):
                dirty.add(lane)
            closed += 1
            size += len(delivery.message.data)
        self._closed += closed
        self._closed_bytes += size
        self._released()

    def _note_late(self, lane: _Lane, delivery: _Delivery) -> None:
        """Remember a record that was finished after its partition had gone: it may come again to us."""
        if lane.left:
            noted = self._finished.setdefault((lane.topic, lane.partition), Noted())
            self._forget_working(lane, delivery)
            if len(noted.early) < _NOTED:
                noted.early[delivery.offset] = delivery.stamp

    def _forget_working(self, lane: _Lane, delivery: _Delivery) -> None:
        if lane.left and (working := self._working.get((lane.topic, lane.partition))) is not None:
            working.pop(delivery.offset, None)

    def again(self, lane: _Lane, delivery: _Delivery, delay_s: float) -> None:
        """Deliver once more after a delay, or leave it to the partition's next holder."""
        if lane.open.get(delivery.offset) is not delivery:
            self._forget_working(lane, delivery)
            return
        if lane.lost or self._draining:
            self._discard(delivery)
            return
        self._timers[delivery] = self._loop.call_later(max(0.0, delay_s), self._return, delivery)

    def _return(self, delivery: _Delivery) -> None:
        del self._timers[delivery]
        self._buffer.append(delivery)
        self._arrived.set()

    def _discard(self, delivery: _Delivery) -> None:
        """Let go of a delivery without finishing its record: the position stays before it."""
        lane = self._lanes.get((delivery.message.topic, int(delivery.message.headers["__partition"])))
        if lane is not None and lane.open.get(delivery.offset) is delivery:
            lane.lost = True
            lane.limit = delivery.offset if lane.limit is None else min(lane.limit, delivery.offset)
            del lane.open[delivery.offset]
            self._release(delivery)

    def _release(self, delivery: _Delivery) -> None:
        self._closed += 1
        self._closed_bytes += len(delivery.message.data)
        self._released()

    def _released(self) -> None:
        if self._free() >= self._low:
            self._room.set()
        if self._leaving:
            self._check_leaving()
        if self._draining and self._closed == self._fetched:
            self._flush()
            self._stop.set()

    def _flush(self) -> None:
        """Hand the positions that moved to the thread; the library commits them soon, and on leaving."""
        for lane in self._dirty:
            self._positions.append((lane.topic, lane.partition, lane.position))
        self._dirty.clear()

    def _arrive(self, records: list[Record]) -> None:
        """Take over records that the thread has fetched."""
        escape, exclude = self._settings.escape_headers, self._settings.exclude_headers
        again = self._working or self._finished  # former members may have begun or finished what comes
        lane: _Lane | None = None
        for record in records:
            message = message_of(record, escape=escape, exclude=exclude)
            topic, partition, offset = message.topic, record.partition() or 0, record.offset() or 0
            if lane is None or lane.partition != partition or lane.topic != topic:
                lane = self._lanes.get((topic, partition))
                if lane is None:
                    lane = self._lanes[topic, partition] = _Lane(topic, partition)
            if lane.lost or self._draining or offset in lane.open:
                self._closed += 1
                self._closed_bytes += len(message.data)
                continue
            if lane.position < 0 or offset < lane.position:  # lower: the topic was made anew
                lane.position = offset
            lane.order.append(offset)
            stamp = message.headers.get("__timestamp", "")
            if again and self._is_known(lane, offset, message, stamp):
                continue
            delivery = lane.open[offset] = _Delivery(
                self, lane, f"{lane.name}:{offset}", lane.name, message, offset, stamp
            )
            self._buffer.append(delivery)
        if self._draining and self._closed == self._fetched:
            self._stop.set()
        self._arrived.set()

    def _is_known(self, lane: _Lane, offset: int, message: Message, stamp: str) -> bool:
        """Tell whether a former member finished a record, or its delivery goes on; it is taken over then."""
        working = self._working.get((lane.topic, lane.partition))
        held = working.pop(offset, None) if working else None
        if held is not None and held.stamp == stamp:
            held.move(lane)
            lane.open[offset] = held
            return True
        noted = self._finished.get((lane.topic, lane.partition))
        if noted is None or not noted.has(offset, stamp):
            return False
        lane.early[offset] = stamp
        self._closed += 1
        self._closed_bytes += len(message.data)
        if lane.advance():
            if not self._dirty:
                self._loop.call_soon(self._flush)
            self._dirty.add(lane)
        return True

    def _leave(self, partitions: list[tuple[str, int]], left: threading.Event) -> None:
        """Give up partitions: drop what nobody has begun, tell `left` when the rest is finished."""
        lanes = [self._lanes[where] for where in partitions if where in self._lanes]
        keep: list[_Delivery] = []
        for lane in lanes:
            lane.lost = True
        for delivery in self._buffer:
            if delivery.lost:
                self._discard(delivery)
            else:
                keep.append(delivery)
        self._buffer[:] = keep
        for delivery in [delivery for delivery in self._timers if delivery.lost]:
            self._timers.pop(delivery).cancel()
            self._discard(delivery)
        self._leaving.append((lanes, left))
        self._check_leaving()

    def _check_leaving(self) -> None:
        for lanes, left in list(self._leaving):
            if not any(lane.open for lane in lanes):
                self._flush()
                self._leaving.remove((lanes, left))
                left.set()

    def _left(self, partitions: list[tuple[str, int]]) -> None:
        """Forget partitions whose time is over; endings of what is still in hand come to nothing."""
        for where in partitions:
            lane = self._lanes.pop(where, None)
            if lane is None:
                continue
            lane.lost = lane.left = True
            self._dirty.discard(lane)
            noted = self._finished.setdefault(where, Noted())
            if lane.stamp.isdecimal():
                noted.position, noted.stamp = lane.position, int(lane.stamp)
            noted.early.update(list(lane.early.items())[: max(0, _NOTED - len(noted.early))])
            waiting = {id(delivery) for delivery in (*self._buffer, *self._timers)}
            self._working[where] = {
                offset: held for offset, held in lane.open.items() if id(held) not in waiting
            }
            for delivery in list(lane.open.values()):
                self._closed += 1
                self._closed_bytes += len(delivery.message.data)
            lane.open.clear()
        self._buffer[:] = [delivery for delivery in self._buffer if not delivery.gone]
        for delivery in [delivery for delivery in self._timers if delivery.gone]:
            self._timers.pop(delivery).cancel()
        self._room.set()
        self._leaving = [item for item in self._leaving if not item[1].is_set()]

    def _over(self, failure: Exception | None) -> None:
        self._failure = failure
        self._ended.set()
        self._arrived.set()

    def pending(self) -> int:
        """Return records not finished in the partitions that this member holds, as of the last look."""
        total = 0
        for where, lane in self._lanes.items():
            known = len(lane.open)
            beyond = self._ends.get(where, -1) - lane.position - lane.finished_early
            total += max(known, beyond) if lane.position >= 0 else known
        return total

    @property
    def lanes(self) -> int:
        """Partitions that this member holds and has had records of."""
        return len(self._lanes)

    # --- in the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            self._poll()
        except KafkaException as exc:
            if self._consumer is not None:
                self._consumer.poll(0)  # lets the library tell the cause, such as a refused login
            error = exc.args[0] if exc.args else exc
            text = plain_error(error) if isinstance(error, KafkaError) else str(exc)
            failure = errors.DeliveryError(f"Kafka: {self.trouble or text}", where=self._where)
        except errors.DeliveryError as exc:
            failure = errors.DeliveryError(f"Kafka: {exc.message}", where=self._where)
        except Exception as exc:  # the loop must learn of it, whatever it is
            _log.exception("%s: the consumer of %s failed inside Pelton", self._where, self._group)
            failure = errors.DeliveryError(f"Kafka: {exc}", where=self._where)
        finally:
            consumer = self._consumer
            if consumer is not None:
                self._store(consumer)
                try:
                    consumer.close()
                except (KafkaException, RuntimeError) as exc:
                    _log.debug("%s: leaving %s: %s", self._where, self._group, exc)
            self._on_loop(self._over, failure)

    def _on_loop(self, call: Any, *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._stop.set()

    def _poll(self) -> None:
        settings = self._settings
        consumer = self._consumer = Consumer(
            {
                **settings.client,
                **settings.consumer,
                "group.id": self._group,
                # Where to begin is decided on assignment; an offset that the broker has deleted since means
                # the oldest record that it still has.
                "auto.offset.reset": "earliest",
                "enable.auto.commit": True,
                "auto.commit.interval.ms": _COMMIT_MS,
                "enable.auto.offset.store": False,
                "allow.auto.create.topics": True,
                "queued.max.messages.kbytes": 16 * 1024,
                # A full queue is looked at again so soon; by the library's 1 s it has long run dry.
                "fetch.queue.backoff.ms": 5,
                "fetch.error.backoff.ms": 100,
                "error_cb": self._on_error,
            }
        )
        self._look_around(consumer)
        consumer.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        full_since = checked = looked = 0.0
        moved = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            self._store(consumer)
            if (self.trouble or self._unbegun or now < self._doubted_until) and now - checked > _CHECK_S:
                checked = now
                self._recheck(consumer)
            if now - looked > (_PAUSED_LOOK_S if self._paused else _LOOK_S):
                looked = now
                self._look_at_ends(consumer)
            room = 0 if self._draining else self._free()
            if room < self._low and not self._paused:
                self._room.clear()
                full_since = full_since or now
                if self._free() < self._low and now - full_since < _FULL_S and not self._leaving:
                    self._room.wait(0.1)
                    continue
                self._pause(consumer, paused=True)
            elif room >= self._low:
                full_since = 0.0
                if self._paused:
                    self._pause(consumer, paused=False)
            record = consumer.poll(_POLL_S)
            if record is None:
                if self._paused or room < self._low or self._draining:
                    moved = now
                elif now - moved > _STALL_S:
                    moved = now
                    self._check_stall(consumer)
                continue
            moved = now
            records = [record]
            if room > 1:
                records += consumer.consume(min(_BATCH, room) - 1, 0)
            self._hand_over(records)

    def _store(self, consumer: Consumer) -> None:
        """Store what is finished; here, since on the loop the library's lock and Python's may deadlock."""
        latest: dict[tuple[str, int], int] = {}
        while self._positions:
            topic, partition, position = self._positions.popleft()
            latest[topic, partition] = position
        if not latest:
            return
        try:
            consumer.store_offsets(
                offsets=[TopicPartition(*where, offset) for where, offset in latest.items()]
            )
        except (KafkaException, RuntimeError) as exc:
            # A partition that is no longer ours: its next holder gets these records again.
            _log.debug("%s: offsets of %s are not stored: %s", self._where, self._group, exc)

    def _check_stall(self, consumer: Consumer) -> None:
        """Give this member up when the broker has records that the library does not fetch.

        No way is known that leads here: a partition that stayed paused from one assignment to the next did
        (see `_on_assign`). The library's own tracker has open reports of partitions that nobody fetches after
        leaders changed, so the look stays. The same place twice is no stall: what is there are markers.
        """
        for topic, partition in list(self._lanes):
            lane = self._lanes.get((topic, partition))
            if lane is None or lane.open or lane.position < 0 or (topic, partition) in self._leaderless:
                continue
            try:
                found = cast(
                    "tuple[int, int] | None",
                    consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=1.0),
                )
            except KafkaException as exc:
                # Of a topic that was deleted the library says nothing by itself for half a minute and more.
                if exc.args[0].code() in _GONE:
                    self._on_error(exc.args[0])
                return
            low, high = found or (0, 0)
            position = max(lane.position, low)
            if high > position and self._stalls.get((topic, partition)) != position:
                self._stalls[topic, partition] = position
                raise errors.DeliveryError(
                    f"{topic}:{partition} is not fetched from {position} on; joining anew"
                )

    def _free(self) -> int:
        """Return how many records may be fetched, by their number and by the memory they take."""
        held_bytes = self._fetched_bytes - self._closed_bytes
        return self._window - (self._fetched - self._closed) if held_bytes < _WINDOW_BYTES else 0

    def _hand_over(self, records: list[Record]) -> None:
        good = []
        for record in records:
            error = record.error()
            if error is None:
                good.append(record)
                self._fetched_bytes += len(record.value() or b"")
            elif error.fatal():
                raise KafkaException(error)
            elif error.code() != KafkaError._PARTITION_EOF:
                self._on_error(error)
        if good:
            self._fetched += len(good)
            self._on_loop(self._arrive, good)

    def _look_at_ends(self, consumer: Consumer) -> None:
        """Note the partitions' ends: from the last fetch, from the broker where nothing is fetched."""
        for topic, partition in self._lanes.keys() - self._leaderless:
            try:
                # None when the broker does not answer in time, which the library's types leave out.
                found = cast(
                    "tuple[int, int] | None",
                    consumer.get_watermark_offsets(
                        TopicPartition(topic, partition), timeout=1.0, cached=not self._paused
                    ),
                )
            except KafkaException:
                return
            if found is not None and found[1] >= 0:
                self._ends[topic, partition] = found[1]

    def _pause(self, consumer: Consumer, *, paused: bool) -> None:
        self._paused = paused
        begun = [each for each in consumer.assignment() if (each.topic, each.partition) not in self._unbegun]
        if begun:
            (consumer.pause if paused else consumer.resume)(begun)

    def _look_around(self, consumer: Consumer) -> None:
        """Note which partitions exist already; a topic that does not is made if the broker allows it."""
        for topic in self._topics:
            if topic.startswith("^"):
                continue
            found = consumer.list_topics(topic, timeout=_ANSWER_S).topics.get(topic)
            if found is not None and found.error is None:
                self._existing |= {(topic, number) for number in found.partitions}
            else:
                deadline = time.monotonic() + 1.0
                while time.monotonic() < deadline and not self._stop.is_set():
                    found = consumer.list_topics(topic, timeout=_ANSWER_S).topics.get(topic)
                    if found is not None and found.error is None:
                        break
                    time.sleep(0.02)
                else:
                    self.trouble = f"the topic {topic} does not exist"
        if any(topic.startswith("^") for topic in self._topics):
            every = consumer.list_topics(timeout=_ANSWER_S).topics
            self._existing |= {(name, number) for name, topic in every.items() for number in topic.partitions}

    def _recheck(self, consumer: Consumer) -> None:
        """See whether what was wrong still is: with the topics, or with who leads what this member holds."""
        held = {(each.topic, each.partition) for each in consumer.assignment()}
        leaders: dict[int, tuple[str, int]] = {}
        leaderless: set[tuple[str, int]] = set()
        try:
            for topic in self._topics:
                plain = not topic.startswith("^")
                listed = (
                    consumer.list_topics(topic, timeout=_CHECK_S)
                    if plain
                    else consumer.list_topics(timeout=_CHECK_S)
                ).topics
                if plain and (topic not in listed or listed[topic].error is not None):
                    self._tell(_wrong_with(topic, listed[topic].error if topic in listed else None))
                    return
                for where in held & {(name, number) for name in listed for number in listed[name].partitions}:
                    leader = listed[where[0]].partitions[where[1]].leader
                    if leader < 0:
                        leaderless.add(where)
                    else:
                        leaders[leader] = where
            self._leaderless = leaderless
            for where in self._unbegun.keys() - leaderless:
                self._begin_late(consumer, *where)
            if leaderless:
                self._tell(_no_leader(leaderless))
                return
            if self._away:
                for where in leaders.values():
                    self._beginning(consumer, *where, _LEADER_S)
        except KafkaException:
            if not self.trouble:
                self._tell(f"brokers that lead partitions of {', '.join(self._topics)} do not answer")
            return
        if self.trouble:
            _log.info("%s: %s: its brokers answer again", self._where, self._group)
        self.trouble = ""
        self._away = False

    def _begin_late(self, consumer: Consumer, topic: str, partition: int) -> None:
        """Begin a partition that had no leader when this member was given it; raises KafkaException.

        What was written since then is not before the group's beginning.
        """
        begun = self._beginning(consumer, topic, partition, _LEADER_S)
        if self._newest(topic, partition):
            since = TopicPartition(topic, partition, self._unbegun[topic, partition])
            (found,) = consumer.offsets_for_times([since], timeout=_LEADER_S)
            if found.error is not None:
                raise KafkaException(found.error)
            if found.offset >= 0:
                begun = TopicPartition(topic, partition, found.offset)
        consumer.seek(begun)
        del self._unbegun[topic, partition]
        if not self._paused:
            consumer.resume([begun])
        self._keep_beginnings(consumer, [begun])

    def _keep_beginnings(self, consumer: Consumer, begun: list[TopicPartition]) -> None:
        try:
            consumer.commit(offsets=begun, asynchronous=False)
        except KafkaException as exc:
            _log.warning("%s: the beginning of %s is not stored: %s", self._where, self._group, exc)

    def _beginning(self, consumer: Consumer, topic: str, partition: int, timeout_s: float) -> TopicPartition:
        """Return where a group without offsets begins; raises KafkaException when nobody answers in time."""
        where = TopicPartition(topic, partition)
        found = cast(
            "tuple[int, int] | None", consumer.get_watermark_offsets(where, timeout=timeout_s, cached=False)
        )
        if found is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return TopicPartition(topic, partition, found[1] if self._newest(topic, partition) else found[0])

    def _newest(self, topic: str, partition: int) -> bool:
        """Tell whether a group without offsets leaves out what a partition holds."""
        return self._settings.newest and (topic, partition) in self._existing

    def _on_error(self, error: KafkaError) -> None:
        self._doubted_until = time.monotonic() + _DOUBT_S
        self._away |= error.code() in _AWAY
        if error.code() in _GONE:
            self._on_loop(self._finished.clear)  # offsets of a topic that is made anew mean other records
            text = f"a topic of {', '.join(self._topics)} does not exist"
        elif error.code() in _AWAY and self._leaderless and self.trouble:
            return  # it has been told what lies on the broker that is away
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and self.trouble:
            return  # what was told before says why
        else:
            text = plain_error(error)
        self._tell(text)

    def _tell(self, text: str) -> None:
        if text != self.trouble:
            _log.warning("%s: %s: %s; trying on", self._where, self._group, text)
        self.trouble = text

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin where the group stopped; a fresh group's beginning is committed at once, so that it stays."""
        found = self._committed(consumer, partitions) if partitions else []
        fresh: list[TopicPartition] = []
        unbegun: list[TopicPartition] = []
        for number, each in enumerate(found):
            if each.offset >= 0:
                continue
            try:
                # One broker that is away may lead many: they wait together, not one after the other.
                timeout_s = _LEADER_S if unbegun else _ANSWER_S
                found[number] = self._beginning(consumer, each.topic, each.partition, timeout_s)
                fresh.append(found[number])
            except KafkaException:
                found[number] = TopicPartition(each.topic, each.partition, OFFSET_END)
                unbegun.append(found[number])
        now = int(time.time() * 1000)
        self._unbegun.update({(each.topic, each.partition): now for each in unbegun})
        if self._settings.consumer["partition.assignment.strategy"] == "cooperative-sticky":
            consumer.incremental_assign(found)
        else:
            consumer.assign(found)
        if unbegun:
            consumer.pause(unbegun)
        if fresh:
            self._keep_beginnings(consumer, fresh)
        if begun := [each for each in found if each not in unbegun]:
            # The library keeps a partition paused from one assignment to the next, and one that was revoked
            # meanwhile is not reached by `_pause`: without the resume it would never be fetched again.
            (consumer.pause if self._paused else consumer.resume)(begun)
        self._on_loop(self._joined, [(each.topic, each.partition, max(each.offset, -1)) for each in found])

    def _committed(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Return where the group stopped.

        A coordinator that still loads its state, as after a restart, answers with an error per partition
        beside the offset of a group that has none: taken for that, all would be read again or left out.
        """
        deadline = time.monotonic() + _OFFSETS_S
        while True:
            found = consumer.committed(partitions, timeout=_ANSWER_S)
            failed = next((each.error for each in found if each.error is not None), None)
            if failed is None:
                return found
            if time.monotonic() > deadline or self._stop.is_set():
                raise KafkaException(failed)
            time.sleep(0.1)

    def _joined(self, partitions: list[tuple[str, int, int]]) -> None:
        for topic, partition, offset in partitions:
            noted = self._finished.get((topic, partition))
            if noted is not None:  # what lies before is committed, by us or by another member
                noted.forget_before(offset)
            lane = self._lanes.get((topic, partition))
            if lane is None or lane.lost:
                lane = self._lanes[topic, partition] = _Lane(topic, partition)
                lane.position = offset

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        where = [(each.topic, each.partition) for each in partitions]
        self._forget_unbegun(where)
        left = threading.Event()
        if not self._stop.is_set():
            self._on_loop(self._leave, where, left)
            left.wait(_REVOKE_S)
            self._store(consumer)
        self._on_loop(self._left, where)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        where = [(each.topic, each.partition) for each in partitions]
        self._forget_unbegun(where)
        self._on_loop(self._left, where)

    def _forget_unbegun(self, partitions: list[tuple[str, int]]) -> None:
        for where in partitions:
            self._unbegun.pop(where, None)


def _wrong_with(topic: str, error: KafkaError | None) -> str:
    """Say why a topic cannot be read; without an error the cluster knows none of that name."""
    if error is None or error.code() in _GONE:
        return f"the topic {topic} does not exist"
    return f"the topic {topic} cannot be read: {plain_error(error)}"


def _no_leader(partitions: set[tuple[str, int]]) -> str:
    """Say which partitions nobody leads."""
    names = [f"{topic}:{number}" for topic, number in sorted(partitions)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more} {'have' if len(names) > 1 else 'has'} no leader"
