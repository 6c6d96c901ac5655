"""The Runtime API's HTTP/1.1 server: bytes to Request, reply to bytes.

What paths mean is for `api.py` and `extensions.py`. One small protocol on httptools; its clients are a
runtime and its extensions on this machine, who keep a connection open, ask for `next` and wait without limit.
Idle connections are never timed out (a runtime ends when its `next` fails), answers leave in the order of the
requests, and everything a client can make grow is bounded: heads, trailers, bodies, pipelined requests,
connections.
Source: RFC 9112; `faas-conventions` contract, section 2.1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import httptools

from pelton.compat.aws_lambda.calls import PAYLOAD_LIMIT_BYTES

__all__ = ["Application", "Connection", "Request", "Sink"]

_HEAD_BYTES: Final = 2 * 1024 * 1024
"""Longest head or trailer section; clients send up to 1 MiB of XRay cause in one header."""
_SLICE_BYTES: Final = 16 * 1024
"""Fed to the parser at once, so that one read full of tiny requests cannot become thousands of objects."""
_JOIN_BYTES: Final = 64 * 1024
"""Smaller bodies are copied behind their head and leave in one write."""
_MAX_CONNECTIONS: Final = 512
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_REASONS: Final = {
    200: b"OK",
    202: b"Accepted",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Request Entity Too Large",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
}
_HEADS: Final = {status: b"HTTP/1.1 %d %s\r\n" % (status, reason) for status, reason in _REASONS.items()}
_STOPS: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class Sink(Protocol):
    """Takes a body while it arrives."""

    def feed(self, data: bytes) -> None:
        """Take some bytes; call `Request.pause` when they are too many."""
        ...


class Application(Protocol):
    """Who answers."""

    connections: set[Connection]

    def accept(self, request: Request) -> None:
        """Look at a request whose head is there: set what follows in `Request`, or reply already."""
        ...

    def truncated(self, request: Request) -> None:
        """Answer a request without a reply whose body ended too early."""
        ...

    def gone(self, request: Request) -> None:
        """Forget a request without a reply, which can no longer be answered; it may have been truncated."""
        ...

    def closed(self) -> None:
        """A connection has ended."""
        ...


class Request:
    """One request.

    Attributes:
        method: As sent, upper case.
        path: Without query.
        headers: Lower-case name -> value; the first of several counts.
        trailers: The same for what follows a chunked body.
        limit_bytes: Longest body that is kept; longer ones are read to their end and dropped.
        finish: Answers the whole request, now or later; not called when it has its reply by then.
        work: Whatever the application keeps with it.
        size: Bytes of the body so far.
        sink: Who takes the body as it arrives, instead of `body`.
        complete: Whether the body is there.
        replied: Whether it has its reply.
    """

    __slots__ = (
        "_body",
        "_head",
        "_more",
        "complete",
        "connection",
        "finish",
        "headers",
        "keep_alive",
        "limit_bytes",
        "method",
        "path",
        "replied",
        "sink",
        "size",
        "trailers",
        "work",
    )

    def __init__(self, connection: Connection, method: str, path: bytes, headers: dict[bytes, bytes]) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self.headers = headers
        self.trailers: dict[bytes, bytes] = {}
        self.limit_bytes = PAYLOAD_LIMIT_BYTES
        self.finish: Callable[[Request], None] | None = None
        self.work: Any = None
        self.size = 0
        self.sink: Sink | None = None
        self.complete = False
        self.replied = False
        self.keep_alive = True
        self._body = b""
        self._more: bytearray | None = None
        self._head: tuple[int, bytes, bytes] | None = None

    @property
    def oversize(self) -> bool:
        """Whether the body was too long to be kept."""
        return self.size > self.limit_bytes and self.sink is None

    @property
    def body(self) -> bytes:
        """The body so far, b"" when it is too long."""
        return self._body if self._more is None else bytes(self._more)

    def header(self, name: bytes) -> str:
        """Return a header's value (lower-case name), "" for none."""
        return self.headers.get(name, b"").decode("latin-1")

    def feed(self, data: bytes) -> None:
        """Take a piece of the body."""
        self.size += len(data)
        if self.sink is not None:
            self.sink.feed(data)
        elif self.replied or self.size > self.limit_bytes:
            self._body, self._more = b"", None
        elif self._more is not None:
            self._more += data
        elif self._body:
            # Not a list of pieces: of one-byte chunks that would be forty times the body.
            self._more = bytearray(self._body)
            self._more += data
        else:
            self._body = data

    def read_into(self, sink: Sink) -> None:
        """Hand the body to a sink from here on, what is there already first."""
        body, self._body, self._more = self.body, b"", None
        self.sink = sink
        if body:
            sink.feed(body)

    def pause(self) -> None:
        """Read no more of this connection for a while."""
        self.connection.hold(body=True)

    def resume(self) -> None:
        """Undo `pause`."""
        self.connection.hold(body=False)

    def reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer; before the body is complete, the answer leaves when it is.

        Args:
            status: HTTP status.
            headers: Lines, each with its CRLF, without Content-Length.
            body: Whole body.
        """
        if self.replied:
            return
        self.replied = True
        self._body, self._more, self.sink = b"", None, None
        self._head = (status, headers, body)
        self.connection.send()

    def rendered(self) -> tuple[int, bytes, bytes] | None:
        """Return status, header lines and body of the reply, if it has one."""
        return self._head


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        app: Who answers.
    """

    def __init__(self, app: Application) -> None:
        self._app = app
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[Request] = deque()
        self._rest = b""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._in_head = True
        self._frame_bytes = 0  # of a head, trailers and chunk sizes: what is no body
        self._body_held = False
        self._paused = False
        self._busy = False
        self._closing = False

    # --- transport ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport
        if len(self._app.connections) >= _MAX_CONNECTIONS:
            self._closing = True
            self._transport.abort()
            return
        self._app.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        del exc
        self._app.connections.discard(self)
        self._closing = True
        requests, self._requests, self._rest = self._requests, deque(), b""
        if requests and not requests[0].replied:
            self._app.gone(requests[0])
        self._app.closed()

    def eof_received(self) -> bool:
        """See asyncio.Protocol: a body that ends too early gets an answer, all else is gone."""
        if self._requests and not self._requests[0].complete and not self._closing:
            request = self._requests[0]
            request.keep_alive = False
            if not request.replied:
                self._app.truncated(request)
            request.complete = True
            self.send()
            return True
        return False

    def close(self) -> None:
        """End the connection after what is already written."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def hold(self, *, body: bool) -> None:
        """Say whether the reader of the running body wants a break."""
        self._body_held = body
        if not body and not self._busy:
            self._work()
        else:
            self._adjust()

    def _adjust(self) -> None:
        wanted = self._body_held or bool(self._rest) or len(self._requests) > 1
        if wanted == self._paused or self._closing:
            return
        self._paused = wanted
        if wanted:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- from bytes to requests ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._closing:
            return
        if self._rest or self._busy or len(data) > _SLICE_BYTES:
            self._rest += data
            if not self._busy:
                self._work()
            return
        # what `_work` does for a client that asks and waits, without its detours
        self._busy = True
        try:
            self._parse(data)
            while self._answer():
                pass
        finally:
            self._busy = False
        if len(self._requests) > 1 or self._paused:
            self._adjust()

    def _work(self) -> None:
        """Parse and answer as far as it goes; the loop keeps replies from within `finish` from recursing."""
        self._busy = True
        try:
            while not self._closing:
                if self._answer():
                    continue
                if not self._rest or self._body_held or len(self._requests) > 1:
                    break
                rest = self._rest
                if len(rest) > _SLICE_BYTES and self._in_head:
                    data, self._rest = rest[:_SLICE_BYTES], rest[_SLICE_BYTES:]
                else:
                    data, self._rest = rest, b""
                self._parse(data)
        finally:
            self._busy = False
        self._adjust()

    def _parse(self, data: bytes) -> None:
        self._frame_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except _STOPS:
            self._refuse(400)
            return
        # Chunks of one byte have five bytes of frame each; anything beyond that is a head without an end.
        request = self._requests[-1] if self._requests else None
        allowed = _HEAD_BYTES + (8 * request.size if request is not None else 0)
        if self._frame_bytes > allowed:
            self._refuse(431)

    def _refuse(self, status: int) -> None:
        """Answer what cannot be parsed and end the connection."""
        if self._requests and not self._requests[0].replied:
            self._app.gone(self._requests[0])
        self._requests.clear()
        self._write(status, b"Connection: close\r\n", b"", body_too=True)
        self.close()

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools; also called for trailers."""
        headers = self._headers if self._in_head else self._requests[-1].trailers
        headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        method = self._parser.get_method().decode("latin-1")
        request = Request(self, method, self._url.partition(b"?")[0], self._headers)
        request.keep_alive = self._parser.should_keep_alive()
        self._url, self._headers = b"", {}
        self._in_head = False
        self._frame_bytes = 0
        self._requests.append(request)
        if len(self._requests) == 1:
            self._accept(request)

    def on_body(self, data: bytes) -> None:
        """See httptools."""
        self._frame_bytes -= len(data)
        self._requests[-1].feed(data)

    def on_message_complete(self) -> None:
        """See httptools."""
        request = self._requests[-1]
        request.complete = True
        self._in_head = True
        self._frame_bytes = 0
        if request is self._requests[0] and not request.replied:
            self._finish(request)

    def _finish(self, request: Request) -> None:
        if request.finish is not None:
            request.finish(request)

    def _accept(self, request: Request) -> None:
        if b"expect" in request.headers and request.headers[b"expect"].lower() == b"100-continue":
            self._transport.write(_CONTINUE)
        self._app.accept(request)

    # --- from replies to bytes ----------------------------------------------------------------------------

    def send(self) -> None:
        """Let replies leave that can."""
        if not self._busy:
            self._work()

    def _answer(self) -> bool:
        """Send the first request's reply, if it is there, and turn to the next; False when nothing moved."""
        if not self._requests:
            return False
        request = self._requests[0]
        rendered = request.rendered()
        if rendered is None or not request.complete:
            return False
        self._requests.popleft()
        self._body_held = False
        status, headers, body = rendered
        if request.keep_alive:
            self._write(status, headers, body, body_too=request.method != "HEAD")
        else:
            self._write(status, headers + b"Connection: close\r\n", body, body_too=request.method != "HEAD")
            self.close()
            return False
        if self._requests:
            following = self._requests[0]
            self._accept(following)
            if following.complete and not following.replied:
                self._finish(following)
        return True

    def _write(self, status: int, headers: bytes, body: bytes, *, body_too: bool) -> None:
        head = b"%sContent-Length: %d\r\n%s\r\n" % (_HEADS[status], len(body), headers)
        if not body_too or not body:
            self._transport.write(head)
        elif len(body) < _JOIN_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
