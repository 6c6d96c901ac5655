"""Large bodies on one worker: 1 MB in and 1 MB out against a bare httptools protocol, and memory over time.

The bare protocol does what has to be done with a body: it collects the pieces and joins them once. Ours is a
user's function, loaded through its convention, that asks for the whole body. Servers take turns on one CPU,
the load comes from another, 8 connections. Then one worker takes 10,000 requests of 100 KB and answers with
as much, and its memory is looked at on the way.
Run: python -m bench.bodies [--seconds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from bench.load import ask, load, warm
from bench.machine import cpu_s, cpus, pin, pinned, rss_mb
from bench.peers import write_function
from bench.served import Server, process_on, start_worker
from bench.table import Row, render, spread

CONNECTIONS = 8
ROUNDS = 8
BIG = 1_000_000
"""Bytes of a large body."""
REQUESTS = 10_000
SMALL = 100_000
"""Bytes of a body where memory is watched."""
_STEPS = 20
_FIRST = 500
"""Requests before the first look at memory: by then every connection has had its buffers."""

_TAKE = f"""
ANSWER = bytes({BIG})


def take(request):
    if request.path == "/in":
        return str(len(request.get_data()))
    if request.path == "/out":
        return ANSWER
    return request.get_data()
"""
FUNCTIONS = {"sync": _TAKE, "async": _TAKE.replace("def take", "async def take")}
REQUESTS_OF = {
    "in": b"POST /in HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (BIG, bytes(BIG)),
    "out": b"GET /out HTTP/1.1\r\nhost: a\r\n\r\n",
    "echo": b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (SMALL, bytes(SMALL)),
}
_WORDS = {"in": "request bodies of 1 MB", "out": "answers of 1 MB"}


@dataclass
class Measured:
    """What the turns of one server showed for one kind of request: MB/s (10^6 bytes), CPU us per MB."""

    mb_per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


def rows(seconds: float = 3.0) -> list[Row]:
    """Measure and return the lines for a table; six times `seconds`, and about 10 s more."""
    with tempfile.TemporaryDirectory(prefix="pb-") as folder, _servers(Path(folder)) as servers:
        found = uvloop.run(_take_turns(servers, seconds))
        memory = uvloop.run(_watch_memory(servers["sync"]))
    median = statistics.median
    table = []
    for direction, words in _WORDS.items():
        bare = found["bare", direction]
        for kind in FUNCTIONS:
            ours = found[kind, direction]
            table += [
                Row(
                    f"{words}, {kind}",
                    median(ours.mb_per_s),
                    median(bare.mb_per_s),
                    "MB/s",
                    ">= 0.8",
                    spread(ours.mb_per_s, bare.mb_per_s),
                ),
                Row(
                    f"{words}, {kind}: CPU",
                    median(ours.cpu_us),
                    median(bare.cpu_us),
                    "us/MB",
                    "",
                    spread(ours.cpu_us, bare.cpu_us),
                ),
            ]
    first, last = memory[0], memory[-1]
    table.append(
        Row(
            f"worker's memory over {REQUESTS} requests of {SMALL // 1000} KB, last against first, RSS",
            last,
            first,
            "MB",
            "<= 1.05",
            note=f"first after {_FIRST} requests; least {min(memory):.1f}, most {max(memory):.1f}",
        )
    )
    return table


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[dict[str, Server]]:
    measured, rest = cpus()
    with contextlib.ExitStack() as stack:
        running = {
            "bare": stack.enter_context(
                process_on(f"{folder}/bare.sock", ["-m", "bench.bodies", "--serve", f"{folder}/bare.sock"])
            )
        }
        for kind, code in FUNCTIONS.items():
            source = write_function(folder / kind, code)
            running[kind] = stack.enter_context(start_worker(source, f"{folder}/{kind}.sock", "gcf", "take"))
        stack.enter_context(pinned(rest))
        for server in running.values():
            server.wait()
            pin([server.process.pid], measured)
        yield running


async def _take_turns(servers: dict[str, Server], seconds: float) -> dict[tuple[str, str], Measured]:
    found = {(kind, direction): Measured() for kind in servers for direction in _WORDS}
    sizes = {}
    for kind, server in servers.items():
        for direction in _WORDS:
            sizes[kind, direction] = len(await ask(server.path, REQUESTS_OF[direction]))
            await warm(server.path, REQUESTS_OF[direction])
    for _ in range(ROUNDS):
        for (kind, direction), measured in found.items():
            server = servers[kind]
            before = cpu_s(server.process.pid)
            done = await load(
                server.path,
                REQUESTS_OF[direction],
                seconds=seconds / ROUNDS,
                connections=CONNECTIONS,
                size=sizes[kind, direction],
            )
            megabytes = len(done.latencies_s) * BIG / 1e6
            measured.mb_per_s.append(megabytes / done.seconds)
            measured.cpu_us.append((cpu_s(server.process.pid) - before) / megabytes * 1e6)
    return found


async def _watch_memory(server: Server) -> list[float]:
    """Return RSS in MB after the first requests and then at regular distances."""
    request = REQUESTS_OF["echo"]
    size = len(await ask(server.path, request))
    found: list[float] = []
    count, due = 0, _FIRST
    while count < REQUESTS:
        done = await load(server.path, request, seconds=0.05, connections=CONNECTIONS, size=size)
        count += len(done.latencies_s)
        if count >= due:
            found.append(rss_mb(server.process.pid))
            due = count + REQUESTS // _STEPS
    return [*found, rss_mb(server.process.pid)]


def serve_bare(path: str) -> None:
    """Collect bodies, and answer with their length, with 1 MB, or with the same."""
    import httptools

    big = bytes(BIG)

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)
            self.parser = httptools.HttpRequestParser(self)
            self.headers: list[tuple[bytes, bytes]] = []
            self.pieces: list[bytes] = []

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_url(self, url: bytes) -> None:
            self.url = url

        def on_header(self, name: bytes, value: bytes) -> None:
            self.headers.append((name.lower(), value))

        def on_body(self, piece: bytes) -> None:
            self.pieces.append(piece)

        def on_message_complete(self) -> None:
            body = b"".join(self.pieces)
            self.pieces = []
            self.headers = []
            answer = {b"/in": b"%d" % len(body), b"/out": big}.get(self.url, body)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(answer)
            if len(answer) < 1000:
                self.transport.write(head + answer)
            else:
                self.transport.write(head)
                self.transport.write(answer)

    async def main() -> None:
        listener = await asyncio.get_running_loop().create_unix_server(Bare, path)
        await listener.serve_forever()

    uvloop.run(main())


def main() -> None:
    """Print the rows, or be the peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--serve", metavar="SOCKET", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_bare(options.serve)
    else:
        print(render(rows(options.seconds)))


if __name__ == "__main__":
    main()
