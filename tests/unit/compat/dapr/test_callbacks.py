"""Subscriptions of apps from asking to delivery: a real dispatcher, a bus in memory, a scripted app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from pelton.cli.dapr_feeds import AppFeeds
from pelton.clock import SystemClock
from pelton.compat.dapr.apps import App, AppHealth, AppRegistry, RegisteredApp
from pelton.compat.dapr.callbacks import Callbacks, Learned, Settings
from pelton.compat.dapr.channel import (
    RETRY,
    SUCCESS,
    Answer,
    AppUnreachableError,
    BindingAnswer,
    BindingEvent,
    TopicEvent,
)
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.faults import Fault
from pelton.compat.dapr.ports import Drivers
from pelton.compat.dapr.resiliency import Calls
from pelton.compat.dapr.subscriptions import Bulk, Rule, TopicSubscription
from pelton.drivers.memory import MemoryBus
from pelton.errors import ProtocolError
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem
from pelton.model.desired import Component
from pelton.model.resiliency import BreakerPolicy, ComponentTarget, Resiliency, ResiliencyTarget, RetryPolicy
from pelton.plan.resiliency import Policies
from pelton.ports import Delivery, Message
from pelton.proto import dapr_runtime_pb2 as runtime

EVENT = {"specversion": "1.0", "id": "1", "source": "a", "type": "t", "topic": "orders", "pubsubname": "bus"}


UNKNOWN = Settings()


class ScriptedApp:
    """An app channel; `answer` decides what becomes of an event."""

    def __init__(self, *topics: TopicSubscription) -> None:
        self.topics = list(topics)
        self.got: list[TopicEvent] = []
        self.triggered: list[BindingEvent] = []
        self.times: list[float] = []
        self.bindings: set[str] = set()
        self.trouble: list[Exception] = []
        self.healthy = True
        self.asked = 0
        self.answer: Callable[[TopicEvent], Answer] = lambda _event: Answer(status=SUCCESS)
        self.trigger_answer: Callable[[BindingEvent], Answer] = lambda _event: Answer(status=SUCCESS)
        self.arrived = asyncio.Condition()

    async def subscriptions(self) -> tuple[list[TopicSubscription], list[str]]:
        self.asked += 1
        if self.trouble:
            raise self.trouble.pop(0)
        return self.topics, []

    async def deliver(self, event: TopicEvent, *, timeout_s: float) -> Answer:
        async with self.arrived:
            self.got.append(event)
            self.times.append(asyncio.get_running_loop().time())
            self.arrived.notify_all()
        return self.answer(event)

    async def deliver_bulk(self, events: Sequence[TopicEvent], *, timeout_s: float) -> list[Answer]:
        return [await self.deliver(event, timeout_s=timeout_s) for event in events]

    async def takes_binding(self, name: str, route: str) -> bool:
        return name in self.bindings

    async def trigger(self, event: BindingEvent, *, timeout_s: float) -> BindingAnswer:
        async with self.arrived:
            self.triggered.append(event)
            self.times.append(asyncio.get_running_loop().time())
            self.arrived.notify_all()
        return BindingAnswer(answer=self.trigger_answer(event))

    async def is_healthy(self, path: str, *, timeout_s: float) -> bool:
        return self.healthy

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self.arrived:
            await self.arrived.wait_for(condition)


def component(name: str = "bus", kind: str = "pubsub.in-memory", **metadata: str) -> ComponentResource:
    items = tuple(MetadataItem(name=key, value=value) for key, value in metadata.items())
    return ComponentResource(name=name, spec=ComponentSpec(type=kind, metadata=items))


class Bed:
    def __init__(self, *, resources: Sequence[ComponentResource], policies: Sequence[Resiliency]) -> None:
        self.bus = MemoryBus()
        self.ledger = MemoryBus()
        self.registry = AppRegistry()
        self.sent: list[tuple[str, bytes]] = []
        self.declared: list[TopicSubscription] = []
        clock = SystemClock()
        self.feeds = AppFeeds(self.registry, open_bus=self._open, ledger=self.ledger, clock=clock)
        self.components = Components(Drivers(open={}, types={}))
        self.components.sync(resources)
        self.callbacks = Callbacks(
            feeds=self.feeds,
            invoker=self.feeds.invoker,
            components=self.components,
            declared=lambda _app: self.declared,
            policies=lambda app: Policies(policies, app.app_id),
            calls=Calls(clock, lambda: 0.5),
            send=self._send,
            trigger_types=frozenset({"bindings.cron"}),
            clock=clock,
        )

    async def _open(self, _app: App, _component: Component) -> MemoryBus:
        return self.bus

    async def _send(self, _registered: RegisteredApp, name: str, data: bytes) -> None:
        self.sent.append((name, data))

    async def serve(
        self, channel: ScriptedApp | None, settings: Settings = UNKNOWN, **changes: Any
    ) -> RegisteredApp:
        registered = self.registry.put(App(app_id="b", port=1 if channel else 0, **changes))
        registered.channel = channel
        self.callbacks.serve(registered, settings)
        async with asyncio.timeout(30):
            while not registered.ready:
                await asyncio.sleep(0)
        return registered

    async def publish(self, topic: str = "orders", **changes: Any) -> None:
        await self.bus.publish(Message(topic=topic, data=json.dumps({**EVENT, **changes}).encode()))


@asynccontextmanager
async def bed(
    *, resources: Sequence[ComponentResource] | None = None, policies: Sequence[Resiliency] = ()
) -> AsyncIterator[Bed]:
    made = Bed(resources=[component()] if resources is None else resources, policies=policies)
    await made.feeds.start()
    try:
        yield made
    finally:
        await made.callbacks.close()
        await made.feeds.stop(0.0)
        await made.bus.close()
        await made.ledger.close()


def orders(path: str = "/o", **changes: Any) -> TopicSubscription:
    return TopicSubscription(pubsub="bus", topic="orders", rules=(Rule(path=path),), **changes)


async def test_serve_brings_events_of_what_the_app_asked_for() -> None:
    async with bed() as made:
        app = ScriptedApp(orders())
        registered = await made.serve(app)
        await made.publish()
        await app.until(lambda: bool(app.got))

        assert [(event.path, event.topic) for event in app.got] == [("/o", "orders")]
        assert [(each.pubsub, each.topic, each.kind) for each in registered.subscriptions] == [
            ("bus", "orders", "PROGRAMMATIC")
        ]


async def test_serve_asks_until_the_app_answers() -> None:
    async with bed() as made:
        app = ScriptedApp(orders())
        app.trouble = [AppUnreachableError("not yet"), ProtocolError("garbage")]
        await made.serve(app)

        assert app.asked == 3


async def test_serve_app_that_is_known_is_not_asked_and_what_is_learned_is_told() -> None:
    async with bed() as made:
        app, learned = ScriptedApp(), list[Learned]()
        await made.serve(app, Settings(known=Learned(topics=(orders(),)), learned=learned.append))
        await made.publish()
        await app.until(lambda: bool(app.got))

        assert (app.asked, learned) == (0, [Learned(topics=(orders(),))])


async def test_serve_unknown_component_and_forbidden_topic_are_told_of_and_not_fetched() -> None:
    resources = [component("bus", subscriptionScopes="b=allowed")]
    async with bed(resources=resources) as made:
        wanted = [
            TopicSubscription(pubsub="nowhere", topic="t"),
            orders(),
            TopicSubscription(pubsub="bus", topic="allowed"),
        ]
        app = ScriptedApp(*wanted)
        registered = await made.serve(app)
        for topic in ("t", "orders", "allowed"):
            await made.publish(topic)
        await app.until(lambda: bool(app.got))

        assert [each.topic for each in registered.subscriptions] == ["t", "orders", "allowed"]
        assert [each.topic for each in app.got] == ["allowed"]


class ToldBus(MemoryBus):
    """Keeps what it was told of a subscription."""

    def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        self.options = dict(options)
        return super().subscribe(topic, consumer=consumer, max_in_flight=max_in_flight, options=options)


async def test_metadata_of_a_subscription_reach_the_broker_over_those_of_the_component() -> None:
    async with bed(resources=[component(queueType="classic", durable="true")]) as made:
        made.bus = bus = ToldBus()
        app = ScriptedApp(orders(metadata={"routingKey": "a.*", "queueType": "quorum"}))
        await made.serve(app)
        await made.publish()
        await app.until(lambda: bool(app.got))

        wanted = {"consumerID": "b", "durable": "true", "queueType": "quorum", "routingKey": "a.*"}
        assert bus.options == wanted


async def test_serve_component_that_comes_later_brings_its_events() -> None:
    async with bed(resources=[]) as made:
        app = ScriptedApp(orders())
        await made.serve(app)
        made.components.sync([component()])
        await made.publish()
        await app.until(lambda: bool(app.got))


async def test_declared_subscription_is_added_and_the_apps_own_counts_for_its_topic() -> None:
    async with bed() as made:
        app = ScriptedApp(orders("/own"))
        made.declared = [
            orders("/declared"),
            TopicSubscription(pubsub="bus", topic="more", rules=(Rule(path="/m"),)),
        ]
        await made.serve(app)
        await made.publish()
        await made.publish("more", topic_="more")
        await app.until(lambda: len(app.got) == 2)

        assert sorted(event.path for event in app.got) == ["/m", "/own"]


async def test_retry_policy_of_the_component_says_how_often_and_then_the_dead_letter_topic_takes_it() -> None:
    policy = Resiliency(
        name="r",
        retries={"fast": RetryPolicy(duration_s=0.001, max_retries=2)},
        components={"bus": ComponentTarget(inbound=ResiliencyTarget(retry="fast"))},
    )
    async with bed(policies=[policy]) as made:
        app = ScriptedApp(orders(dead_letter_topic="dead"))
        app.answer = lambda _event: Answer(status=RETRY, reason="no", code="500")
        await made.serve(app)
        await made.publish()
        await app.until(lambda: len(app.got) == 3)
        async with asyncio.timeout(30):
            while not made.bus.messages("dead"):
                await asyncio.sleep(0)

        assert made.feeds.stats()["default.b.dapr.bus.orders"]["dead_lettered"] == 1


async def test_without_a_policy_the_dead_letter_topic_takes_it_after_one_attempt() -> None:
    async with bed() as made:
        app = ScriptedApp(orders(dead_letter_topic="dead"))
        app.answer = lambda _event: Answer(status=RETRY, reason="no")
        await made.serve(app)
        await made.publish()
        async with asyncio.timeout(30):
            while not made.bus.messages("dead"):
                await asyncio.sleep(0)

        assert len(app.got) == 1


def breaking(name: str, timeout_s: float) -> Resiliency:
    return Resiliency(
        name="r",
        retries={"once": RetryPolicy(duration_s=0.001, max_retries=0)},
        breakers={"b": BreakerPolicy(trip="consecutiveFailures >= 1", timeout_s=timeout_s)},
        components={name: ComponentTarget(inbound=ResiliencyTarget(retry="once", breaker="b"))},
    )


@pytest.mark.parametrize("bulk", [None, Bulk(max_messages=1, max_wait_s=0.001)])
async def test_open_breaker_lets_events_wait_and_makes_no_attempt(bulk: Bulk | None) -> None:
    async with bed(policies=[breaking("bus", 0.3)]) as made:
        app = ScriptedApp(orders(dead_letter_topic="dead", bulk=bulk))
        app.answer = lambda event: Answer(
            status=RETRY if event.attributes["id"] == "bad" else SUCCESS, reason="r"
        )
        await made.serve(app)
        await made.publish(id="bad")
        await app.until(lambda: len(app.got) == 1)
        await made.publish(id="good")
        await app.until(lambda: len(app.got) == 2)

        assert [event.attributes["id"] for event in app.got] == ["bad", "good"]
        assert app.times[1] - app.times[0] >= 0.25
        assert len(made.bus.messages("dead")) == 1


async def test_open_breaker_lets_events_of_a_binding_wait() -> None:
    resources = [component("tick", "bindings.cron", direction="input")]
    async with bed(resources=resources, policies=[breaking("tick", 0.3)]) as made:
        app = ScriptedApp()
        app.trigger_answer = lambda event: Answer(
            status=RETRY if event.data == b"bad" else SUCCESS, reason="r"
        )
        await made.serve(app)
        await made.bus.publish(Message(topic="", data=b"bad"))
        await app.until(lambda: len(app.triggered) == 1)
        await made.bus.publish(Message(topic="", data=b"good"))
        await app.until(lambda: len(app.triggered) == 2)

        assert [event.data for event in app.triggered] == [b"bad", b"good"]
        assert app.times[1] - app.times[0] >= 0.25
        assert len(made.ledger.messages("pelton.dead.>")) == 1


async def test_unhealthy_app_gets_nothing_until_it_is_healthy_again() -> None:
    async with bed() as made:
        app = ScriptedApp(orders())
        registered = await made.serve(app, health=AppHealth(interval_s=0.01, threshold=2))
        app.healthy = False
        async with asyncio.timeout(30):
            while made.feeds.stats():
                await asyncio.sleep(0.005)
        await made.publish()
        assert (registered.healthy, app.got) == (False, [])

        app.healthy = True
        await app.until(lambda: bool(app.got))

        assert registered.healthy


async def test_binding_is_started_where_the_app_takes_it_or_its_direction_says_so() -> None:
    resources = [
        component("wanted", "bindings.cron"),
        component("unwanted", "bindings.cron"),
        component("told", "bindings.cron", direction="input", route="/at"),
        component("output", "bindings.cron", direction="output"),
        component("other", "bindings.http"),
    ]
    async with bed(resources=resources) as made:
        app = ScriptedApp()
        app.bindings = {"wanted", "output", "other"}
        await made.serve(app)

        assert set(made.feeds.stats()) == {"default.b.dapr.wanted", "default.b.dapr.told"}

        await made.bus.publish(Message(topic="", data=b"tick"))
        await app.until(lambda: len(app.triggered) == 2)

        assert sorted((event.name, event.route) for event in app.triggered) == [
            ("told", "/at"),
            ("wanted", "wanted"),
        ]


async def test_leave_stops_and_the_events_wait_for_the_next_time() -> None:
    async with bed() as made:
        app = ScriptedApp(orders())
        await made.serve(app)
        await made.callbacks.leave("default/b")
        await made.publish()

        again = ScriptedApp(orders())
        await made.serve(again)
        await again.until(lambda: bool(again.got))

        assert app.got == []


# --- streams ---


class Client:
    """The app's side of a stream."""

    def __init__(self, made: Bed, registered: RegisteredApp, *first: Any) -> None:
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        for request in first:
            self._outgoing.put_nowait(request)
        self.responses = made.callbacks.streams.subscribe(registered, self._requests())

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self._outgoing.get()) is not None:
            if isinstance(request, Exception):
                raise request
            yield request

    async def next(self) -> Any:
        async with asyncio.timeout(30):
            return await anext(self.responses)

    def answer(self, event_id: str, status: int) -> None:
        request = runtime.SubscribeTopicEventsRequestAlpha1()
        request.event_processed.id = event_id
        request.event_processed.status.status = status  # type: ignore[assignment]
        self._outgoing.put_nowait(request)

    def say(self, request: Any) -> None:
        self._outgoing.put_nowait(request)

    async def close(self) -> None:
        await self.responses.aclose()  # type: ignore[attr-defined]


def initial(topic: str = "orders", pubsub: str = "bus", **more: Any) -> Any:
    return runtime.SubscribeTopicEventsRequestAlpha1(
        initial_request=runtime.SubscribeTopicEventsRequestInitialAlpha1(
            pubsub_name=pubsub, topic=topic, **more
        )
    )


async def test_stream_gets_events_and_answers_them_in_any_order() -> None:
    async with bed() as made:
        registered = await made.serve(None)
        client = Client(made, registered, initial(dead_letter_topic="dead"))
        assert (await client.next()).HasField("initial_response")
        for number in ("1", "2"):
            await made.publish(id=number)
        got = [(await client.next()).event_message.id for _ in range(2)]
        client.answer("2", 2)
        client.answer("1", 0)
        async with asyncio.timeout(30):
            while not made.bus.messages("dead"):
                await asyncio.sleep(0)

        assert got == ["1", "2"]
        assert [json.loads(each.data)["id"] for each in made.bus.messages("dead")] == ["2"]
        assert [each.kind for each in registered.subscriptions] == ["STREAMING"]
        await client.close()
        assert registered.subscriptions == []


async def test_stream_that_ends_gives_back_what_it_did_not_answer() -> None:
    async with bed() as made:
        registered = await made.serve(None)
        first = Client(made, registered, initial())
        await first.next()
        await made.publish(id="7")
        assert (await first.next()).event_message.id == "7"
        second = Client(made, registered, initial())
        await second.next()
        await first.close()

        assert (await second.next()).event_message.id == "7"
        await second.close()


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ([None], "initial_request is missing"),
        ([initial(topic="")], "topic is required"),
        ([initial(pubsub="")], "pubsubName is required"),
        ([initial(pubsub="nowhere")], "nowhere"),
        ([initial(), initial()], "duplicate initial request received"),
        ([DecodeError("wire")], "cannot be read: wire"),
        ([initial(), DecodeError("wire")], "cannot be read: wire"),
    ],
)
async def test_stream_that_makes_no_sense_is_refused(first: list[Any], said: str) -> None:
    async with bed() as made:
        registered = await made.serve(None)
        client = Client(made, registered, *first)
        with pytest.raises(Fault, match=said):
            while True:
                await client.next()


async def test_streams_on_one_topic_each_get_every_event_where_a_broker_has_no_groups() -> None:
    async with bed() as made:
        registered = await made.serve(None)
        one, two = (Client(made, registered, initial()) for _ in range(2))
        for client in (one, two):
            await client.next()
        await made.publish(id="7")
        got = [(await client.next()).event_message.id for client in (one, two)]
        one.answer("7", 0)
        two.answer("7", 1)
        again = (await two.next()).event_message.id
        await made.publish(id="8")
        following = (await one.next()).event_message.id
        for client in (one, two):
            await client.close()

    assert (got, again, following) == (["7", "7"], "7", "8")


async def test_streams_take_turns() -> None:
    async with bed(resources=[component("bus", "pubsub.redis")]) as made:
        registered = await made.serve(None)
        clients = [Client(made, registered, initial()) for _ in range(2)]
        for client in clients:
            await client.next()
        for number in range(4):
            await made.publish(id=str(number))
        for client in clients:
            for _ in range(2):
                client.answer((await client.next()).event_message.id, 0)
        for client in clients:
            await client.close()


async def test_component_per_namespace_has_its_topics_behind_the_namespace() -> None:
    async with bed(resources=[component("bus", clientID="{namespace}")]) as made:
        app = ScriptedApp(orders(dead_letter_topic="dead"))
        app.answer = lambda _event: Answer(status=RETRY, reason="no")
        await made.serve(app)
        await made.publish("defaultorders")
        async with asyncio.timeout(30):
            while not made.bus.messages("defaultdead"):
                await asyncio.sleep(0)

        assert [event.topic for event in app.got] == ["orders"]
