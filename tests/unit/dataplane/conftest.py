"""A worker on real sockets inside the test's loop, and a client that shows raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile

import pytest

from pelton.dataplane import wire
from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.streams import Streams
from pelton.dataplane.worker import Worker, WorkerSettings
from pelton.model.invocation import LoadedFunction

DEADLINE_S = 5.0


class Client:
    """One raw connection."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, data):
        self.writer.write(data)

    async def all(self):
        """Everything up to the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read(-1)

    async def until(self, ending):
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(ending)

    async def response(self):
        """(status, headers, body) of one response framed by content-length, or without a body."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:-2])
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            return int(head[0].split()[1]), headers, body

    async def get(self, path="/", *extra):
        lines = "".join(f"{line}\r\n" for line in extra)
        self.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
        return await self.response()

    def close(self):
        self.writer.close()


class Running:
    """A worker that serves, with its page, its spool and its sockets."""

    def __init__(self, folder, call, *, sync=False, tcp=False, control=False, loaded=None, **settings):
        self.folder = folder
        self.page = LoadPage(f"{folder}/page", create=True)
        self.spool_fd = os.open(f"{folder}/log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.spool = Streams(self.spool_fd)
        settings = {"instance": "f-1-abcde", "namespace": "n", "name": "f", "revision": "f-1", **settings}
        self.worker = Worker(WorkerSettings(**settings), self.page, spool=self.spool)
        self.function = LoadedFunction(call=call, sync=sync, **(loaded or {}))
        self.http = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        self.http.bind(("127.0.0.1", 0) if tcp else f"{folder}/http")
        self.address = self.http.getsockname()
        self.http.listen(64)
        self.control = None
        if control:
            self.control = socket.socket(socket.AF_UNIX)
            self.control.bind(f"{folder}/ctl")
            self.control.listen(8)
        self.peers = []
        self.clients = []

    async def start(self):
        ready = asyncio.Event()
        self.task = asyncio.create_task(
            self.worker.serve(self.function, [self.http], self.control, on_ready=ready.set, signals=False)
        )
        waiting = asyncio.create_task(ready.wait())
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self.task.done():
            await self.task

    async def connect(self):
        if isinstance(self.address, str):
            client = Client(*await asyncio.open_unix_connection(self.address))
        else:
            client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        return client

    async def ask(self, data):
        """Send bytes on a new connection and return everything that comes back."""
        client = await self.connect()
        client.send(data)
        try:
            return await client.all()
        finally:
            client.close()

    async def peer(self, handlers=None, role=None):
        peer = await wire.connect(f"{self.folder}/ctl", handlers or {})
        self.peers.append(peer)
        if role:
            await peer.call("hello", {"role": role})
        return peer

    def spooled(self):
        """The text of every line of output so far."""
        with open(f"{self.folder}/log", encoding="utf-8") as file:
            return [line.split("\t", 1)[-1] for line in file.read().split("\n")[:-1]]

    async def stop(self):
        for peer in self.peers:
            await peer.close()
        for client in self.clients:
            client.close()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.page.close()
        os.close(self.spool_fd)


@pytest.fixture
async def start_worker():
    """Start a worker: `await start_worker(call, sync=..., tcp=..., control=..., loaded=..., **settings)`."""
    running = []
    folders = []

    async def start(call, **options):
        folder = tempfile.mkdtemp(prefix="pw-")
        folders.append(folder)
        worker = Running(folder, call, **options)
        running.append(worker)
        await worker.start()
        return worker

    yield start
    for worker in running:
        await worker.stop()
    for folder in folders:
        shutil.rmtree(folder)


async def poll(condition):
    """Wait until a condition holds, at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(name="poll")
def poll_fixture():
    return poll
