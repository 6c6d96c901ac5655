"""An HTTP/1.1 client that hands Invocations to a server on this machine and brings its answers back.

Used by conventions whose user code is a server of its own (`compat/process.py`). Bodies stream both ways with
flow control; connections are kept and used again; what belongs to one connection only (RFC 9110 7.6.1) stays
on it. An answer that arrives in one piece costs no task and no iterator.
Source: RFC 9110, RFC 9112. Trailers and 1xx answers are read and dropped: a Reply has no place for them.
Over 600 lines: it is one protocol, whose halves share their state.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httptools

from pelton.model.invocation import Headers, Invocation, Reply

__all__ = ["ForwardError", "TooLongError", "Tunnel", "Upstream"]

IDLE_S: Final = 1.0
"""How long an unused connection is used again. Shorter than servers keep theirs (Node 5 s, gunicorn 2 s), so
that no request meets a connection that is just being closed; a new one costs 0.1 ms."""
_HIGH_BYTES: Final = 256 * 1024
_LOW_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 1024 * 1024
"""Status lines and headers of an answer, longer than any server's own limit; nobody else would stop them."""
_JOIN_BYTES: Final = 64 * 1024
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The worker answers expectations itself, when the body is first read.
_NOT_FORWARDED: Final = _HOP_BY_HOP | {b"content-length", b"expect"}
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_BODILESS: Final = frozenset({204, 304})


class ForwardError(Exception):
    """The server did not answer, or not in HTTP.

    Attributes:
        unanswered: Whether not a byte of an answer came.
    """

    def __init__(self, text: str, *, unanswered: bool = False) -> None:
        super().__init__(text)
        self.unanswered = unanswered


class TooLongError(Exception):
    """The request's body is longer than allowed."""


class Upstream:
    """One server and the connections to it; everything in one loop.

    Args:
        address: (host, port), or the path of a unix socket.
        body_limit_bytes: Longest request body; 0 for no limit.
    """

    def __init__(self, address: tuple[str, int] | str, *, body_limit_bytes: int = 0) -> None:
        self.address = address
        self._limit = body_limit_bytes
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Link] = []
        self._links: set[_Link] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def forward(self, invocation: Invocation) -> Reply:
        """Send one request and return the answer, whole or streamed.

        Cancelling it, or closing the answer's iterator before its end, closes the connection: the server
        learns that nobody waits any more.

        Raises:
            ForwardError: No connection, or no answer; the server may have seen the request.
            TooLongError: The body exceeds the limit.
            Exception: Whatever reading the request's body raises.
        """
        stream: Any = invocation.stream
        body = invocation.body
        length, chunked = _framing(invocation)
        if self._limit and length > self._limit:
            raise TooLongError
        if stream is not None:
            if length <= 0 and not chunked:
                stream = None
            elif getattr(stream, "complete", False) and stream.buffered < _JOIN_BYTES:
                body = b"".join([chunk async for chunk in stream])  # all here: nothing is waited for
                stream, length, chunked = None, len(body), False
                if self._limit and length > self._limit:
                    raise TooLongError
        head = _head(invocation, len(body) if stream is None and body else length, chunked=chunked)
        once = stream is not None or invocation.method not in _REPEATABLE
        while True:
            link = self._kept() or await self._connect()
            try:
                return await link.exchange(head, body, stream, chunked, invocation.method, self._limit)
            except ForwardError as exc:
                if once or not (link.used and exc.unanswered):
                    raise
                # It was closed while it lay idle; another one, and in the end a new one, decides.

    def _kept(self) -> _Link | None:
        idle = self._idle
        while idle:
            link = idle.pop()
            if not link.closing:
                return link
        return None

    async def _connect(self) -> _Link:
        address = self.address
        try:
            if isinstance(address, str):
                _, link = await self._loop.create_unix_connection(lambda: _Link(self, self._loop), address)
            else:
                _, link = await self._loop.create_connection(lambda: _Link(self, self._loop), *address)
        except OSError as exc:
            raise ForwardError(
                f"no connection to the program: {exc.strerror or exc}", unanswered=True
            ) from exc
        self._links.add(link)
        return link

    def keep(self, link: _Link) -> None:
        """Take back a connection whose exchange is complete."""
        link.used = True
        link.idle_since = self._loop.time()
        self._idle.append(link)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(IDLE_S, self._sweep)

    def lose(self, link: _Link) -> None:
        """Forget a connection that has ended."""
        self._links.discard(link)
        if link in self._idle:
            self._idle.remove(link)

    def _sweep(self) -> None:
        now = self._loop.time()
        old = [link for link in self._idle if now - link.idle_since >= IDLE_S]
        self._idle = [link for link in self._idle if now - link.idle_since < IDLE_S]
        for link in old:
            link.close()
        self._sweeper = self._loop.call_later(IDLE_S / 2, self._sweep) if self._idle else None

    def close(self) -> None:
        """Close all connections; running exchanges fail."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for link in list(self._links):
            link.abort()


def _framing(invocation: Invocation) -> tuple[int, bool]:
    """Return (content-length or -1, whether the body is chunked), as the client framed it."""
    if invocation.stream is None:
        return len(invocation.body) if invocation.body else -1, False
    length, chunked = -1, False
    for name, value in invocation.headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    return length, chunked


def _head(invocation: Invocation, length: int, *, chunked: bool) -> bytes:
    parts = [b"%s %s HTTP/1.1\r\n" % (invocation.method.encode(), invocation.target)]
    dropped = _NOT_FORWARDED
    host = identified = False
    for name, value in invocation.headers:
        if name in dropped:
            if name == b"connection" and value.lower() not in (b"close", b"keep-alive"):
                dropped = dropped | {word.strip() for word in value.lower().split(b",")}
            continue
        if name == b"host":
            host = True
        elif name == b"x-request-id":
            identified = True
        parts.append(b"%s: %s\r\n" % (name, value))
    if dropped is not _NOT_FORWARDED:  # headers that came before the one which names them
        kept = [parts[0]]
        kept += [part for part in parts[1:] if part.partition(b":")[0] not in dropped]
        parts = kept
    if not host:
        parts.append(b"host: localhost\r\n")
    if not identified:
        parts.append(b"x-request-id: %s\r\n" % invocation.id.encode("latin-1", "replace"))
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n\r\n")
    elif length >= 0:
        parts.append(b"content-length: %d\r\n\r\n" % length)
    elif invocation.method in ("POST", "PUT", "PATCH"):
        parts.append(b"content-length: 0\r\n\r\n")
    else:
        parts.append(b"\r\n")
    head = b"".join(parts)
    lines = len(parts) + (1 if parts[-1] != b"\r\n" else 0)
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        # What callers bring from elsewhere may not end a line, which would begin a header or a request.
        raise ForwardError("a header or the target of the request has a line break in it")
    return head


class _Link(asyncio.Protocol):
    """One connection to the server: one exchange at a time."""

    __slots__ = (
        "_answer",
        "_chunks",
        "_complete",
        "_dropped",
        "_error",
        "_framed",
        "_head_bytes",
        "_head_only",
        "_headers",
        "_keep_alive",
        "_loop",
        "_parser",
        "_paused",
        "_seen",
        "_sending",
        "_status",
        "_streaming",
        "_transport",
        "_upstream",
        "_waiter",
        "_writable",
        "buffered",
        "closing",
        "idle_since",
        "used",
    )

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self._upstream = upstream
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[Reply] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._head_only = False
        self.idle_since = 0.0
        self.closing = self.used = False
        self._reset()

    def _reset(self) -> None:
        self._headers: Headers = []
        self._dropped: set[bytes] | None = None
        self._chunks: deque[bytes] = deque()
        self.buffered = 0
        self._status = self._head_bytes = 0
        self._seen = self._complete = self._streaming = self._keep_alive = self._paused = False
        self._framed = False
        self._error: ForwardError | None = None

    async def exchange(
        self, head: bytes, body: bytes, stream: Any, chunked: bool, method: str, limit: int
    ) -> Reply:
        """Send a request and return its answer; see Upstream.forward."""
        if self._head_only:
            self._parser = httptools.HttpResponseParser(self)  # the last one still waits for a body
        self._head_only = method == "HEAD"
        self._reset()
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._answer = answer
        if body and len(body) < _JOIN_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            if body:
                self._transport.write(body)
        if stream is not None:
            self._sending = self._loop.create_task(self._send(stream, chunked=chunked, limit=limit))
        try:
            return await answer
        except BaseException:
            if self._answer is answer:
                self._answer = None
                self.abort()
            elif not answer.cancelled() and answer.exception() is None:
                # answered in the turn in which it was cancelled; a whole answer's connection is free by now
                chunks: Any = answer.result().body
                if type(chunks) is _Body:
                    await chunks.aclose()
            raise

    async def _send(self, stream: AsyncIterator[bytes], *, chunked: bool, limit: int) -> None:
        """Pass the request's body on while it arrives."""
        sent = 0
        try:
            async for chunk in stream:
                sent += len(chunk)
                if limit and sent > limit:
                    raise TooLongError
                self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                if self._writable is not None:
                    await self._writable
            if chunked:
                self._transport.write(b"0\r\n\r\n")
        except Exception as exc:
            answer, self._answer = self._answer, None
            if answer is not None and not answer.done():
                answer.set_exception(exc)
            self.abort()
            return
        self._sending = None

    # --- asyncio.Protocol ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._complete or (self._answer is None and not self._streaming):
            self.abort()  # nobody asked
            return
        self._seen = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if not self._complete:
                self._fail(ForwardError(f"the program's answer is not HTTP/1.1: {exc}"))
                self.abort()
                return
        if self._status and self._answer is not None:
            self._deliver(self._answer)
        elif self._streaming:
            self._wake()
        elif not self._status:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._fail(ForwardError(f"the head of the program's answer exceeds {_HEAD_BYTES} bytes"))
                self.abort()

    def eof_received(self) -> None:
        """See asyncio.Protocol. The transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.closing = True
        self._upstream.lose(self)
        if self._sending is not None:
            self._sending.cancel()
        self.resume_writing()
        if self._complete:
            return
        if self._status and not self._framed and exc is None:
            self._complete = True  # the end of the connection is the end of this answer
            self._wake()
            return
        where = "in the middle of its answer" if self._status else "before it answered"
        self._fail(ForwardError(f"the program ended the connection {where}", unanswered=not self._seen))

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # --- httptools callbacks ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Refuse a second answer to one request: its body would be taken for the first one's."""
        if self._complete:
            self._keep_alive = False
            raise ValueError("it sent more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; after the head they are trailers."""
        if self._status:
            return
        name = name.lower()
        if name in _HOP_BY_HOP:
            if name == b"transfer-encoding":
                self._framed = True
            elif name == b"connection" and value.lower() not in (b"close", b"keep-alive"):
                words = {word.strip() for word in value.lower().split(b",")}
                self._dropped = words | (self._dropped or set())
            return
        if name == b"content-length":
            self._framed = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note what the head says about the rest."""
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise ValueError("it switches protocols, which nobody asked for")
            self._headers = []
            return
        self._status = status
        self._keep_alive = self._parser.should_keep_alive()
        if self._head_only or status in _BODILESS:
            self._framed = True
        if self._head_only:
            self._complete = True
        if self._dropped:
            self._headers = [pair for pair in self._headers if pair[0] not in self._dropped]

    def on_body(self, chunk: bytes) -> None:
        """Take a piece of the answer's body."""
        self._chunks.append(chunk)
        self.buffered += len(chunk)
        if self._streaming and self.buffered >= _HIGH_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Note the end; that of a 1xx answer is not it."""
        if self._status:
            self._complete = True

    # --- the answer ---------------------------------------------------------------------------------------

    def _deliver(self, answer: asyncio.Future[Reply]) -> None:
        # From here on the connection may be another request's, before this one's task has gone on.
        self._answer = None
        if answer.done():
            self.abort()  # cancelled in this very turn
            return
        whole = self._complete and not (self._head_only and not self._has_length())
        if whole:
            chunks = self._chunks
            body = b"" if not chunks else chunks[0] if len(chunks) == 1 else b"".join(chunks)
            reply = Reply(self._status, self._headers, body)
        else:  # also HEAD without a length, which a whole answer would have to give
            self._streaming = True
            reply = Reply(self._status, self._headers, _Body(self))
        if whole:
            self._settle()
        answer.set_result(reply)

    def _has_length(self) -> bool:
        return any(name == b"content-length" for name, _ in self._headers)

    def _settle(self) -> None:
        """Hand the connection back, or close it, now that the answer is complete."""
        sending = self._sending
        if sending is not None and not sending.done():
            sending.cancel()  # answered early: nobody reads the rest of the body
            self.close()
        elif not self._keep_alive:
            self.close()
        elif not self.closing:
            self._upstream.keep(self)

    def _fail(self, error: ForwardError) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
        else:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next_chunk(self) -> bytes:
        """Return the next piece of a streamed answer; b"" at its end."""
        chunks = self._chunks
        while not chunks:
            if self._complete:
                self._settle()
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = chunks.popleft()
        self.buffered -= len(chunk)
        if self._paused and self.buffered <= _LOW_BYTES:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    def leave(self) -> None:
        """Stop reading a streamed answer; before its end that closes the connection."""
        if self._complete:
            self._settle()
        else:
            self.abort()

    def close(self) -> None:
        """Close after what is written."""
        self.closing = True
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.closing = True
        if self._sending is not None:
            self._sending.cancel()
        self._transport.abort()


class _Body:
    """A streamed answer's body; the connection goes back when it has been read, or left."""

    __slots__ = ("_ended", "_link")

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._ended = False

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        chunk = await self._link.next_chunk()
        if not chunk:
            self._ended = True
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Stop reading."""
        if not self._ended:
            self._ended = True
            self._link.leave()


class Tunnel(asyncio.Protocol):
    """A client's connection that asked for another protocol (WebSocket), passed through to the server.

    If the server declines, its answer is passed on and the connection ended: what would follow is no longer
    parsed.

    Args:
        address: As for Upstream.
        invocation: The request that asks.
        rest: Bytes that came after its head.
    """

    def __init__(self, address: tuple[str, int] | str, invocation: Invocation, rest: bytes) -> None:
        lines = [b"%s %s HTTP/1.1\r\n" % (invocation.method.encode(), invocation.target)]
        lines += [b"%s: %s\r\n" % header for header in invocation.headers]
        self._address = address
        self._held = bytearray(b"".join(lines) + b"\r\n" + rest)
        self._parser: Any = httptools.HttpResponseParser(self)
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    # --- the client's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._client = cast("asyncio.Transport", transport)
        self._client.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._reach())

    async def _reach(self) -> None:
        loop = asyncio.get_running_loop()
        address = self._address
        server: Any
        try:
            if isinstance(address, str):
                server, _ = await loop.create_unix_connection(lambda: _TunnelEnd(self), address)
            else:
                server, _ = await loop.create_connection(lambda: _TunnelEnd(self), *address)
        except OSError:
            if self._client is not None:
                self._client.write(
                    b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                self._client.close()
            return
        if self._client is None:
            server.abort()
            return
        self._server = server
        server.write(bytes(self._held))
        self._held.clear()
        self._client.resume_reading()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._server is None:
            self._held += data
        else:
            self._server.write(data)

    def eof_received(self) -> bool | None:
        """See asyncio.Protocol. The transport closes."""
        return None

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
            self._server.close()

    # --- the server's side ---

    def from_server(self, data: bytes) -> None:
        """Pass on what the server sends, and see whether it agrees."""
        if self._client is None:
            return
        self._client.write(data)
        if self._parser is not None:
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._parser = None

    def on_message_complete(self) -> None:
        """End the connection behind an answer that is none to the wish."""
        if self._parser.get_status_code() >= 200 and self._client is not None:
            self._client.close()

    def server_paused(self, paused: bool) -> None:
        """Hold the client back while the server does not read."""
        if self._client is not None and not self._client.is_closing():
            if paused:
                self._client.pause_reading()
            else:
                self._client.resume_reading()

    def server_gone(self) -> None:
        """The server closed: what it sent still leaves, then the client's connection ends."""
        if self._client is not None:
            self._client.close()


class _TunnelEnd(asyncio.Protocol):
    """The server's side of a Tunnel."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def data_received(self, data: bytes) -> None:
        self._tunnel.from_server(data)

    def pause_writing(self) -> None:
        self._tunnel.server_paused(True)

    def resume_writing(self) -> None:
        self._tunnel.server_paused(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.server_gone()
