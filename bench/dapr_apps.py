"""What the runtime adds to a call from one app to another, and how many events an app takes.

Sixteen connections send 1 KB at a steady rate to an app that answers at once: straight, and through the
runtime; what the latter takes longer is what is added. Dapr's figures are its own, for two sidecars on the
way: HTTP 1.06 ms at p50 and 2.90 ms at p99. The client shares the machine.
Run: python -m bench.dapr_apps [--seconds 4] [--rate 500]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import time
from pathlib import Path

import grpc.aio
import uvloop

from bench.dapr_api import BODY, TURNS, Call, Http, Server, at_share, grpc_call, load, server
from bench.machine import cpu_s, cpus, pin
from bench.table import Row, render
from pelton.proto import dapr_runtime_pb2 as pb

__all__ = ["rows", "serve"]

PUBLISHED = {"HTTP": (1.06, 2.90), "gRPC": (None, None)}
"""Protocol -> Dapr's own added latency at p50 and p99, ms."""
EVENTS = 20_000
"""Events of the turn that counts them."""


async def serve(folder: Path, http: int, rpc: int) -> list[list[int]]:
    """Serve a caller and two apps that listen at these ports; returns the caller's ports, and ends never."""
    from pelton.cli.dapr_host import AppPorts, DaprHost, channel_for
    from pelton.cli.dapr_resources import Resources
    from pelton.cli.state_stores import StateStores
    from pelton.clock import SystemClock
    from pelton.compat.dapr.apps import App
    from pelton.compat.dapr.callbacks import Settings
    from pelton.compat.dapr.replicas import Replicas
    from pelton.drivers.memory import MemoryBus

    bus, clock = MemoryBus(max_messages=1000), SystemClock()

    async def bus_of(_component: object) -> MemoryBus:
        return bus

    host = DaprHost(bus_of=bus_of, ledger=bus, clock=clock, stores=StateStores(clock, folder))
    await host.__aenter__()
    host.sync(Resources())
    for app in (App(app_id="http", port=http), App(app_id="grpc", port=rpc, protocol="grpc")):
        replicas = Replicas()
        replicas.sync({"only": channel_for(app)})
        await host.serve(app, replicas, AppPorts(http=-1, grpc=-1), Settings(ask=False))
    bound = await host.serve(App(app_id="caller"), None, AppPorts())
    return [[bound.http, bound.grpc]]


def _request() -> pb.InvokeServiceRequest:
    request = pb.InvokeServiceRequest(id="grpc")
    request.message.method = "echo"
    request.message.data.value = BODY
    request.message.content_type = "application/json"
    return request


async def _measure(
    ours: Server, direct: Server, rate: float, seconds: float
) -> dict[str, tuple[list[float], list[float], float]]:
    """Return protocol -> ours, direct (ms of each call), CPU microseconds of the runtime for each."""
    found: dict[str, tuple[list[float], list[float], float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        sides: list[dict[str, Call]] = []
        for side, path in ((ours, "/v1.0/invoke/http/method/echo"), (direct, "/echo")):
            http = await stack.enter_async_context(Http(side.ports[0][0]))
            await http.open()
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{side.ports[0][1]}")
            )
            call = grpc_call(channel, "InvokeService", _request())
            sides.append({"HTTP": http.call("POST", path, BODY), "gRPC": call})
        for protocol in PUBLISHED:
            took: tuple[list[float], list[float]] = ([], [])
            used = 0.0
            for calls in sides:
                await load(calls[protocol], rate=rate, seconds=0.2)
            for _ in range(TURNS):
                for index, calls in enumerate(sides):
                    before = cpu_s(ours.process.pid)
                    took[index].extend(await load(calls[protocol], rate=rate, seconds=seconds / TURNS / 2))
                    if not index:
                        used += cpu_s(ours.process.pid) - before
            found[protocol] = (took[0], took[1], used / len(took[0]) * 1e6)
    return found


async def deliver_many() -> float:
    """Return events a second that one app takes over HTTP, all of this in one process."""
    from pelton.cli.dapr_feeds import AppFeeds
    from pelton.clock import SystemClock
    from pelton.compat.dapr.apps import App, AppRegistry
    from pelton.compat.dapr.callbacks import AppComponent
    from pelton.compat.dapr.channel_http import HttpChannel
    from pelton.compat.dapr.delivery import TopicRoute
    from pelton.compat.dapr.subscriptions import Router, Rule, TopicSubscription
    from pelton.drivers.memory import MemoryBus
    from pelton.model.desired import Subscription
    from pelton.ports import Message

    bus, registry = MemoryBus(), AppRegistry()
    app = registry.put(App(app_id="a", port=1)).app

    async def open_bus(_app: object, _component: object) -> MemoryBus:
        return bus

    feeds = AppFeeds(registry, open_bus=open_bus, ledger=bus, clock=SystemClock())
    with server("direct") as direct:
        channel = HttpChannel(("127.0.0.1", direct.ports[0][0]))
        topic = TopicSubscription(pubsub="bus", topic="t", rules=(Rule(path="/t"),))
        component = AppComponent(namespace="default", name="bus", type="pubsub.in-memory", app=app.key)
        subscription = Subscription(
            namespace="default", function="a", name="bus", input_name="bus", component=component, topic="t",
            max_in_flight=64,
        )  # fmt: skip
        route = TopicRoute(
            topic=topic,
            router=Router(topic),
            deliver=lambda event, timeout_s: channel.deliver(event, timeout_s=timeout_s),
        )
        feeds.invoker.set_route(subscription.id, route)
        known = b'{"specversion":"1.0","type":"t","source":"s","topic":"t","pubsubname":"bus",'
        envelope = known + b'"data":%b,"id":"%d"}'
        for number in range(EVENTS):
            await bus.publish(Message(topic="t", data=envelope % (BODY, number)))
        began = time.perf_counter()
        await feeds.apply(app, [subscription])
        while feeds.stats()[subscription.id]["delivered"] < EVENTS:
            await asyncio.sleep(0.01)
        took = time.perf_counter() - began
        await feeds.stop(0.0)
        await channel.close()
    return EVENTS / took


def rows(seconds: float = 4.0, rate: float = 500.0) -> list[Row]:
    """Measure and return the lines for a table; about three times `seconds` long."""
    servers, rest = cpus()
    pin([os.getpid()], rest or servers)
    table: list[Row] = []
    with server("direct") as direct, server("apps", callees=direct.ports[0]) as ours:
        found = uvloop.run(_measure(ours, direct, rate, seconds))
    for protocol, (took, bare, used) in found.items():
        for label, share, peer in zip(("p50", "p99"), (0.5, 0.99), PUBLISHED[protocol], strict=True):
            table.append(
                Row(
                    f"Dapr apps, call over {protocol} by the runtime: added at {label}",
                    at_share(took, share) - at_share(bare, share),
                    peer,
                    "ms",
                    budget="<= 1" if label == "p50" and peer else "",
                    note=f"{statistics.median(took):.2f} ms in all, {used:.0f} us of CPU a call",
                )
            )
    table.append(Row("Dapr apps, events to one app over HTTP", uvloop.run(deliver_many()), None, "1/s"))
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.dapr_apps", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=500.0)
    options = parser.parse_args()
    print(render(rows(options.seconds, options.rate)))


if __name__ == "__main__":
    main()
