"""A dress rehearsal: one dummy request through the real worker, before anyone waits.

A forked child pays for every page that it writes first and every code path that runs first; measured, that is
most of what is left of a cold start once the fork is out of the way. A spare rehearses on the loop that it
will go on with (`rehearse`, called by `dataplane/template.py`); its pages would be written by the first
request anyway, so that costs no memory. The zygote rehearses before its first fork (`settle`, called by
`cli/zygote.py`), so that what running code writes once is in pages that all children share.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
import time

import uvloop

from pelton.dataplane import wire
from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.streams import Streams
from pelton.dataplane.worker import Worker, WorkerSettings, keep_loop
from pelton.model.invocation import Invocation, LoadedFunction, Reply
from pelton.sdk import own_loop

__all__ = ["rehearse", "settle"]

_LIMIT_S = 2.0
_SETTLING = 3
"""Rehearsals after which the interpreter has specialised the code that every request runs."""
_BYTES_HEADER = 33
_REQUEST = b"GET / HTTP/1.1\r\nhost: rehearsal\r\nx-request-id: rehearsal\r\n\r\n"


def rehearse() -> None:
    """Serve one request and one hello on a loop that the later worker goes on with."""
    keep_loop(_rehearse(uvloop.new_event_loop()))


def settle() -> None:
    """Rehearse in a process that will be forked, and leave no gaps between its objects.

    Measured with hello functions: specialised code saves each child 0.6 MB of copied pages, no gaps 0.5 MB.
    Nothing stays but settled memory: no loop, no descriptor, and no thread.
    """
    for _ in range(_SETTLING):
        # Not uvloop's: what that library makes once per process does not survive `fork` and `closerange`.
        _rehearse(asyncio.new_event_loop()).close()
    deadline = time.monotonic() + _LIMIT_S
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    gc.collect()
    _fill_gaps()


_fillers: list[object] = []


def _fill_gaps() -> None:
    """Use up the free blocks of half-used pages: a child's small objects would go there and copy them all.

    What the allocator says of itself is only printed, to descriptor 2. Where it says nothing that can be
    read, nothing is filled, and children only take more memory.
    """
    said, kept = os.memfd_create("allocator"), os.dup(2)
    try:
        os.dup2(said, 2)
        sys._debugmallocstats()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    text = os.pread(said, 1 << 20, 0).decode("ascii", "replace")
    os.close(said)
    for line in text.splitlines():
        words = line.split()  # class, size of a block, pools, blocks in use, free blocks in pools in use
        if len(words) == 5 and all(word.isdecimal() for word in words):
            size, free = int(words[1]), int(words[4])
            if size > _BYTES_HEADER:
                _fillers.extend(bytes(size - _BYTES_HEADER) for _ in range(free))
            elif size == 32:
                _fillers.extend(complex(number, 1) for number in range(free))


def _rehearse(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
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
    own_loop.rearm()
    return loop


async def _play(streams: Streams, page: LoadPage) -> None:
    settings = WorkerSettings(instance="rehearsal", namespace="-", name="-", revision="-")
    worker = Worker(settings, page, spool=streams)
    http, control = _listener(), _listener()
    function = LoadedFunction(call=_answer, sync=True)
    serving = asyncio.create_task(worker.serve(function, [http], control, signals=False))
    try:
        peer = await wire.connect(_connected(control), name="rehearsal")
        await peer.call("hello", {"role": "node"}, timeout=_LIMIT_S)
        reader, writer = await asyncio.open_unix_connection(sock=_connected(http))
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


def _connected(listener: socket.socket) -> socket.socket:
    # By hand: the event loop takes no address that begins with a zero byte, as those that the kernel chooses.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.connect(listener.getsockname())
    return sock


def _listener() -> socket.socket:
    """Listen on a name that the kernel chooses: no file, gone with the socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.bind("")
    sock.listen(4)
    return sock
