"""100 watchers of the API at 200 writes a second: how long from a write's answer to each watcher's event.

The API runs in a process of its own on a SQLite store; writer and watchers are one client process, so that
one clock measures. Watchers are keep-alive connections that read nothing but their stream.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from bench.load import quantile
from bench.table import Row

WATCHERS = 100
RATE = 200
SECONDS = 10
_MAPS = "/api/v1/namespaces/default/configmaps"


def rows() -> list[Row]:
    """Measure and return the lines for a table; about 15 s."""
    with tempfile.TemporaryDirectory() as place:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        server = context.Process(target=_serve, args=(place, theirs), daemon=True)
        server.start()
        try:
            port = ours.recv()
            took, late = uvloop.run(_measure(port))
        finally:
            server.terminate()
            server.join(5)
    note = f"{WATCHERS} watchers, {RATE} writes/s for {SECONDS} s, {len(took)} events, {late} writes late"
    return [
        Row("api: watch latency p99", quantile(took, 0.99) * 1e3, None, "ms", "ours <= 50", note=note),
        Row("api: watch latency p50", quantile(took, 0.5) * 1e3, None, "ms"),
    ]


def _serve(place: str, ready: Connection) -> None:
    uvloop.run(_server(Path(place), ready))


async def _server(place: Path, ready: Connection) -> None:
    from pelton.apiserver.calls import User
    from pelton.apiserver.server import ApiServer
    from pelton.apiserver.service import ApiService
    from pelton.apiserver.store import SqliteStore
    from pelton.apiserver.tokens import fixed
    from pelton.clock import SystemClock
    from pelton.log import get

    clock = SystemClock()
    async with SqliteStore(place / "store.db", clock=clock) as store:
        service = ApiService(
            store,
            authenticate=fixed({"t": User(name="bench")}),
            version="bench",
            log=get("bench"),
            clock=clock,
        )
        sock = socket.create_server(("127.0.0.1", 0))
        async with service, ApiServer(service.app, sock):
            ready.send(sock.getsockname()[1])
            await asyncio.Event().wait()


async def _measure(port: int) -> tuple[list[float], int]:
    """Return latencies in seconds, one per event and watcher, and how many writes were over 50 ms late."""
    sent: dict[str, float] = {}
    took: list[float] = []
    watchers = [await _watch(port) for _ in range(WATCHERS)]
    reading = [asyncio.create_task(_read(reader, sent, took)) for reader, _ in watchers]
    late = await _write(port, sent)
    async with asyncio.timeout(10):
        while len(took) < RATE * SECONDS * WATCHERS:
            await asyncio.sleep(0.05)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    for _, writer in watchers:
        writer.close()
    return took, late


async def _watch(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(_head("GET", f"{_MAPS}?watch=1"))
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def _read(reader: asyncio.StreamReader, sent: dict[str, float], took: list[float]) -> None:
    while True:
        line = await reader.readline()
        now = time.perf_counter()
        at = line.find(b'"name":"')
        if at >= 0:
            name = line[at + 8 : line.index(b'"', at + 8)].decode()
            took.append(now - sent[name])


async def _write(port: int, sent: dict[str, float]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began, late = time.perf_counter(), 0
    for number in range(RATE * SECONDS):
        due = began + number / RATE
        now = time.perf_counter()
        late += now - due > 0.05
        if due > now:
            await asyncio.sleep(due - now)
        name = f"c{number}"
        body = json.dumps(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v" * 200}}
        ).encode()
        sent[name] = time.perf_counter()
        writer.write(_head("POST", _MAPS, body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()
    return late


def _head(method: str, target: str, body: bytes = b"") -> bytes:
    return (
        f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
