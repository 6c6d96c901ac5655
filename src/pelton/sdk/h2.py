"""HTTP/2 connections passed through unparsed, and how many streams are open on them.

A gRPC server behind a worker or the activator speaks for itself: bytes are copied both ways, and of each
frame only its nine header bytes are looked at, so that the load page and the queue know what runs. Header
blocks stay compressed: nobody here knows paths or statuses. Used by `compat/process.py` (worker to program)
and `dataplane/activator.py` (gateway to worker).
Source: RFC 9113, sections 4.1, 5.1, 6.8; RFC 7541, section 6.2.2 for the one answer that is written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

__all__ = ["FrameScanner", "Splice", "StreamCount", "refusal"]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
_END_STREAM: Final = 1
_END_HEADERS: Final = 4
_ACK: Final = 1
_HEADER_BYTES: Final = 9
_LARGEST_STREAM: Final = 2**31 - 1
_HIGH_BYTES: Final = 256 * 1024


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


_FAREWELL: Final = _frame(GOAWAY, 0, 0, _LARGEST_STREAM.to_bytes(4, "big") + bytes(4))
"""Takes no more new streams, and lets those go on that are under way: RFC 9113, 6.8."""


class FrameScanner:
    """Finds frame headers in one direction of a connection.

    Args:
        frame: Called with (type, flags, stream) for each frame when its header is complete; for GOAWAY when
            its payload has come, with the last stream that the peer will process.
        skip: Bytes before the first frame.
    """

    __slots__ = ("_frame", "_goaway", "_head", "_skip")

    def __init__(self, frame: Callable[[int, int, int], None], *, skip: int = 0) -> None:
        self._frame = frame
        self._skip = skip
        self._head = b""
        self._goaway: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        at, size = 0, len(data)
        while at < size:
            if self._skip:
                step = min(self._skip, size - at)
                if self._goaway is not None:
                    self._goaway += data[at : at + step]
                at += step
                self._skip -= step
                if self._goaway is not None and not self._skip:
                    last = int.from_bytes(self._goaway[:4], "big") & _LARGEST_STREAM
                    self._goaway = None
                    self._frame(GOAWAY, 0, last)
                continue
            head = self._head + data[at : at + _HEADER_BYTES - len(self._head)]
            at += len(head) - len(self._head)
            if len(head) < _HEADER_BYTES:
                self._head = head
                return
            self._head = b""
            self._skip = int.from_bytes(head[:3], "big")
            if head[3] == GOAWAY:
                self._goaway = b""
            else:
                self._frame(head[3], head[4], int.from_bytes(head[5:], "big") & _LARGEST_STREAM)


class StreamCount:
    """Which streams of a connection are open.

    Args:
        begin: Called for each stream that opens; what it returns is called once when the stream has ended.
    """

    __slots__ = ("_begin", "_last", "_open", "client", "server")

    def __init__(self, begin: Callable[[], Callable[[], None]]) -> None:
        self._begin = begin
        self._open: dict[int, tuple[Callable[[], None], list[int]]] = {}
        self._last = 0
        self.client = FrameScanner(self._from_client, skip=len(PREFACE))
        self.server = FrameScanner(self._from_server)

    @property
    def open(self) -> tuple[int, ...]:
        """Ids of the open streams."""
        return tuple(self._open)

    def _from_client(self, kind: int, flags: int, stream: int) -> None:
        if kind == HEADERS and stream > self._last and stream & 1:
            self._last = stream
            self._open[stream] = (self._begin(), [0])
        self._ended(kind, flags, stream, 1)

    def _from_server(self, kind: int, flags: int, stream: int) -> None:
        if kind == GOAWAY:  # what lies above was not looked at, and the client will try it elsewhere
            for one in [one for one in self._open if one > stream]:
                self._close(one)
            return
        self._ended(kind, flags, stream, 2)

    def _ended(self, kind: int, flags: int, stream: int, side: int) -> None:
        if kind == RST_STREAM:
            self._close(stream)
        elif flags & _END_STREAM and kind in (HEADERS, DATA) and stream in self._open:
            sides = self._open[stream][1]
            sides[0] |= side
            if sides[0] == 3:
                self._close(stream)

    def _close(self, stream: int) -> None:
        found = self._open.pop(stream, None)
        if found is not None:
            found[0]()

    def close(self) -> None:
        """End all streams: the connection is gone."""
        for stream in self.open:
            self._close(stream)


def refusal(streams: tuple[int, ...], text: str, *, retry_after_s: int = 1) -> bytes:
    """Return a server's side of a connection that answers all streams with 503, in HTTP and in gRPC.

    Args:
        streams: Their ids.
        text: Why; one line.
        retry_after_s: Seconds.
    """
    message = "".join(
        c if " " <= c <= "~" and c != "%" else "".join(f"%{b:02X}" for b in c.encode()) for c in text
    )
    block = b"\x08\x03503"  # :status, literal value without indexing
    for name, value in (
        ("content-length", "0"),
        ("retry-after", str(retry_after_s)),
        ("grpc-status", "14"),
        ("grpc-message", message[:1024]),
    ):
        block += b"\x00" + _text(name) + _text(value)
    parts = [_frame(SETTINGS, 0, 0), _frame(SETTINGS, _ACK, 0)]
    # without a body: gRPC's clients look for a message in it
    parts += [_frame(HEADERS, _END_HEADERS | _END_STREAM, stream, block) for stream in streams]
    parts.append(_frame(GOAWAY, 0, 0, max(streams, default=0).to_bytes(4, "big") + bytes(4)))
    return b"".join(parts)


def _text(value: str) -> bytes:
    """Encode a string literal of HPACK without Huffman coding."""
    data = value.encode()
    size = len(data)
    if size < 127:
        return bytes((size,)) + data
    size -= 127
    prefix = bytearray((127,))
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + data


Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[Any]]
"""(protocol factory) -> the transport of a new connection to the server."""


class Splice(asyncio.Protocol):
    """The client's side of a connection whose bytes go to a server as they are.

    A client that does not begin with HTTP/2's preface is passed on, too, and counts as one stream as long as
    it is connected.

    Args:
        connect: Connects to the server; called when the first bytes have come.
        begin: As in StreamCount.
        failed: (the exception of `connect`, ids of the streams that wait) -> bytes to answer with.
        farewell: Tell the client at once to open a new connection for further streams.
    """

    def __init__(
        self,
        connect: Connect,
        begin: Callable[[], Callable[[], None]],
        *,
        failed: Callable[[Exception, tuple[int, ...]], bytes] | None = None,
        farewell: bool = False,
    ) -> None:
        self._connect = connect
        self._begin = begin
        self._failed = failed
        self._farewell = farewell
        self._streams = StreamCount(begin)
        self._first = b""
        self._whole: Callable[[], None] | None = None
        self._decided = False
        self._held = bytearray()
        self._server_first = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None

    # --- the client's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._client = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._count(data)
        if self._server is not None:
            self._server.write(data)
            return
        self._held += data
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._reach())
        if len(self._held) > _HIGH_BYTES and self._client is not None:
            self._client.pause_reading()

    def _count(self, data: bytes) -> None:
        if self._decided:
            if self._whole is None:
                self._streams.client.feed(data)
            return
        self._first += data
        if PREFACE.startswith(self._first[: len(PREFACE)]):
            if len(self._first) < len(PREFACE):
                return
            self._streams.client.feed(self._first)
        else:
            self._whole = self._begin()
        self._decided = True
        self._first = b""

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._server is not None:
            self._server.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._server is not None and not self._server.is_closing():
            self._server.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._client = None
        if self._task is not None:
            self._task.cancel()
        if self._server is not None:
            self._server.abort()
        self._streams.close()
        whole, self._whole = self._whole, None
        if whole is not None:
            whole()

    # --- the server's side ---

    async def _reach(self) -> None:
        try:
            server = await self._connect(lambda: _Server(self))
        except Exception as exc:
            client = self._client
            if client is not None:
                if self._failed is not None and self._decided and self._whole is None:
                    client.write(self._failed(exc, self._streams.open))
                client.close()
            return
        if self._client is None:
            server.abort()
            return
        self._server = server
        if server.is_closing():
            self._client.close()
            return
        server.write(bytes(self._held))
        self._held.clear()
        self._client.resume_reading()

    def from_server(self, data: bytes) -> None:
        """Pass on what the server sends."""
        client = self._client
        if client is None:
            return
        if self._whole is None:
            self._streams.server.feed(data)
        if self._farewell:
            # A server's first frame is its SETTINGS; nothing may come before it.
            self._server_first += data
            first = self._server_first
            size = int.from_bytes(first[:3], "big") + _HEADER_BYTES
            if len(first) < max(size, _HEADER_BYTES):
                return
            data = bytes(first[:size] + _FAREWELL + first[size:])
            self._farewell = False
            first.clear()
        client.write(data)

    def server_paused(self, paused: bool) -> None:
        """Hold the client back while the server does not read."""
        if self._client is None or self._client.is_closing():
            return
        if paused:
            self._client.pause_reading()
        else:
            self._client.resume_reading()

    def server_gone(self) -> None:
        """The server closed: what it sent still leaves, then the client's connection ends."""
        if self._client is not None and self._server is not None:  # before that `connect` has the word
            self._client.close()


class _Server(asyncio.Protocol):
    """The other side of a Splice."""

    def __init__(self, splice: Splice) -> None:
        self._splice = splice

    def data_received(self, data: bytes) -> None:
        self._splice.from_server(data)

    def pause_writing(self) -> None:
        self._splice.server_paused(True)

    def resume_writing(self) -> None:
        self._splice.server_paused(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._splice.server_gone()
