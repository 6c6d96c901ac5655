"""What the runtime adds to a publish, a state save and a state get, against what Dapr publishes of itself.

Sixteen connections send 1 KB at a steady rate. Ours is the runtime with topics and state in memory and in
SQLite, over HTTP and gRPC; the same client also calls a server of the same kind that answers at once, and
what ours takes longer is what is added. Dapr's figures are its own: publish 0.60 ms at p50 and 1.87 ms at
p99, state get 0.57 and 1.65 ms. The client shares the machine. Memory: 50 apps, each called once, against 50
sidecars of 50 MB.
Run: python -m bench.dapr_api [--seconds 8] [--rate 500]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from bench.machine import cpu_s, cpus, pin
from bench.table import Row, render
from pelton.proto import dapr_runtime_pb2 as pb

CONNECTIONS = 16
TURNS = 4
APPS = 50
BODY = b'{"x":"' + b"y" * 1000 + b'"}'
PUBLISHED = {"publish": (0.60, 1.87), "state get": (0.57, 1.65), "state save": (None, None)}
"""Operation -> Dapr's own added latency at p50 and p99, ms; None where nothing is published."""
_READY_S = 30
_SERVICE = "/dapr.proto.runtime.v1.Dapr/"

Call = Callable[[], Awaitable[object]]


# ---- servers -----------------------------------------------------------------------------------------------


class _Bare(asyncio.Protocol):
    """Answers a request as soon as it is there; one at a time, as the client sends them."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._got = b""

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, mark, body = self._got.partition(b"\r\n\r\n")
        if not mark:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length:
            self._got = b""
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """Answers every call with nothing."""

    def service(self, details: Any) -> Any:
        async def answer(_request: bytes, _context: Any) -> bytes:
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


async def _serve_direct() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    http = await asyncio.get_running_loop().create_server(_Bare, "127.0.0.1", 0)
    await _told({"ports": [[http.sockets[0].getsockname()[1], port]]})
    await server.stop(0)


async def _serve_runtime(apps: int, folder: Path) -> None:
    from pelton.cli.dapr_host import AppPorts, DaprHost
    from pelton.cli.dapr_resources import Resources
    from pelton.cli.state_stores import StateStores
    from pelton.clock import SystemClock
    from pelton.compat.dapr.apps import App
    from pelton.drivers.memory import MemoryBus
    from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem

    bus = MemoryBus(max_messages=1000)
    clock = SystemClock()

    async def bus_of(_component: object) -> MemoryBus:
        return bus

    def component(name: str, kind: str, **settings: str) -> ComponentResource:
        items = tuple(MetadataItem(name=key, value=value) for key, value in settings.items())
        return ComponentResource(name=name, spec=ComponentSpec(type=kind, metadata=items))

    async with DaprHost(bus_of=bus_of, ledger=bus, clock=clock, stores=StateStores(clock, folder)) as host:
        host.sync(
            Resources(
                components=(
                    component("bus", "pubsub.in-memory"),
                    component("memory", "state.in-memory"),
                    component("sqlite", "state.sqlite", connectionString=str(folder / "state.db")),
                )
            )
        )
        ports = []
        for number in range(apps):
            bound = await host.serve(App(app_id=f"app-{number}"), None, AppPorts())
            ports.append([bound.http, bound.grpc])
        await _told({"ports": ports})


async def _serve_apps(folder: Path, http: int, rpc: int) -> None:
    from bench.dapr_apps import serve

    await _told({"ports": await serve(folder, http, rpc)})


async def _told(facts: dict[str, Any]) -> None:
    """Tell the parent and wait until it closes our input."""
    print(json.dumps(facts), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class Server:
    """A server's process, on the CPU of those that are measured."""

    def __init__(self, kind: str, folder: str, apps: int = 1, callees: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bench.dapr_api",
                "--serve",
                kind,
                "--folder",
                folder,
                "--apps",
                str(apps),
                "--callees",
                ",".join(map(str, callees)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert self.process.stdout is not None
        self.ports: list[list[int]] = json.loads(self.process.stdout.readline())["ports"]
        pin([self.process.pid], cpus()[0])

    def rss_mib(self) -> float:
        """Return the memory it has, MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


@contextlib.contextmanager
def server(kind: str, apps: int = 1, callees: Sequence[int] = ()) -> Iterator[Server]:
    """Start one; `callees` are the HTTP and gRPC ports of apps that it can call."""
    with tempfile.TemporaryDirectory() as folder:
        found = Server(kind, folder, apps, callees)
        try:
            yield found
        finally:
            found.close()


# ---- the client --------------------------------------------------------------------------------------------


class Http:
    """Connections that each carry one request at a time.

    Args:
        port: On 127.0.0.1, or the path of a unix socket.
    """

    async def __aenter__(self) -> Http:
        return self

    def __init__(self, port: int | str) -> None:
        self._port = port
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def open(self) -> None:
        """Connect."""
        for _ in range(CONNECTIONS):
            self._free.put_nowait(
                await asyncio.open_unix_connection(self._port)
                if isinstance(self._port, str)
                else await asyncio.open_connection("127.0.0.1", self._port)
            )

    async def __aexit__(self, *_exc: object) -> None:
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    def call(self, method: str, path: str, body: bytes = b"") -> Call:
        """Return what sends a request and waits for its answer."""
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        sent = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

        async def send() -> None:
            reader, writer = await self._free.get()
            writer.write(sent)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not answer.startswith((b"http/1.1 20",)):
                raise RuntimeError(f"{path}: {answer[:60]!r}")
            _, mark, rest = answer.partition(b"content-length:")
            if mark:
                await reader.readexactly(int(rest.partition(b"\r\n")[0]))
            self._free.put_nowait((reader, writer))

        return send


def grpc_call(channel: Any, name: str, request: Any) -> Call:
    """Return what calls a method of the Dapr service."""
    method = channel.unary_unary(_SERVICE + name)
    sent = request.SerializeToString()

    async def send() -> None:
        await method(sent)

    return send


async def load(call: Call, *, rate: float, seconds: float) -> list[float]:
    """Call at a steady rate, at most CONNECTIONS at once; returns milliseconds of each call."""
    took: list[float] = []
    room = asyncio.Semaphore(CONNECTIONS)
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        async with room:
            began = time.perf_counter()
            await call()
            took.append((time.perf_counter() - began) * 1000)

    began, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        while sent < passed * rate:
            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.0005)
    await asyncio.gather(*tasks)
    return took


async def _calls(http: Http, channels: Any, store: str) -> dict[tuple[str, str], Call]:
    """Return (protocol, operation) -> call."""
    saved = [{"key": "k", "value": json.loads(BODY)}]
    save = pb.SaveStateRequest(store_name=store)
    save.states.add(key="k", value=BODY)
    return {
        ("HTTP", "publish"): http.call("POST", "/v1.0/publish/bus/t", BODY),
        ("HTTP", "state save"): http.call("POST", f"/v1.0/state/{store}", json.dumps(saved).encode()),
        ("HTTP", "state get"): http.call("GET", f"/v1.0/state/{store}/k"),
        ("gRPC", "publish"): grpc_call(
            channels,
            "PublishEvent",
            pb.PublishEventRequest(
                pubsub_name="bus", topic="t", data=BODY, data_content_type="application/json"
            ),
        ),
        ("gRPC", "state save"): grpc_call(channels, "SaveState", save),
        ("gRPC", "state get"): grpc_call(channels, "GetState", pb.GetStateRequest(store_name=store, key="k")),
    }


async def _measure(
    ours: Server, direct: Server, store: str, rate: float, seconds: float
) -> dict[tuple[str, str], tuple[list[float], list[float], float]]:
    """Return (protocol, operation) -> ours, direct (ms of each call), CPU microseconds of ours for each."""
    found: dict[tuple[str, str], tuple[list[float], list[float], float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for side in (ours, direct):
            http = await stack.enter_async_context(Http(side.ports[0][0]))
            await http.open()
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{side.ports[0][1]}")
            )
            sides.append(await _calls(http, channel, store))
        for name in sides[0]:
            took: tuple[list[float], list[float]] = ([], [])
            used = 0.0
            await load(sides[0][name], rate=rate, seconds=0.2)
            await load(sides[1][name], rate=rate, seconds=0.2)
            for _ in range(TURNS):
                for index, calls in enumerate(sides):
                    before = cpu_s(ours.process.pid)
                    took[index].extend(await load(calls[name], rate=rate, seconds=seconds / TURNS / 2))
                    if not index:
                        used += cpu_s(ours.process.pid) - before
            found[name] = (took[0], took[1], used / len(took[0]) * 1e6)
    return found


def at_share(took: list[float], share: float) -> float:
    """Return the quantile of some measurements."""
    return sorted(took)[min(len(took) - 1, int(len(took) * share))]


def rows(seconds: float = 2.0, rate: float = 500.0) -> list[Row]:
    """Measure and return the lines for a table; about 15 times `seconds` long."""
    table: list[Row] = []
    servers, rest = cpus()
    pin([os.getpid()], rest or servers)
    with server("direct") as direct, server("runtime") as ours:
        for store in ("memory", "sqlite"):
            found = uvloop.run(_measure(ours, direct, store, rate, seconds))
            for (protocol, operation), (took, bare, used) in found.items():
                if store == "sqlite" and operation == "publish":
                    continue
                where = f", {store}" if operation != "publish" else ""
                for label, share, peer in zip(("p50", "p99"), (0.5, 0.99), PUBLISHED[operation], strict=True):
                    added = at_share(took, share) - at_share(bare, share)
                    goal = "<= 1" if label == "p50" and peer and store == "memory" else ""
                    table.append(
                        Row(
                            f"Dapr API, {operation} over {protocol}{where}: added at {label}",
                            added,
                            peer,
                            "ms",
                            budget=goal,
                            note=f"{statistics.median(took):.2f} ms in all, {used:.0f} us of CPU a call",
                        )
                    )
    with server("runtime", APPS) as many:
        uvloop.run(_each(many))
        table.append(
            Row(
                f"{APPS} Dapr apps on one runtime: memory",
                many.rss_mib(),
                APPS * 50.0,
                "MiB",
                budget="<= 0.2",
                note="the peer is 50 MB for each sidecar",
            )
        )
    return table


async def _each(many: Server) -> None:
    """Let every app save a value over HTTP and read it over gRPC."""
    for http_port, grpc_port in many.ports:
        async with (
            Http(http_port) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
        ):
            await http.open()
            calls = await _calls(http, channel, "memory")
            await calls["HTTP", "state save"]()
            await calls["gRPC", "state get"]()


def main() -> None:
    """Print the table, or serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.dapr_api", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--apps", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--callees", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "direct":
        uvloop.run(_serve_direct())
    elif options.serve == "apps":
        uvloop.run(_serve_apps(Path(options.folder), *map(int, options.callees.split(","))))
    elif options.serve:
        uvloop.run(_serve_runtime(options.apps, Path(options.folder)))
    else:
        print(render(rows(options.seconds, options.rate)))


if __name__ == "__main__":
    main()
