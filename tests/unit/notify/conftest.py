"""A bus in memory, a Sender that does as told, and a clock that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pelton.errors import DeliveryError
from pelton.ports import Delivery, Message, SendResult

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class HandClock:
    """Stands still until `advance`."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds - 1000.0)

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self.seconds + seconds, self._count, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move on, waking sleepers in order, and let everything settle in between."""
        end = self.seconds + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, future = heapq.heappop(self._sleepers)
            self.seconds = max(self.seconds, at)
            if not future.done():
                future.set_result(None)
            await settle()
        self.seconds = end
        await settle()


async def settle() -> None:
    """Let all tasks run until only the clock or the test can move them on."""
    for _ in range(200):
        await asyncio.sleep(0)


class _Delivery:
    def __init__(self, queue: _Queue, number: int, message: Message) -> None:
        self._queue = queue
        self.number = number
        self.message = message

    @property
    def key(self) -> str:
        return f"memory:{self.number}"

    async def ack(self) -> None:
        self._queue.bus.fail("ack")
        self._queue.bus.fail(f"ack {self.message.topic}")
        self._queue.finish(self.number)

    async def nak(self, delay_s: float) -> None:
        self._queue.naks.append(delay_s)
        self._queue.later(self, delay_s)

    async def term(self) -> None:
        self._queue.finish(self.number)

    async def extend(self) -> None:
        self._queue.extended += 1


class _Queue:
    """One topic; in these tests each has one consumer."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.ready: list[_Delivery] = []
        self.unfinished: dict[int, _Delivery] = {}
        self.stored: list[Message] = []
        self.naks: list[float] = []
        self.extended = 0
        self.wake = asyncio.Event()
        self._naps: set[asyncio.Task[None]] = set()

    def put(self, message: Message) -> None:
        self.stored.append(message)
        delivery = _Delivery(self, len(self.stored), message)
        self.unfinished[delivery.number] = delivery
        self.ready.append(delivery)
        self.wake.set()

    def finish(self, number: int) -> None:
        self.unfinished.pop(number, None)

    def later(self, delivery: _Delivery, delay_s: float) -> None:
        task = asyncio.create_task(self._later(delivery, delay_s))
        self._naps.add(task)
        task.add_done_callback(self._naps.discard)

    async def _later(self, delivery: _Delivery, delay_s: float) -> None:
        if delay_s > 0:
            await self.bus.clock.sleep(delay_s)
        if delivery.number in self.unfinished and delivery not in self.ready:
            self.ready.append(delivery)
            self.wake.set()

    def redeliver(self) -> None:
        self.ready = list(self.unfinished.values())
        self.wake.set()


class MemoryBus:
    """Keeps what is published; forgets who held it when `crash` is called."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.queues: dict[str, _Queue] = {}
        self.failures: dict[str, int] = {}
        self._ids: set[tuple[str, str]] = set()

    def queue(self, topic: str) -> _Queue:
        return self.queues.setdefault(topic, _Queue(self))

    def stored(self, topic: str) -> list[Message]:
        return self.queue(topic).stored

    def fail(self, what: str) -> None:
        if self.failures.get(what, 0) > 0:
            self.failures[what] -= 1
            raise DeliveryError(f"{what} failed as told")

    def crash(self) -> None:
        """What a broker does when a subscriber is killed: everything unfinished is delivered again."""
        for queue in self.queues.values():
            queue.redeliver()

    async def publish(self, message: Message) -> None:
        self.fail("publish")
        self.fail(message.topic)
        if message.id and (message.topic, message.id) in self._ids:
            return
        self._ids.add((message.topic, message.id))
        self.queue(message.topic).put(message)

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        queue = self.queue(topic)
        while True:
            self.fail("subscribe")
            while not queue.ready:
                queue.wake.clear()
                await queue.wake.wait()
            batch, queue.ready = queue.ready[:max_in_flight], queue.ready[max_in_flight:]
            yield batch

    async def pending(self, topic: str, *, consumer: str) -> int:
        return len(self.queue(topic).unfinished)


class ScriptedSender:
    """Answers with the given results in order, the last one for ever; waits while `gate` is closed."""

    def __init__(self, *results: SendResult | Exception) -> None:
        self.results = list(results) or [SendResult(ok=True)]
        self.calls: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        self.at: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.clock: HandClock | None = None

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        self.calls.append((settings, payload))
        if self.clock is not None:
            self.at.append(self.clock.seconds)
        await self.gate.wait()
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def bus(clock: HandClock) -> MemoryBus:
    return MemoryBus(clock)


@pytest.fixture
def scripted(clock: HandClock) -> Callable[..., ScriptedSender]:
    def make(*results: SendResult | Exception) -> ScriptedSender:
        sender = ScriptedSender(*results)
        sender.clock = clock
        return sender

    return make
