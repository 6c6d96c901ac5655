"""Deliveries under way: alone, as a batch without order, or as a lane whose events follow one another.

State only: `dispatcher.py` moves it along and acts on what it says. A lane's events are a run that grows
while it goes on; after the death of a worker that held several they go one by one, until the one that killed
it is found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

from pelton import errors
from pelton.clock import Clock
from pelton.dataplane.batching import BATCH_BYTES, RunLength
from pelton.dataplane.event_traces import Hop
from pelton.model.desired import Subscription
from pelton.model.invocation import Event
from pelton.ports import Delivery, EventResult

__all__ = ["Batch", "Held", "Lane", "Source", "lost"]


class Source(Protocol):
    """What a lane needs of the feed that it belongs to."""

    subscription: Subscription
    length: RunLength
    stopping: bool

    def prepare(self, delivery: Delivery) -> tuple[str, Event, Hop | None]:
        """Return an invocation id, the event and what is traced of it; raises ProtocolError."""
        ...

    def finish(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge events that ended well."""
        ...


def lost(delivery: Delivery) -> bool:
    """Tell whether the broker has given a delivery's lane to somebody else."""
    return bool(getattr(delivery, "lost", False))


class Held:
    """Deliveries without an outcome, of which the broker has to be told that work goes on.

    Args:
        deliveries: All of them.
    """

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._deliveries = deliveries

    def open(self) -> Iterable[Delivery]:
        """Return those without an outcome."""
        return self._deliveries


class Batch(Held):
    """Deliveries that go to workers together.

    Args:
        deliveries: Not empty.

    Attributes:
        hops: Index -> what is traced of its delivery.
    """

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        super().__init__(deliveries)
        self.size = len(deliveries)
        self.hops: dict[int, Hop] = {}
        self._open = dict.fromkeys(range(len(deliveries)))
        self._failures: list[tuple[Delivery, EventResult]] = []

    @property
    def left(self) -> int:
        """How many have no outcome."""
        return len(self._open)

    def items(self) -> Iterable[tuple[int, Delivery]]:
        """Return (index, delivery) of those without an outcome."""
        return [(index, self._deliveries[index]) for index in self._open]

    def open(self) -> Iterable[Delivery]:
        """Return those without an outcome."""
        return [self._deliveries[index] for index in self._open]

    def settle(self, index: int, result: EventResult) -> Delivery | None:
        """Note an outcome; returns the delivery when that is to be acknowledged now."""
        self._open.pop(index, None)
        if self.hops and (hop := self.hops.pop(index, None)) is not None:
            hop.end(result.reason if result.outcome != "ok" else "")
        if result.outcome == "ok":
            return self._deliveries[index]
        self._failures.append((self._deliveries[index], result))
        return None

    def take_failures(self) -> list[tuple[Delivery, EventResult]]:
        """Return what ended otherwise since the last call."""
        failures, self._failures = self._failures, []
        return failures


class Lane(Held):
    """Deliveries that follow one another, and the run that is under way with the first of them.

    Args:
        feed: Whose they are.
        clock: Times what events take.

    Attributes:
        queue: What has no outcome yet, oldest first.
        alone: How many go by themselves: they were with a worker that died, and one of them may be why.
        broken: Why the first one cannot even be sent; "" when it can.
        progress: Counts events that ended well.
    """

    def __init__(self, feed: Source, clock: Clock) -> None:
        self.queue: deque[Delivery] = deque()
        self.alone = 0
        self.broken = ""
        self.progress = 0
        self._feed = feed
        self._clock = clock
        self._sent = 0  # of the queue's events, from the front
        self._at = 0.0  # monotonic seconds when the last event ended, or the first was sent
        self._hops: dict[str, Hop] = {}

    def open(self) -> Iterable[Delivery]:
        """Return those that are with a worker."""
        return list(islice(self.queue, self._sent))

    @property
    def short(self) -> bool:
        """Whether there could be more events before the first are sent."""
        return len(self.queue) < self._feed.length.events

    def begin(self) -> None:
        """Prepare for a run: nothing is sent yet."""
        self._sent = 0
        self._at = self._clock.monotonic()

    def more(self, room: int) -> list[tuple[str, Event]]:
        """Return the next events of the run; none while enough are with the worker."""
        feed = self._feed
        if self.alone:
            room = min(room, 0 if self._sent else 1)
        else:
            least = feed.length.events // 2 if self._sent else 0  # few at a time would cost as much as many
            room = min(room, feed.length.events - self._sent, feed.subscription.batch_size)
            if room <= least and self._sent > least:
                return []
        events: list[tuple[str, Event]] = []
        size = 0
        if room <= 0 or self.broken or feed.stopping:
            return events
        prepare = feed.prepare
        for delivery in islice(self.queue, self._sent, self._sent + room):
            size += len(delivery.message.data)
            if (events and size > BATCH_BYTES) or getattr(delivery, "lost", False):
                break
            try:
                invocation_id, event, hop = prepare(delivery)
            except errors.ProtocolError as exc:
                if not self._sent and not events:
                    self.broken = str(exc)
                break
            if hop is not None:
                self._hops[delivery.key] = hop
            events.append((invocation_id, event))
        self._sent += len(events)
        return events

    def done(self, count: int) -> None:
        """Take note that so many further events ended well."""
        now = self._clock.monotonic()
        self._feed.length.took(count, now - self._at)
        self._at = now
        popleft = self.queue.popleft
        ended = [popleft() for _ in range(count)]
        self._sent -= count
        self.progress += count
        if self.alone:
            self.alone = max(0, self.alone - count)
        if self._hops:
            for delivery in ended:
                self._end_hop(delivery, "")
        self._feed.finish(ended)

    def failed(self, result: EventResult) -> Delivery:
        """Take out the first delivery, whose event failed."""
        delivery = self.queue.popleft()
        self._end_hop(delivery, result.reason)
        self._hops.clear()
        if result.died:
            self.alone = max(0, self._sent - 1)
        elif self.alone:
            self.alone -= 1
        return delivery

    def _end_hop(self, delivery: Delivery, error: str) -> None:
        if (hop := self._hops.pop(delivery.key, None)) is not None:
            hop.end(error)
