"""The gateway against the same Envoy with a static file, before the same socket, as ratios of one run.

Two Envoys run side by side, one thread each on one CPU; the upstream and the load share the other CPUs. The
static file asks for the same statistics and headers as Pelton's gateway does. They take turns of under a
second, so that a neighbour's load hits both alike; the table shows medians over the turns. Then what only a
dynamic gateway does: an endpoint change until the first request that sees it, and memory, both at one
function and at a thousand. Run: python -m bench.gateway [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from bench.functions import static_config
from bench.load import Address, ask, load, quantile
from bench.machine import cpu_s, cpus, free_port, pin, pinned, rss_mb
from bench.table import Row, render, spread
from pelton.cli.node_gateway import find_way
from pelton.clock import SystemClock
from pelton.dataplane.activator import Activator
from pelton.dataplane.instance import Instance
from pelton.errors import WakeError
from pelton.model.desired import Route, Workload
from pelton.targets.local.envoy import bootstrap, envoy_command
from pelton.targets.local.gateway import Gateway, Listener

CONNECTIONS = 32
ROUNDS = 10
FUNCTIONS = 1000
FLIPS = 50
ROUTES = 15
REQUEST = (
    b"GET /hello?name=bench HTTP/1.1\r\nhost: hello.default.localhost\r\n"
    b"user-agent: bench/1\r\naccept: */*\r\n\r\n"
)


@dataclass
class Measured:
    """What the turns of one Envoy showed."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)


@dataclass
class Results:
    static: Measured = field(default_factory=Measured)
    pelton: Measured = field(default_factory=Measured)
    flips_s: dict[int, list[float]] = field(default_factory=dict)
    """Functions known to the gateway -> seconds from the change to the first request that saw it."""
    rss_mb: dict[int, float] = field(default_factory=dict)
    push_s: float = 0.0
    first_s: list[float] = field(default_factory=list)
    """Seconds from adding a function to a thousand to the first request that it answers."""
    routed_s: list[float] = field(default_factory=list)
    """The same until Envoy has confirmed the route."""


@contextlib.asynccontextmanager
async def running(command: list[str], address: Address | None) -> AsyncIterator[int]:
    """Run a program, yield its pid when it answers on `address`."""
    process = subprocess.Popen(command)
    try:
        async with asyncio.timeout(20):
            while address is not None:
                try:
                    await ask(address, REQUEST)
                    break
                except (OSError, asyncio.IncompleteReadError):
                    if process.poll() is not None:
                        raise
                    await asyncio.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def envoy(folder: str, name: str, config: dict[str, Any]) -> list[str]:
    path = Path(folder) / f"{name}.json"
    path.write_text(json.dumps(config))
    return envoy_command(str(path), concurrency=1)


async def measure(seconds: float) -> Results:
    """Run everything; `seconds` of load on each of the two Envoys, and about as much again for the rest."""
    results = Results()
    envoys, rest = cpus()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pinned(rest))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pb-"))
        upstreams = [f"{folder}/{name}.sock" for name in ("worker", "activator")]
        for path in upstreams:
            command = [sys.executable, "-m", "bench.gateway", "--serve", path]
            await stack.enter_async_context(running(command, path))
        ports = [free_port(), free_port()]
        activator = Activator(
            wake=lambda _key: _ready(upstreams[1]),
            why_gone=lambda key: WakeError(key),
            listing=list,
            find=lambda head: find_way(gateway, head),
            clock=SystemClock(),
        )
        await activator.start(Path(folder) / "way.sock")
        stack.push_async_callback(activator.close)
        gateway = await stack.enter_async_context(
            Gateway(
                xds_socket=f"{folder}/xds.sock",
                activator_socket=f"{folder}/way.sock",
                listeners=[Listener(host="127.0.0.1", port=ports[1])],
                admin_socket=f"{folder}/admin.sock",
            )
        )
        await gateway.set_routes([route("hello")])
        await gateway.set_endpoints("default", "hello", upstreams[:1])
        commands = [
            envoy(
                folder,
                "static",
                static_config(ports[0], f"{folder}/static-admin.sock", {"hello": upstreams[0]}),
            ),
            envoy(
                folder,
                "pelton",
                bootstrap(xds_socket=f"{folder}/xds.sock", admin_socket=f"{folder}/admin.sock"),
            ),
        ]
        pids = []
        for command, port in zip(commands, ports, strict=True):
            pids.append(await stack.enter_async_context(running(command, ("127.0.0.1", port))))
            pin(pids[-1:], envoys)
        await take_turns(results, pids, ports, seconds)
        await flip(results, gateway, upstreams, ports[1], pids[1])
        await add_routes(results, gateway, ports[1])
    return results


async def _ready(path: str) -> Instance:
    """Return a ready instance that listens on a socket."""
    workload = Workload(namespace="default", name="hello", revision="hello-1", bundle="/")
    instance = Instance("hello-1-abcde", workload, path, "", "", "", 0.0)
    instance.state = "ready"
    instance.listening.set()
    instance.settled.set()
    return instance


async def add_routes(results: Results, gateway: Gateway, port: int) -> None:
    """Add functions to a thousand: until a request reaches one, and until Envoy itself has its route."""
    for number in range(ROUTES):
        name = f"new-{number}"
        request = REQUEST.replace(b"hello.default", f"{name}.default".encode())
        began = time.perf_counter()
        adding = asyncio.ensure_future(gateway.set_route(route(name)))
        while b" 200 " not in (await ask(("127.0.0.1", port), request))[:16]:
            pass
        results.first_s.append(time.perf_counter() - began)
        await adding
        results.routed_s.append(time.perf_counter() - began)


async def take_turns(results: Results, pids: list[int], ports: list[int], seconds: float) -> None:
    peers = list(zip((results.static, results.pelton), pids, ports, strict=True))
    for turn in range(ROUNDS + 1):
        for measured, pid, port in peers if turn % 2 else reversed(peers):
            address = ("127.0.0.1", port)
            size = len(await ask(address, REQUEST))
            before = cpu_s(pid)
            done = await load(address, REQUEST, seconds=seconds / ROUNDS, connections=CONNECTIONS, size=size)
            if turn == 0:
                continue  # warm-up
            measured.per_s.append(done.per_s)
            measured.cpu_us.append((cpu_s(pid) - before) / len(done.latencies_s) * 1e6)
            measured.latencies_s.extend(done.latencies_s)


async def flip(results: Results, gateway: Gateway, upstreams: list[str], port: int, pid: int) -> None:
    """Move a function between worker and activator; each of the two names itself in its answer."""
    for functions in (1, FUNCTIONS):
        if functions > 1:
            began = time.perf_counter()
            await gateway.set_routes([route("hello"), *(route(f"fn-{i:04}") for i in range(1, functions))])
            results.push_s = time.perf_counter() - began
        results.rss_mb[functions] = rss_mb(pid)
        took = results.flips_s[functions] = []
        for number in range(FLIPS):
            at_activator = number % 2 == 0
            wanted = b"activator" if at_activator else b"worker"
            began = time.perf_counter()
            await gateway.set_endpoints("default", "hello", [] if at_activator else upstreams[:1])
            while wanted not in await ask(("127.0.0.1", port), REQUEST):
                pass
            took.append(time.perf_counter() - began)


def route(name: str) -> Route:
    return Route(
        namespace="default", name=name, hosts=(f"{name}.default.localhost",), path=f"/default/{name}"
    )


def rows(seconds: float = 5.0) -> list[Row]:
    """Measure and return the lines for a table; about four times `seconds` long."""
    return table(uvloop.run(measure(seconds)))


def table(results: Results) -> list[Row]:
    ours, peer = results.pelton, results.static
    median = statistics.median
    few, many = results.flips_s[1], results.flips_s[FUNCTIONS]
    return [
        Row(
            "gateway: requests",
            median(ours.per_s),
            median(peer.per_s),
            "1/s",
            ">= 0.95",
            spread(ours.per_s, peer.per_s),
        ),
        Row(
            "gateway: CPU",
            median(ours.cpu_us),
            median(peer.cpu_us),
            "us/request",
            "",
            spread(ours.cpu_us, peer.cpu_us),
        ),
        *(
            Row(
                f"gateway: p{share * 100:.0f}",
                quantile(ours.latencies_s, share) * 1e6,
                quantile(peer.latencies_s, share) * 1e6,
                "us",
            )
            for share in (0.5, 0.99)
        ),
        Row(
            f"gateway: endpoint change to first request, {FUNCTIONS} functions against 1, p50",
            median(many) * 1e3,
            median(few) * 1e3,
            "ms",
        ),
        Row(
            f"gateway: route added to first request, {FUNCTIONS} functions, p50",
            median(results.first_s) * 1e3,
            median(results.routed_s) * 1e3,
            "ms",
            "ours <= 5",
            note="peer: until Envoy has confirmed the table with it; the activator finds the way meanwhile",
        ),
        Row(
            f"gateway: Envoy's memory, {FUNCTIONS} functions against 1",
            results.rss_mb[FUNCTIONS],
            results.rss_mb[1],
            "MB",
        ),
    ]


def serve(path: str) -> None:
    """Answer each request with one write, naming the socket."""
    body = Path(path).stem.encode().ljust(16)
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 16\r\n\r\n" + body

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            if data.endswith(b"\r\n\r\n"):
                self.transport.write(answer)

    async def main() -> None:
        listener = await asyncio.get_running_loop().create_unix_server(Server, path)
        await listener.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="load on each Envoy")
    parser.add_argument("--serve", metavar="SOCKET", help="be the upstream")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    results = uvloop.run(measure(options.seconds))
    print(render(table(results)))
    print(f"{FUNCTIONS} routes pushed and confirmed in {results.push_s:.2f} s")


if __name__ == "__main__":
    main()
