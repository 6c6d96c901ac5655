"""What a convention may say in the worker's place: refusals, other protocols, raw connections."""

import asyncio
import os
import socket

import pytest

from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.worker import Worker, WorkerSettings
from pelton.model.invocation import LoadedFunction, Reply


@pytest.fixture
async def start(tmp_path):
    """Serve a LoadedFunction on a unix socket; returns (worker, path, page)."""
    ends: list[tuple[asyncio.Task[None], LoadPage]] = []

    async def run(function, **settings):
        fd = os.memfd_create("page")
        page = LoadPage(fd, create=True)
        os.close(fd)
        path = str(tmp_path / f"{len(ends)}.sock")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        sock.setblocking(False)
        worker = Worker(WorkerSettings(instance="i", namespace="n", name="f", revision="r", **settings), page)
        ready = asyncio.Event()
        task = asyncio.create_task(worker.serve(function, [sock], None, on_ready=ready.set, signals=False))
        await ready.wait()
        ends.append((task, page))
        return worker, path, page

    yield run
    for task, page in ends:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        page.close()


async def ask(path, data, until=b""):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    answer = await (reader.readuntil(until) if until else reader.read())
    return reader, writer, answer


def refuse(status, text, invocation):
    return Reply(418, [(b"x-asked", invocation.target)], f"{status}".encode()) if status != 503 else None


async def slow(invocation):
    await asyncio.Event().wait()


async def test_convention_words_what_the_worker_refuses(start):
    function = LoadedFunction(call=slow, sync=False, refuse=refuse, body_limit_bytes=3)
    _, path, _ = await start(function, request_timeout_s=0.05)

    head = b"POST /long HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody"
    _, writer, answer = await ask(path, head)
    assert answer.startswith(b"HTTP/1.1 418 ")
    assert b"x-asked: /long" in answer and answer.endswith(b"413")
    writer.close()
    _, writer, answer = await ask(path, b"GET /slow HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 418 ") and answer.endswith(b"504")
    writer.close()


class Shout(asyncio.Protocol):
    """Answers in upper case."""

    def __init__(self, begin=None):
        self.end = begin() if begin else None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data.upper())

    def connection_lost(self, exc):
        if self.end:
            self.end()

    def shutdown(self):
        self.transport.close()


async def test_upgraded_connection_counts_as_in_flight_until_it_ends(start):
    def upgrade(invocation, transport, rest):
        if invocation.header(b"upgrade") != b"shout":
            return None
        shout = Shout()
        shout.connection_made(transport)
        shout.data_received(b"hello " + rest)
        return shout

    async def call(invocation):
        return Reply(200, body=b"plain")

    worker, path, page = await start(LoadedFunction(call=call, sync=False, upgrade=upgrade))
    head = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"

    reader, writer, answer = await ask(path, head % b"shout" + b"rest", until=b"REST")
    assert answer == b"HELLO REST"
    assert page.read().in_flight == 1
    writer.write(b"more")
    assert await reader.readexactly(4) == b"MORE"
    # Another protocol is answered in this one.
    _, other, answer = await ask(path, head % b"whisper", until=b"plain")
    assert answer.startswith(b"HTTP/1.1 200 ")
    other.close()
    # Draining asks the protocol to end, and waits for it.
    await asyncio.wait_for(worker.drain(5), 30)
    assert await reader.read() == b""
    assert page.read().in_flight == 0
    writer.close()


async def test_raw_connection_is_not_parsed_and_counted_as_its_protocol_says(start):
    function = LoadedFunction(call=slow, sync=False, raw=Shout)
    _, path, page = await start(function)

    _reader, writer, answer = await ask(path, b"pri * http/2.0", until=b"2.0")
    assert answer == b"PRI * HTTP/2.0"
    assert page.read().in_flight == 1
    writer.close()
    async with asyncio.timeout(30):
        while page.read().in_flight:
            await asyncio.sleep(0.001)


async def test_what_needs_no_user_code_is_answered_aside_of_a_full_gate(start):
    began = asyncio.Event()

    async def call(invocation):
        began.set()
        await asyncio.Event().wait()

    async def accepted():
        return Reply(202, [], b"later")

    async def broken():
        raise ValueError("no store")

    def aside(invocation):
        return {b"/later": accepted, b"/broken": broken}.get(invocation.target, lambda: None)()

    _, path, page = await start(LoadedFunction(call=call, sync=False, aside=aside), concurrency=1)
    _, busy = await asyncio.open_unix_connection(path)
    busy.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    await began.wait()

    _, writer, answer = await ask(path, b"GET /later HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 202 ") and answer.endswith(b"later")
    writer.close()
    _, writer, answer = await ask(path, b"GET /broken HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert page.read().in_flight == 1
    writer.close()
    busy.close()
