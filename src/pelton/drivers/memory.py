"""An event bus in this process's memory: for tests and `pelton run`, with the behaviour of the durable one.

Implements `ports.Ledger` (and so `ports.Bus`) and `ports.Registers`. Topics follow NATS: words separated by
dots, `*` for one word and `>` for the rest in subscriptions. Nothing survives the process; what a subscriber
left unacked is delivered to the next one at once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from pelton import errors
from pelton.clock import Clock
from pelton.model.desired import Component
from pelton.model.subject import covers
from pelton.ports import Delivery, Message

__all__ = ["MemoryBroker", "MemoryBus"]

_BATCH: Final = 256
_KNOWN_IDS: Final = 100_000


class _Consumer:
    """A durable consumer: what waits, what is held, what waits out a delay."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.waiting: deque[tuple[int, Message]] = deque()
        self.held: dict[int, tuple[_Delivery, asyncio.TimerHandle]] = {}
        self.delayed: dict[int, asyncio.TimerHandle] = {}
        self.changed = asyncio.Event()

    def give(self, sequence: int, message: Message) -> None:
        """Make a message deliverable; returned ones come before newer ones."""
        if self.waiting and sequence < self.waiting[-1][0]:
            self.waiting = deque(sorted([*self.waiting, (sequence, message)], key=lambda item: item[0]))
        else:
            self.waiting.append((sequence, message))
        self.changed.set()

    def release(self, sequence: int) -> bool:
        """Take a message out of the held ones; False when it is not held."""
        found = self.held.pop(sequence, None)
        if found is None:
            return False
        found[1].cancel()
        self.changed.set()
        return True


class _Delivery:
    """One message held; see `ports.Delivery`."""

    def __init__(
        self, consumer: _Consumer, sequence: int, message: Message, *, key: str, ack_wait_s: float
    ) -> None:
        self._consumer = consumer
        self._sequence = sequence
        self._ack_wait_s = ack_wait_s
        self.message = message
        self.key = key

    async def ack(self) -> None:
        """Finish it."""
        self._consumer.release(self._sequence)

    async def nak(self, delay_s: float) -> None:
        """Give it back for `delay_s` seconds."""
        if not self._consumer.release(self._sequence):
            return
        if delay_s <= 0:
            self._consumer.give(self._sequence, self.message)
            return
        loop = asyncio.get_running_loop()
        self._consumer.delayed[self._sequence] = loop.call_later(delay_s, self._return)

    async def term(self) -> None:
        """Finish it for good."""
        self._consumer.release(self._sequence)

    async def extend(self) -> None:
        """Restart the redelivery timer."""
        if self._sequence in self._consumer.held:
            self._consumer.held[self._sequence][1].cancel()
            self.hold()

    def hold(self) -> None:
        """Start the timer after which the message is given to somebody else."""
        timer = asyncio.get_running_loop().call_later(self._ack_wait_s, self.lapse)
        self._consumer.held[self._sequence] = (self, timer)

    def lapse(self) -> None:
        """Give it back because nobody finished it."""
        if self._consumer.release(self._sequence):
            self._consumer.give(self._sequence, self.message)

    def _return(self) -> None:
        del self._consumer.delayed[self._sequence]
        self._consumer.give(self._sequence, self.message)


class MemoryBus:
    """A bus in memory; an async context manager.

    Args:
        max_messages: Messages kept for consumers to come, and the longest backlog of one consumer.
        ack_wait_s: Seconds after which a held message goes to somebody else.
    """

    def __init__(self, *, max_messages: int = 100_000, ack_wait_s: float = 30.0) -> None:
        self._max_messages = max_messages
        self._ack_wait_s = ack_wait_s
        self._log: deque[tuple[int, Message]] = deque(maxlen=max_messages)
        self._sequence = 0
        self._name = "memory"
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._consumers: dict[tuple[str, str], _Consumer] = {}
        self._attempts: dict[str, dict[str, int]] = {}
        self._registers: dict[str, tuple[bytes, int]] = {}

    async def __aenter__(self) -> MemoryBus:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop all timers."""
        for consumer in self._consumers.values():
            for timer in [*consumer.delayed.values(), *(timer for _, timer in consumer.held.values())]:
                timer.cancel()

    async def publish(self, message: Message) -> None:
        """Store a message; one whose id is known for its topic is dropped, as the durable bus does.

        Raises:
            DeliveryError: A consumer is `max_messages` behind.
        """
        if message.id:
            known = (message.topic, message.id)
            if known in self._ids:
                return
            self._ids[known] = None
            if len(self._ids) > _KNOWN_IDS:
                self._ids.popitem(last=False)
        takers = [found for found in self._consumers.values() if covers(found.pattern, message.topic)]
        if any(len(taker.waiting) >= self._max_messages for taker in takers):
            raise errors.DeliveryError(
                f"a consumer of {message.topic} is {self._max_messages} messages behind"
            )
        self._sequence += 1
        self._log.append((self._sequence, message))
        for taker in takers:
            taker.give(self._sequence, message)

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches; see `ports.Bus`. A new consumer begins with the oldest message kept."""
        del options  # no broker, nothing to set
        state = self._consumer(topic, consumer)
        for delivery, _timer in list(state.held.values()):
            delivery.lapse()
        while True:
            room = min(_BATCH, max(1, max_in_flight) - len(state.held))
            batch: list[Delivery] = []
            while state.waiting and len(batch) < room:
                sequence, message = state.waiting.popleft()
                key = f"{self._name}:{sequence}"
                delivery = _Delivery(state, sequence, message, key=key, ack_wait_s=self._ack_wait_s)
                delivery.hold()
                batch.append(delivery)
            if batch:
                yield batch
                continue
            state.changed.clear()
            await state.changed.wait()

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return messages that the consumer has not finished; 0 for an unknown one."""
        state = self._consumers.get((topic, consumer))
        return len(state.waiting) + len(state.held) + len(state.delayed) if state else 0

    def messages(self, topic: str) -> list[Message]:
        """Return the stored messages that a pattern covers, oldest first."""
        return [message for _, message in self._log if covers(topic, message.topic)]

    async def load_attempts(self, owner: str) -> dict[str, int]:
        """Return delivery key -> attempts of a subscription."""
        return dict(self._attempts.get(owner, {}))

    async def put_attempts(self, owner: str, key: str, attempts: int) -> None:
        """Record attempts."""
        self._attempts.setdefault(owner, {})[key] = attempts

    async def delete_attempts(self, owner: str, key: str) -> None:
        """Forget attempts."""
        self._attempts.get(owner, {}).pop(key, None)

    async def discard(self, topic: str, *, consumer: str) -> int:
        """Drop what waits on a topic and its consumer; see `ports.Ledger`."""
        count = await self.pending(topic, consumer=consumer)
        found = self._consumers.pop((topic, consumer), None)
        for timer in [
            *(found.delayed.values() if found else ()),
            *(timer for _, timer in (found.held.values() if found else ())),
        ]:
            timer.cancel()
        kept = [(number, message) for number, message in self._log if not covers(topic, message.topic)]
        self._log = deque(kept, maxlen=self._max_messages)
        return count

    async def read_register(self, name: str) -> tuple[bytes, int]:
        """Return value and revision; see `ports.Registers`."""
        return self._registers.get(name, (b"", 0))

    async def write_register(self, name: str, data: bytes, *, revision: int) -> int:
        """Replace the value of a revision; see `ports.Registers`."""
        if self._registers.get(name, (b"", 0))[1] != revision:
            raise errors.ConflictError(f"{name} was changed by somebody else")
        self._sequence += 1
        self._registers[name] = (data, self._sequence)
        return self._sequence

    async def delete_register(self, name: str) -> None:
        """Forget a value; safe to repeat."""
        self._registers.pop(name, None)

    def _consumer(self, topic: str, name: str) -> _Consumer:
        state = self._consumers.get((topic, name))
        if state is None:
            state = self._consumers[topic, name] = _Consumer(topic)
            for sequence, message in self._log:
                if covers(topic, message.topic):
                    state.give(sequence, message)
        return state


class MemoryBroker(MemoryBus):
    """`pubsub.in-memory`: a bus of the runtime process, for all functions whose component it is.

    Events end with that process; until then they are delivered as by any other broker. Those that
    failed need not end with it: `volatile` has the dispatcher keep them elsewhere until they are tried again.

    Args:
        component: Has no settings of its own.
        clock: Unused; timers are the event loop's.
    """

    volatile: Final = True

    def __init__(self, component: Component, *, clock: Clock) -> None:
        super().__init__()
        # What is kept elsewhere goes by the key and outlives this bus: the next one has other keys.
        self._name = f"memory-{secrets.token_hex(4)}"
