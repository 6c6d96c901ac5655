"""The gateway against the same Envoy with a static file, before the same socket, as ratios of one run.

Two Envoys run side by side, one thread each on one CPU; the upstream and the load share the rest of the
machine. They take turns of under a second, so that a neighbour's load hits both alike; the table shows
medians over the turns. Then what only a dynamic gateway does: an endpoint change until the first request that
sees it, and memory, both at one function and at a thousand. Run: python -m bench.gateway [--seconds 4]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
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

from bench.load import Address, ask, load, quantile
from bench.worker import Row, cpu_s
from pelton.model.desired import Route
from pelton.targets.local.envoy import Gateway, Listener, bootstrap, envoy_command

CONNECTIONS = 32
ROUNDS = 7
FUNCTIONS = 1000
FLIPS = 50
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


def static_config(port: int, upstream: str, admin: str) -> dict[str, Any]:
    """Return what a careful person writes by hand: one listener, route and cluster, the same statistics."""
    prefix = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "hello",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "hello"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{prefix}.http.router.v3.Router"},
            }
        ],
    }
    ours = bootstrap(xds_socket="", admin_socket=admin)
    return {
        **{key: ours[key] for key in ("admin", "overload_manager", "stats_config", "stats_flush_on_admin")},
        "static_resources": {
            "listeners": [
                {
                    "name": "gateway",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {"filters": [{"name": "http", "typed_config": manager}]},
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "hello",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "hello",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": upstream}}}}]}
                        ],
                    },
                }
            ],
        },
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast("int", probe.getsockname()[1])


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


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
    cpus = sorted(os.sched_getaffinity(0))
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pb-"))
        upstreams = [f"{folder}/{name}.sock" for name in ("worker", "activator")]
        for path in upstreams:
            command = [sys.executable, "-m", "bench.gateway", "--serve", path]
            await stack.enter_async_context(running(command, path))
        ports = [free_port(), free_port()]
        gateway = await stack.enter_async_context(
            Gateway(
                xds_socket=f"{folder}/xds.sock",
                activator_socket=upstreams[1],
                listeners=[Listener(host="127.0.0.1", port=ports[1])],
                admin_socket=f"{folder}/admin.sock",
            )
        )
        await gateway.set_routes([route("hello")])
        await gateway.set_endpoints("default", "hello", upstreams[:1])
        commands = [
            envoy(folder, "static", static_config(ports[0], upstreams[0], f"{folder}/static-admin.sock")),
            envoy(
                folder,
                "pelton",
                bootstrap(xds_socket=f"{folder}/xds.sock", admin_socket=f"{folder}/admin.sock"),
            ),
        ]
        pids = []
        for command, port in zip(commands, ports, strict=True):
            pids.append(await stack.enter_async_context(running(command, ("127.0.0.1", port))))
            os.sched_setaffinity(pids[-1], cpus[:1])
            for task in Path(f"/proc/{pids[-1]}/task").iterdir():
                os.sched_setaffinity(int(task.name), cpus[:1])
        await take_turns(results, pids, ports, seconds)
        await flip(results, gateway, upstreams, ports[1], pids[1])
    return results


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


def rows(seconds: float = 4.0) -> list[Row]:
    """Measure and return the lines for a table; about four times `seconds` long."""
    return table(uvloop.run(measure(seconds)))


def table(results: Results) -> list[Row]:
    ours, peer = results.pelton, results.static
    median = statistics.median
    few, many = results.flips_s[1], results.flips_s[FUNCTIONS]
    return [
        Row("gateway: requests", median(ours.per_s), median(peer.per_s), "1/s", ">= 0.95"),
        Row("gateway: CPU", median(ours.cpu_us), median(peer.cpu_us), "us/request"),
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
    for row in table(results):
        print(f"{row.name:72} {row.ours:10.1f} {row.peer:10.1f} {row.unit:11} {row.ratio:6.2f}  {row.budget}")
    print(f"{FUNCTIONS} routes pushed and confirmed in {results.push_s:.2f} s")


if __name__ == "__main__":
    main()
