"""A load generator for HTTP/1.1: keep-alive connections with one request in flight on each, raw protocol.

It counts bytes instead of parsing: every answer of a run has the same length, which `ask` finds out first.
That keeps its own share of the CPU small and equal for everyone who is measured. Used by the benchmarks
beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

__all__ = ["Address", "Load", "Refused", "ask", "load", "quantile", "turn", "warm"]

_LATE_S = 20.0
"""How much longer than asked a run may take before it counts as stuck."""

_FEW = 8
"""Connections that a function with concurrency 1 has room for: ten wait beside the one that runs."""
_WARM_S = 0.2
_ATTEMPTS = 4

Address = str | tuple[str, int]
"""Path of a unix socket, or host and port."""


class Refused(ConnectionError):
    """A server answered something else than what was asked for, closed a connection, or hangs."""


@dataclass
class Load:
    """What one run showed: seconds it took and the latency of each request, seconds."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.seconds


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as an answer is complete."""

    def __init__(self, request: bytes, size: int, until: float, latencies_s: list[float]) -> None:
        self.request = request
        self.size = size
        self.until = until
        self.latencies_s = latencies_s
        self.got = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.sent_at = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.got and not data.startswith(b"HTTP/1.1 200"):
            if not self.ended.done():
                self.ended.set_exception(Refused(f"the server answered {data[:40]!r} under load"))
            self.transport.abort()
            return
        self.got += len(data)
        if self.got < self.size:
            return
        self.got = 0
        now = time.perf_counter()
        self.latencies_s.append(now - self.sent_at)
        if now < self.until:
            self.sent_at = now
            self.transport.write(self.request)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ended.done():
            return
        if time.perf_counter() < self.until:
            self.ended.set_exception(Refused("the server closed a connection under load"))
        else:
            self.ended.set_result(None)


async def load(address: Address, request: bytes, *, seconds: float, connections: int, size: int) -> Load:
    """Keep `connections` busy for some seconds; `size` is the length of a whole answer, from `ask`."""
    result = Load()
    began = time.perf_counter()

    def factory() -> _Connection:
        return _Connection(request, size, began + seconds, result.latencies_s)

    running = [await _connect(factory, address) for _ in range(connections)]
    try:
        async with asyncio.timeout(seconds + _LATE_S):
            await asyncio.gather(*(connection.ended for connection in running))
    except TimeoutError:
        raise Refused(f"the server did not answer for {_LATE_S:g} s") from None
    finally:
        for connection in running:
            connection.transport.abort()
    result.seconds = time.perf_counter() - began
    return result


async def warm(address: Address, request: bytes, seconds: float = _WARM_S) -> None:
    """Let a server settle: fill caches, and let a worker find out that its sync code is fast.

    Until it has, a function with concurrency 1 runs on a thread, and more connections than its queue takes
    would be turned away.
    """
    size = len(await ask(address, request))
    await load(address, request, seconds=seconds, connections=_FEW, size=size)


async def turn(address: Address, request: bytes, *, seconds: float, connections: int) -> tuple[Load, int]:
    """Return one run and how many had to be given up before it.

    A server that turned a request away settles and is asked again: on a busy machine a call may seem slow,
    and a function with concurrency 1 then turns some away for a moment.
    """
    for refused in range(_ATTEMPTS):
        size = len(await ask(address, request))
        try:
            return await load(address, request, seconds=seconds, connections=connections, size=size), refused
        except Refused:
            if refused == _ATTEMPTS - 1:
                raise
            await warm(address, request)
    raise AssertionError


async def ask(address: Address, request: bytes) -> bytes:
    """Send one request on a connection of its own and return the whole answer; raises when it is not 200."""
    if isinstance(address, str):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise Refused(f"{address} answered {head[:40]!r}")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return head + await reader.readexactly(length)
    finally:
        writer.close()


def quantile(values: list[float], share: float) -> float:
    """Return the value below which a share (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _connect(factory: Callable[[], _Connection], address: Address) -> _Connection:
    loop = asyncio.get_running_loop()
    if isinstance(address, str):
        return (await loop.create_unix_connection(factory, address))[1]
    return (await loop.create_connection(factory, *address))[1]
