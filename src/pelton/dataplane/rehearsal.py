"""A dress rehearsal in a spare process: one dummy request through the real worker, before anyone waits.

A forked child pays for every page that it writes first and every code path that runs first; measured, that is
most of what is left of a cold start once the fork is out of the way. The pages would be written by the first
request anyway, so this costs no memory. Called by `dataplane/template.py` in spares only.
"""

from __future__ import annotations

import asyncio
import os
import socket

import uvloop

from pelton.dataplane import wire
from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.streams import Streams
from pelton.dataplane.worker import Worker, WorkerSettings, keep_loop
from pelton.model.invocation import Invocation, LoadedFunction, Reply

__all__ = ["rehearse"]

_LIMIT_S = 2.0
_REQUEST = b"GET / HTTP/1.1\r\nhost: rehearsal\r\nx-request-id: rehearsal\r\n\r\n"


def rehearse() -> None:
    """Serve one request and one hello on a loop that the later worker goes on with."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    spool, page_fd = os.memfd_create("rehearsal"), os.memfd_create("rehearsal")
    streams, page = Streams(spool), LoadPage(page_fd, create=True)
    try:
        loop.run_until_complete(asyncio.wait_for(_play(streams, page), _LIMIT_S))
    except Exception:  # noqa: S110 -- a spare that could not rehearse is only slower
        pass
    finally:
        page.close()
        os.close(spool)
        os.close(page_fd)
    asyncio.set_event_loop(None)
    keep_loop(loop)


async def _play(streams: Streams, page: LoadPage) -> None:
    settings = WorkerSettings(instance="rehearsal", namespace="-", name="-", revision="-")
    worker = Worker(settings, page, spool=streams)
    http, control = _listener(), _listener()
    function = LoadedFunction(call=_answer, sync=True)
    serving = asyncio.create_task(worker.serve(function, [http], control, signals=False))
    try:
        peer = await wire.connect(control.getsockname().decode(), name="rehearsal")
        await peer.call("hello", {"role": "node"}, timeout=_LIMIT_S)
        reader, writer = await asyncio.open_unix_connection(http.getsockname().decode())
        writer.write(_REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await peer.close()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        http.close()
        control.close()


def _answer(invocation: Invocation) -> Reply:
    del invocation
    return Reply(body=b"ok")


def _listener() -> socket.socket:
    """Listen on a name that the kernel chooses: no file, gone with the socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.bind("")
    sock.listen(4)
    return sock
