"""Dapr's topic semantics on each broker: routes, retries, drops, dead letters, raw payloads, expiry, bulks.

An app over HTTP is served by a host of its own; events are published by another app. One journey per broker,
since joining a consumer group takes most of the time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pelton.cli.dapr_host import AppPorts, DaprHost, channel_for
from pelton.cli.dapr_resources import Resources
from pelton.cli.state_stores import StateStores
from pelton.clock import SystemClock
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.replicas import Replicas
from pelton.drivers.kafka import KafkaBus
from pelton.drivers.memory import MemoryBus
from pelton.drivers.redis import RedisBus
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem
from pelton.model.desired import Component
from tests.contract.nats_server import NatsServer
from tests.unit.compat.dapr.apps import HttpApp

WAIT_S = 40.0
CLIENT = App(app_id="client")
TOPICS = ("routed", "failing", "dropped", "dead", "retried", "raw", "bulk", "short")


def subscriptions(prefix: str) -> list[dict[str, Any]]:
    def one(topic: str, **more: Any) -> dict[str, Any]:
        return {"pubsubname": "bus", "topic": prefix + topic, "route": f"/{topic}"} | more

    rules = [
        {"match": 'event.type == "big"', "path": "/big"},
        {"match": "event.data.n > 3", "path": "/many"},
    ]
    dead = f"{prefix}dead"
    return [
        one("routed", routes={"rules": rules, "default": "/rest"}),
        one("failing", deadLetterTopic=dead),
        one("dropped", deadLetterTopic=dead),
        one("dead"),
        one("retried"),
        one("raw", metadata={"rawPayload": "true"}),
        one("bulk", bulkSubscribe={"enabled": True, "maxMessagesCount": 3, "maxAwaitDurationMs": 500}),
        one("short", deadLetterTopic=dead),
    ]


class Journey:
    """An app that is served, and what it got: route -> bodies."""

    def __init__(self, bus: Any, ledger: Any, folder: Path, kind: str, **metadata: str) -> None:
        items = tuple(MetadataItem(name=name, value=value) for name, value in metadata.items())
        self._spec = ComponentSpec(type=kind, metadata=items)
        self.prefix = f"t{uuid.uuid4().hex[:10]}-"
        self._bus, self._ledger, self._folder = bus, ledger, folder
        self._retried = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Journey:
        def retried(_headers: Any, _body: bytes) -> tuple[int, bytes]:
            self._retried += 1
            return (500, b"not yet") if self._retried == 1 else (200, b"")

        def bulk(_headers: Any, body: bytes) -> tuple[int, object]:
            entries = json.loads(body)["entries"]
            return 200, {"statuses": [{"entryId": e["entryId"], "status": "SUCCESS"} for e in entries]}

        taken = {f"POST /{route}": (200, b"") for route in ("big", "many", "rest", "dead", "raw", "short")}
        self.app = await self._stack.enter_async_context(
            HttpApp(
                {
                    **taken,
                    "GET /dapr/subscribe": (200, subscriptions(self.prefix)),
                    "POST /failing": (500, b"no"),
                    "POST /dropped": (200, {"status": "DROP"}),
                    "POST /retried": retried,
                    "POST /bulk": bulk,
                }
            )
        )
        clock = SystemClock()

        async def bus_of(_component: Component) -> Any:
            return self._bus

        self.host = await self._stack.enter_async_context(
            DaprHost(bus_of=bus_of, ledger=self._ledger, clock=clock, stores=StateStores(clock, self._folder))
        )
        self.host.sync(Resources(components=(ComponentResource(name="bus", spec=self._spec),)))
        app = App(app_id="shop", port=self.app.address[1])
        replicas = Replicas()
        replicas.sync({"only": channel_for(app)})
        await self.host.serve(app, replicas, AppPorts(http=-1, grpc=-1))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def publish(self, topic: str, data: Any, kind: str = "application/json", **metadata: str) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        await self.host.runtime.topics.publish(
            CLIENT, "bus", self.prefix + topic, raw, content_type=kind, metadata=metadata
        )

    def got(self, route: str) -> list[Any]:
        return [json.loads(body) for name, _, body in self.app.got if name == f"POST /{route}"]

    async def until(self, what: str, test: Any) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not test():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            seen = [(name, body[:200]) for name, _, body in self.app.got]
            raise AssertionError(f"{what} did not happen; the app got {seen}") from None


async def walk(journey: Journey) -> None:
    """Publish everything at once and look at what came where."""
    registered = journey.host.runtime.apps.find("shop")
    assert registered is not None
    await journey.until("the app was asked", lambda: registered.ready)
    for n, kind in ((1, "big"), (5, "other"), (2, "other")):
        await journey.publish("routed", {"n": n}, **{"cloudevent.type": kind})
    await journey.publish("failing", {"n": 10})
    await journey.publish("dropped", {"n": 20})
    await journey.publish("retried", {"n": 30})
    await journey.publish("raw", b"\xff\x00", "application/octet-stream", rawPayload="true")
    old = {"specversion": "1.0", "id": "old", "source": "s", "type": "t", "data": {"n": 40}}
    await journey.publish(
        "short", old | {"expiration": "2020-01-01T00:00:00Z"}, "application/cloudevents+json"
    )
    await journey.publish("short", {"n": 41}, ttlInSeconds="600")
    for n in (50, 51, 52):
        await journey.publish("bulk", {"n": n})

    def numbers(route: str) -> list[int]:
        return sorted(event["data"]["n"] for event in journey.got(route))

    def bulks() -> list[int]:
        return sorted(e["event"]["data"]["n"] for bulk in journey.got("bulk") for e in bulk["entries"])

    await journey.until("the dead letters came", lambda: numbers("dead") == [10, 20])
    await journey.until("the retry came", lambda: numbers("retried") == [30, 30])
    await journey.until("the raw payload came", lambda: journey.got("raw"))
    await journey.until("the bulk came", lambda: bulks() == [50, 51, 52])
    await journey.until("the routed ones came", lambda: numbers("rest") and numbers("many"))
    await journey.until("the fresh one came", lambda: numbers("short"))

    assert (numbers("big"), numbers("many"), numbers("rest")) == ([1], [5], [2])
    assert numbers("failing") == [10]
    assert numbers("short") == [41]  # the old one is a dead letter, and too old for those who take these
    raw = journey.got("raw")[0]
    assert (base64.b64decode(raw["data_base64"]), raw["datacontenttype"]) == (
        b"\xff\x00",
        "application/octet-stream",
    )
    (event,) = journey.got("big")
    assert (event["source"], event["pubsubname"], event["topic"]) == (
        "client",
        "bus",
        f"{journey.prefix}routed",
    )


async def test_memory(tmp_path):
    bus = MemoryBus()

    async with bus, Journey(bus, bus, tmp_path, "pubsub.in-memory") as journey:
        await walk(journey)


@pytest.mark.connected
async def test_jetstream(tmp_path):
    server = NatsServer(tmp_path)
    await server.start()
    try:
        async with server.bus() as bus, Journey(bus, bus, tmp_path, "pubsub.jetstream") as journey:
            await walk(journey)
    finally:
        server.kill()


@pytest.mark.connected
async def test_redis(tmp_path, redis):
    component = Component(
        namespace="default", name="bus", type="pubsub.redis", metadata={"redisHost": redis.address}
    )
    bus, ledger = RedisBus(component, clock=SystemClock()), MemoryBus()
    try:
        async with ledger, Journey(bus, ledger, tmp_path, component.type, **component.metadata) as journey:
            await walk(journey)
    finally:
        await bus.close()


@pytest.mark.connected
async def test_kafka(tmp_path, kafka):
    metadata = {"brokers": kafka.address, "authType": "none", "initialOffset": "oldest"}
    ledger = MemoryBus()
    async with KafkaBus(metadata) as bus, ledger:
        journey = Journey(bus, ledger, tmp_path, "pubsub.kafka", **metadata)
        for topic in TOPICS:
            await bus.create_topic(journey.prefix + topic, partitions=1, replicas=1, config={})
        async with journey:
            await walk(journey)
