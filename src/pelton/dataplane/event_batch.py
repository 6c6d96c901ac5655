"""A batch of events at a worker: which of them has begun, what its sender is told.

State only; `dataplane/worker.py` runs the events and `dataplane/control.py` carries the results. In order,
the next event begins when the one before ended well, and the first that did not ends the batch; such a batch
grows while it runs, so that its worker never waits for the next message. Its sender ends it: a worker that
did so by itself when it had nothing left would throw away what was on its way.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pelton.dataplane import wire
from pelton.model.invocation import Event

__all__ = ["SLICE_NS", "BatchItem", "EventBatch"]

SLICE_NS: Final = 2_000_000
"""Nanoseconds for which events of one batch run on the event loop before sockets get their turn."""


class EventBatch:
    """Events that came in one message.

    Args:
        peer: Whoever sent them.
        number: By which the sender knows the batch.
        ordered: Whether they run in order.
        timeout_s: Limit of each, 0 for the function's own.
        events: (invocation id, event) each; not empty.

    Attributes:
        events: Those that have not begun; a run that goes on for long keeps none of the others.
        begun: How many have begun, from the front: the index of the next one.
        settled: How many have their outcome.
        over: Nothing more of it is to begin.
        complete: Its sender has no further events.
        advancing: Somebody is beginning events, or will in the next turn of the loop.
    """

    __slots__ = (
        "advancing",
        "begun",
        "complete",
        "events",
        "number",
        "ordered",
        "over",
        "peer",
        "settled",
        "timeout_s",
    )

    def __init__(
        self,
        peer: wire.Peer,
        number: int,
        *,
        ordered: bool,
        timeout_s: float,
        events: list[tuple[str, Event]],
    ) -> None:
        self.peer = peer
        self.number = number
        self.ordered = ordered
        self.timeout_s = timeout_s
        self.events = deque(events)
        self.begun = 0
        self.settled = 0
        self.over = False
        self.complete = not ordered
        self.advancing = False

    @property
    def left(self) -> bool:
        """Whether there are events that may still begin; not when nobody is there to be told."""
        return not self.over and bool(self.events) and not self.peer.closed.is_set()

    @property
    def waits(self) -> bool:
        """Whether further events may come, and none is left."""
        return not (self.complete or self.over or self.events or self.peer.closed.is_set())

    @property
    def traced(self) -> bool:
        """Whether the next event belongs to a trace."""
        return "traceparent" in self.events[0][1].attributes


class BatchItem:
    """One event of a batch that runs by itself; stands for its sender in `worker.py`."""

    __slots__ = ("batch", "index")

    def __init__(self, batch: EventBatch, index: int) -> None:
        self.batch = batch
        self.index = index
