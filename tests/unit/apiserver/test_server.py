"""The HTTPS server with real sockets on loopback: TLS, keep-alive, watches at shutdown, and load."""

import asyncio
import json
import socket
import ssl
import time
from datetime import UTC, datetime

import pytest

from pelton.apiserver import certificates
from pelton.apiserver.server import ApiServer
from pelton.apiserver.store import SqliteStore
from pelton.clock import SystemClock
from tests.contract import api
from tests.contract.store import function

HERE = "/apis/core.openfunction.io/v1beta2/namespaces/default/functions"


@pytest.fixture
def files(tmp_path):
    return certificates.ensure(tmp_path / "pki", now=datetime.now(UTC))


@pytest.fixture
async def server(tmp_path, files):
    async with SqliteStore(tmp_path / "store.db", clock=SystemClock()) as store:
        app = await api.application(store)
        async with ApiServer(app, socket.create_server(("127.0.0.1", 0)), files.cert, files.key) as server:
            yield server


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, method, target, body=b""):
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def answer(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def close(self):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass  # the server may have been first


async def connect(server, ca):
    context = ssl.create_default_context(cafile=ca)
    port = int(server.url.rpartition(":")[2])
    return Connection(*await asyncio.open_connection("127.0.0.1", port, ssl=context))


async def test_answers_over_tls_that_the_authority_vouches_for(server, files):
    connection = await connect(server, files.ca)
    for _ in range(2):  # the second on the same connection
        connection.send("GET", "/version")
        status, body = await connection.answer()
        assert (status, json.loads(body)["major"]) == (200, "1")
    await connection.close()

    assert server.url.startswith("https://127.0.0.1:")


async def test_client_without_the_authority_refuses(server):
    port = int(server.url.rpartition(":")[2])

    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())


async def test_server_stops_at_once_and_ends_open_watches_properly(tmp_path, files):
    async with SqliteStore(tmp_path / "store.db", clock=SystemClock()) as store:
        app = await api.application(store)
        connections = []
        async with ApiServer(app, socket.create_server(("127.0.0.1", 0)), files.cert, files.key) as server:
            for _ in range(5):
                connection = await connect(server, files.ca)
                connection.send("GET", f"{HERE}?watch=1")
                await connection.reader.readuntil(b"\r\n\r\n")
                connections.append(connection)
            connections.append(await connect(server, files.ca))  # idle
            started = time.monotonic()
        took = time.monotonic() - started
        ends = [await connection.reader.read() for connection in connections]
        for connection in connections:
            await connection.close()

    assert took < 5  # about 0.1 s on an idle machine
    assert ends[:5] == [b"0\r\n\r\n"] * 5  # the stream ended properly and was not cut


async def test_server_stops_although_a_client_does_not_read_its_answer(tmp_path, files):
    async with SqliteStore(tmp_path / "store.db", clock=SystemClock()) as store:
        for number in range(60):
            await store.create(
                "functions.core.openfunction.io", function(f"f{number}", annotations={"a": "x" * 250_000})
            )
        app = await api.application(store)
        async with ApiServer(app, socket.create_server(("127.0.0.1", 0)), files.cert, files.key) as server:
            connection = await connect(server, files.ca)
            connection.send("GET", HERE)
            await connection.reader.readexactly(1)
            started = time.monotonic()
        took = time.monotonic() - started
        await connection.close()

    assert took < 5


async def test_thousand_creates_over_tls_take_far_less_than_twenty_seconds(server, files, record_property):
    connections = [await connect(server, files.ca) for _ in range(4)]
    taken = []

    async def create(connection, names):
        for name in names:
            started = time.perf_counter()
            connection.send("POST", HERE, json.dumps(function(name)).encode())
            status, _ = await connection.answer()
            taken.append(time.perf_counter() - started)
            assert status == 201

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, connection in enumerate(connections):
            group.create_task(create(connection, [f"f{number}-{index}" for index in range(250)]))
    total = time.perf_counter() - started
    for connection in connections:
        await connection.close()

    taken.sort()
    record_property("total_s", total)
    print(f"1000 creates {total:.2f} s, p50 {taken[500] * 1e3:.1f} ms, p99 {taken[990] * 1e3:.1f} ms")
    assert total < 20
