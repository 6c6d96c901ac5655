"""One worker against a bare httptools protocol: requests/s, latency, CPU per request, as ratios of one run.

The servers answer a hello request on unix sockets, each in a process of its own on one CPU; the load comes
from this process on another: 32 keep-alive connections, one request in flight on each. Servers take turns of
under a second, so that a neighbour's load on the machine hits all of them alike; the table shows medians over
the turns. `bare` reads a request as every server has to (method, target, headers, keep-alive) and writes a
canned answer; `canned` does not even look at the headers and is the floor under any server on this loop.
Ours is what a user writes, loaded through its convention; `no convention` is the worker alone.
Run: python -m bench.worker [--seconds 4] [--profile async|sync]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import uvloop

from bench.load import Load, quantile, turn, warm
from bench.machine import cpu_s, cpus, pin, pinned
from bench.table import Row, render, spread

if TYPE_CHECKING:
    from pelton.model.invocation import LoadedFunction

CONNECTIONS = 32
ROUNDS = 10
REQUEST = (
    b"GET /hello?name=bench HTTP/1.1\r\nhost: hello.default.localhost\r\n"
    b"user-agent: bench/1\r\naccept: */*\r\n\r\n"
)
BODY = b"Hello, world!\n"
OURS = {
    "async": "async hello",
    "sync": "sync hello",
    "sync-one": "sync hello, concurrency 1",
    "async-invocation": "async, no convention",
    "sync-invocation": "sync, no convention",
}
SERVERS = ("bare", "canned", *OURS)
_HELLO = "def hello(request):\n    return 'Hello, world!\\n'\n"


@dataclass
class Measured:
    """What the turns of one server showed."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)


@contextlib.contextmanager
def server(kind: str, folder: str, profile: bool = False) -> Iterator[tuple[int, str]]:
    path = f"{folder}/{kind}.sock"
    command = [sys.executable, "-m", "bench.worker", "--serve", kind, "--socket", path]
    if profile:
        command = [sys.executable, "-m", "cProfile", "-s", "tottime", *command[1:]]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while True:
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.connect(path)
                    break
                except OSError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise
                    time.sleep(0.02)
        yield process.pid, path
    finally:
        process.terminate()
        process.wait(10)


async def take_turn(path: str, seconds: float) -> tuple[Load, int]:
    return await turn(path, REQUEST, seconds=seconds, connections=CONNECTIONS)


def measure(seconds: float) -> dict[str, Measured]:
    """Let the servers take turns, `seconds` each in total."""
    results = {kind: Measured() for kind in SERVERS}
    servers, rest = cpus()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(pinned(rest))
        running = {kind: stack.enter_context(server(kind, folder)) for kind in SERVERS}
        pin([pid for pid, _path in running.values()], servers)

        async def drive() -> None:
            for _pid, path in running.values():  # warm up: caches, and sync code moving to the loop
                await warm(path, REQUEST)
                await take_turn(path, 0.1)
            for _ in range(ROUNDS):
                for kind, (pid, path) in running.items():
                    before = cpu_s(pid)
                    done, refused = await take_turn(path, seconds / ROUNDS)
                    results[kind].per_s.append(done.per_s)
                    results[kind].latencies_s.extend(done.latencies_s)
                    if not refused:  # else its CPU time is of more than this run
                        results[kind].cpu_us.append((cpu_s(pid) - before) / len(done.latencies_s) * 1e6)

        uvloop.run(drive())
    return results


def rows(seconds: float = 4.0) -> list[Row]:
    """Measure and return the lines for a table; about seven times `seconds` long."""
    results = measure(seconds)
    bare, canned = results["bare"], results["canned"]
    median = statistics.median
    table = []
    for kind, name in OURS.items():
        ours = results[kind]
        asked = ">= 0.6" if kind in ("async", "sync", "sync-one") else ""
        table.append(
            Row(
                f"worker, {name}: requests",
                median(ours.per_s),
                median(bare.per_s),
                "1/s",
                asked,
                spread(ours.per_s, bare.per_s),
                f"{median(ours.per_s) / median(canned.per_s):.2f} of a canned answer",
            )
        )
        table.append(
            Row(
                f"worker, {name}: CPU",
                median(ours.cpu_us),
                median(bare.cpu_us),
                "us/request",
                "",
                spread(ours.cpu_us, bare.cpu_us),
                f"canned answer: {median(canned.cpu_us):.1f} us",
            )
        )
        table += [
            Row(
                f"worker, {name}: p{share * 100:.0f}",
                quantile(ours.latencies_s, share) * 1e6,
                quantile(bare.latencies_s, share) * 1e6,
                "us",
            )
            for share in (0.5, 0.99)
        ]
    return table


# --- the servers ------------------------------------------------------------------------------------------


def serve_bare(path: str, *, canned: bool) -> None:
    """Answer as little as a server on the same parser and loop can."""
    import httptools

    answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (
        len(BODY),
        BODY,
    )

    class Canned(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)
            self.parser = httptools.HttpRequestParser(self)

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_url(self, url: bytes) -> None:
            self.url = url

        def on_message_complete(self) -> None:
            self.transport.write(answer)

    class Bare(Canned):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.headers: list[tuple[bytes, bytes]] = []

        def on_header(self, name: bytes, value: bytes) -> None:
            self.headers.append((name.lower(), value))

        def on_headers_complete(self) -> None:
            parser = self.parser
            self.request = (
                parser.get_method(),
                self.url,
                parser.get_http_version(),
                parser.should_keep_alive(),
                self.headers,
            )
            self.headers = []

    async def main() -> None:
        listener = await asyncio.get_running_loop().create_unix_server(Canned if canned else Bare, path)
        await listener.serve_forever()

    uvloop.run(main())


def serve_worker(path: str, *, sync: bool, convention: bool, concurrency: int) -> None:
    """Answer with the worker as it is deployed: load page, spool, gate, deadline, and a function's code."""
    from pelton.dataplane.load_page import LoadPage
    from pelton.dataplane.streams import Streams
    from pelton.dataplane.worker import Worker, WorkerSettings, run

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(256)
    spool = Streams(os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    settings = WorkerSettings(
        instance="hello-1", namespace="default", name="hello", revision="1", concurrency=concurrency
    )
    worker = Worker(settings, LoadPage(f"{path}.page", create=True), spool=spool)
    run(worker, _user_function(path, sync) if convention else _invocation_function(sync), [sock])


def _user_function(path: str, sync: bool) -> LoadedFunction:
    """Load what a user writes, through its convention."""
    from pelton.compat import gcf
    from pelton.model.invocation import Delivered, LoadRequest, Output

    def send(_output: Output) -> Delivered:
        raise NotImplementedError

    async def send_async(_output: Output) -> Delivered:
        raise NotImplementedError

    source = Path(path).with_suffix(".function") / "main.py"
    source.parent.mkdir()
    source.write_text(_HELLO if sync else f"async {_HELLO}")
    return gcf.load(
        LoadRequest(
            source=str(source), target="hello", signature="http", context={}, send=send, send_async=send_async
        )
    )


def _invocation_function(sync: bool) -> LoadedFunction:
    """Return the least that the worker can call: what a convention costs is the difference."""
    from pelton.model.invocation import Invocation, LoadedFunction, Reply

    headers = [(b"content-type", b"text/plain")]

    def hello(_invocation: Invocation) -> Reply:
        return Reply(200, headers, BODY)

    async def hello_async(_invocation: Invocation) -> Reply:
        return Reply(200, headers, BODY)

    call: Any = hello if sync else hello_async
    return LoadedFunction(call=call, sync=sync)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare one worker with a bare httptools protocol.")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--profile", choices=SERVERS)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--socket", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve in ("bare", "canned"):
        serve_bare(options.socket, canned=options.serve == "canned")
    elif options.serve:
        serve_worker(
            options.socket,
            sync=options.serve.startswith("sync"),
            convention=not options.serve.endswith("-invocation"),
            concurrency=1 if options.serve == "sync-one" else 0,
        )
    elif options.profile:
        with (
            tempfile.TemporaryDirectory() as folder,
            server(options.profile, folder, profile=True) as (_, path),
        ):
            uvloop.run(take_turn(path, options.seconds))
    else:
        print(render(rows(options.seconds)))


if __name__ == "__main__":
    main()
