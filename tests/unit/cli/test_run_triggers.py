import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pelton.cli.run_triggers import Triggers
from pelton.clock import SystemClock
from pelton.drivers.memory import MemoryBus
from pelton.errors import DeliveryError
from pelton.model.desired import Component, Subscription
from pelton.ports import Message


def subscription(kind="pubsub.jetstream", topic="orders", **more):
    metadata = more.pop("metadata", {"natsURL": "nats://somewhere"})
    component = Component(namespace="default", name="bus", type=kind, metadata=metadata)
    return Subscription(
        namespace="default",
        function="f",
        name="bus",
        input_name="in",
        component=component,
        topic=topic,
        backoff_s=0.01,
        **more,
    )


class Worker:
    """Takes events and says what `answers` has next, `ok` when it is empty."""

    def __init__(self):
        self.triggers: Any = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.answers = []
        self.events = []
        self.came = asyncio.Condition()

    def note(self, op, body):
        assert op == "events"
        for invocation_id, event, _ in body:
            self.events.append(event)
            outcome = self.answers.pop(0) if self.answers else "ok"
            task = asyncio.create_task(self._answer(invocation_id, outcome))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _answer(self, invocation_id, outcome):
        await self.triggers.outcomes(self, [(invocation_id, outcome, "because")])
        async with self.came:
            self.came.notify_all()

    async def seen(self, count):
        async with asyncio.timeout(30), self.came:
            await self.came.wait_for(lambda: len(self.events) >= count)


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
async def bus():
    async with MemoryBus() as bus:
        yield bus


@asynccontextmanager
async def firing(worker, bus, *subscriptions):
    async def bus_of(component):
        if isinstance(bus, Exception):
            raise bus
        return bus

    worker.triggers = Triggers(subscriptions, clock=SystemClock(), bus_of=bus_of)
    async with worker.triggers.firing(worker):
        yield


async def test_event_reaches_the_function_and_is_finished(worker, bus):
    found = subscription()
    await bus.publish(Message(topic="orders", data=b'{"n": 1}'))

    async with firing(worker, bus, found):
        await worker.seen(1)
        async with asyncio.timeout(30):
            while await bus.pending("orders", consumer=f"run.{found.id}"):
                await asyncio.sleep(0.005)

    assert (worker.events[0].kind, worker.events[0].data, worker.events[0].attempt) == (
        "topic",
        b'{"n": 1}',
        1,
    )


async def test_failed_event_comes_back_until_it_is_given_up(worker, bus, capsys):
    worker.answers = ["error", "busy", "error", "error", "error"]
    await bus.publish(Message(topic="orders", data=b"1"))

    async with firing(worker, bus, subscription(max_attempts=3)):
        await worker.seen(4)
        await bus.publish(Message(topic="orders", data=b"2"))
        worker.answers = []
        await worker.seen(5)

    assert [event.attempt for event in worker.events] == [1, 2, 2, 3, 1]
    said = capsys.readouterr().err
    assert "trigger bus: attempt 1 failed: because" in said
    assert "trigger bus: given up after attempt 3: because" in said


async def test_dropped_event_is_not_tried_again(worker, bus, capsys):
    worker.answers = ["drop"]
    await bus.publish(Message(topic="orders", data=b"1"))

    async with firing(worker, bus, subscription()):
        await worker.seen(1)
        await bus.publish(Message(topic="orders", data=b"2"))
        await worker.seen(2)

    assert [event.data for event in worker.events] == [b"1", b"2"]
    assert "given up after attempt 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (subscription("pubsub.kafka"), "pubsub.kafka needs the platform"),
        (subscription(""), "a trigger without type"),
        (subscription(topic=""), "no topic"),
        (subscription(metadata={}), "name no server (natsURL)"),
        (subscription("bindings.cron", "", metadata={}), "`schedule` is required"),
        (subscription("bindings.cron", "", metadata={"schedule": "soon"}), "'soon' is not a schedule"),
    ],
    ids=["kafka", "untyped", "topic", "server", "cron", "schedule"],
)
async def test_trigger_that_cannot_fire_says_why(worker, bus, capsys, found, says):
    async with firing(worker, bus, found):
        pass

    said = capsys.readouterr().err
    assert said.startswith("trigger bus: does not fire here: ")
    assert says in said


async def test_server_that_is_away_is_told_and_the_others_fire(worker, capsys):
    cron = subscription("bindings.cron", "", metadata={"schedule": "@every 1s"})

    async with firing(worker, DeliveryError("nobody listens"), subscription(), cron):
        await worker.seen(1)

    assert worker.events[0].component_type == "bindings.cron"
    assert "trigger bus: nobody listens" in capsys.readouterr().err
