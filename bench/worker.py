"""One worker against a bare httptools protocol: requests/s, latency, CPU per request, as ratios of one run.

The servers answer a hello request on unix sockets, each in a process of its own on one CPU; the load comes
from this process on another: 32 keep-alive connections, one request in flight on each. Servers take turns of
under a second, so that a neighbour's load on the machine hits all of them alike; the table shows medians over
the turns. `bare` reads a request as every server has to (method, target, headers, keep-alive) and writes a
canned answer; `canned` does not even look at the headers and is the floor under any server on this loop.
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
from typing import Any, cast

import uvloop

CONNECTIONS = 32
ROUNDS = 5
REQUEST = (
    b"GET /hello?name=bench HTTP/1.1\r\nhost: hello.default.localhost\r\n"
    b"user-agent: bench/1\r\naccept: */*\r\n\r\n"
)
BODY = b"Hello, world!\n"
SERVERS = ("bare", "canned", "async", "sync")


@dataclass
class Measured:
    """What the turns of one server showed."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def quantile_us(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e6


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against the peer; `ratio` is how many times ours is the peer's."""

    name: str
    ours: float
    peer: float
    unit: str
    budget: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.peer


class Client(asyncio.Protocol):
    """Sends the next request when an answer is complete; all answers of a server have the same length."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.size = turn.size
        self.got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.got += len(data)
        if self.got < self.size:
            return
        self.got = 0
        turn = self.turn
        now = time.perf_counter()
        turn.latencies_s.append(now - self.sent_at)
        if now < turn.until:
            self.sent_at = now
            self.transport.write(REQUEST)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.turn.open -= 1
        if not self.turn.open:
            self.turn.over.set()


class Turn:
    """One server under load for a while."""

    def __init__(self, seconds: float, size: int) -> None:
        self.until = time.perf_counter() + seconds
        self.size = size
        self.latencies_s: list[float] = []
        self.open = CONNECTIONS
        self.over = asyncio.Event()


def answer_size(path: str) -> int:
    """Ask once and return the length of a whole answer in bytes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(REQUEST)
        data = b""
        while not data.endswith(BODY):
            data += sock.recv(65536)
        return len(data)


async def take_turn(path: str, seconds: float) -> Turn:
    turn = Turn(seconds, answer_size(path))
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_unix_connection(lambda: Client(turn), path)
    await turn.over.wait()
    return turn


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    coarse = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9 if total else coarse


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


def measure(seconds: float) -> dict[str, Measured]:
    """Let the servers take turns, `seconds` each in total."""
    results = {kind: Measured() for kind in SERVERS}
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, cpus[1:])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        running = {kind: stack.enter_context(server(kind, folder)) for kind in SERVERS}
        if len(cpus) > 1:
            for pid, _path in running.values():
                os.sched_setaffinity(pid, cpus[:1])

        async def drive() -> None:
            for _pid, path in running.values():  # warm up: caches, and sync code moving to the loop
                await take_turn(path, 0.2)
            for _ in range(ROUNDS):
                for kind, (pid, path) in running.items():
                    before, began = cpu_s(pid), time.perf_counter()
                    turn = await take_turn(path, seconds / ROUNDS)
                    took = time.perf_counter() - began
                    done = len(turn.latencies_s)
                    results[kind].per_s.append(done / took)
                    results[kind].cpu_us.append((cpu_s(pid) - before) / done * 1e6)
                    results[kind].latencies_s.extend(turn.latencies_s)

        uvloop.run(drive())
    os.sched_setaffinity(0, cpus)
    return results


def rows(seconds: float = 4.0) -> list[Row]:
    """Measure and return the lines for a table; about four times `seconds` long."""
    results = measure(seconds)
    bare, canned = results["bare"], results["canned"]
    median = statistics.median
    table = []
    for kind in ("async", "sync"):
        ours = results[kind]
        name = f"worker, {kind} hello"
        table += [
            Row(f"{name}: requests", median(ours.per_s), median(bare.per_s), "1/s", ">= 0.6"),
            Row(f"{name}: CPU", median(ours.cpu_us), median(bare.cpu_us), "us/request"),
            Row(f"{name}: p50", ours.quantile_us(0.5), bare.quantile_us(0.5), "us"),
            Row(f"{name}: p99", ours.quantile_us(0.99), bare.quantile_us(0.99), "us"),
            Row(f"{name}: against canned", median(ours.per_s), median(canned.per_s), "1/s"),
            Row(f"{name}: CPU against canned", median(ours.cpu_us), median(canned.cpu_us), "us/request"),
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


def serve_worker(path: str, *, sync: bool) -> None:
    """Answer with the worker as it is deployed: load page, spool, gate, deadline."""
    from pelton.dataplane.load_page import LoadPage
    from pelton.dataplane.streams import Streams
    from pelton.dataplane.worker import Worker, WorkerSettings, run
    from pelton.model.invocation import Invocation, LoadedFunction, Reply

    headers = [(b"content-type", b"text/plain")]

    def hello(_invocation: Invocation) -> Reply:
        return Reply(200, headers, BODY)

    async def hello_async(_invocation: Invocation) -> Reply:
        return Reply(200, headers, BODY)

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(256)
    spool = Streams(os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    settings = WorkerSettings(instance="hello-1", namespace="default", name="hello", revision="1")
    worker = Worker(settings, LoadPage(f"{path}.page", create=True), spool=spool)
    call: Any = hello if sync else hello_async
    run(worker, LoadedFunction(call=call, sync=sync), [sock])


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
        serve_worker(options.socket, sync=options.serve == "sync")
    elif options.profile:
        with (
            tempfile.TemporaryDirectory() as folder,
            server(options.profile, folder, profile=True) as (_, path),
        ):
            uvloop.run(take_turn(path, options.seconds))
    else:
        print(f"{'':38}{'ours':>12}{'peer':>12}  {'unit':12}{'ratio':>7}  budget")
        for row in rows(options.seconds):
            print(
                f"{row.name:38}{row.ours:12.1f}{row.peer:12.1f}  {row.unit:12}{row.ratio:7.2f}  {row.budget}"
            )


if __name__ == "__main__":
    main()
