"""The worker's HTTP/1.1 server: bytes to Invocation, Reply to bytes, on httptools and an asyncio protocol.

Here are framing, limits, order of pipelined answers, flow control in both directions and refusals; what to
run, when and for how long is `dataplane/worker.py`, which calls this and is called back through
`Application`. One object per connection and none per request but the Invocation, since this is the hot path
(budget: design.md section 7).
Source: RFC 9110, RFC 9112. Not here: TLS, HTTP/2, WebSocket (an `Upgrade` header is ignored, as RFC 9110 7.8
allows).
Over 600 lines, since both directions of a connection share one state and every call between objects costs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import httptools

from pelton.dataplane.http_body import HIGH_BYTES, LOW_BYTES, BodyError, BodyStream, ClientGoneError
from pelton.dataplane.http_reply import (
    CHUNKED,
    LENGTH,
    NOTHING,
    UNTIL_CLOSE,
    ReplyError,
    plain_reply,
    render,
    render_plain,
    render_stream_head,
)
from pelton.dataplane.traces import Traces
from pelton.model.invocation import Headers, Invocation, Reply

__all__ = ["Application", "Connection", "Limits", "Shared"]

_SLICE_BYTES: Final = 16 * 1024
"""Fed to the parser at once, so that one read full of tiny requests cannot become thousands of objects."""
_MAX_AHEAD: Final = 8
"""Parsed requests that wait behind the running one before reading stops."""
_LINGER_S: Final = 2.0
"""How long a refused client may go on sending before the connection is cut; RFC 9112 9.6 asks for the
patience."""

_METHODS: Final = {name.encode(): name for name in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_SPECIAL: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"traceparent",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-pelton-function",
        b"x-request-id",
    }
)
_ODD: Final = frozenset(bytes([digit]) for digit in b"13579bdfBDF")
_STOPS: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_id_matches = re.compile(rb"[!-~]{1,128}").fullmatch
_JOIN_BYTES: Final = 64 * 1024
"""Smaller bodies are copied behind their head and leave in one write."""
_INFINITY: Final = float("inf")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_NOBODY: Final = Invocation("", "GET", b"/", [])
"""Stands for a request that never became one, when it is refused."""


class _Stop(Exception):
    """Makes the parser stop at a refusal; never seen outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may ask for.

    Attributes:
        head_bytes: Request line and headers together; trailers, too.
        body_bytes: Whole body; bodies read as streams are held back by flow control instead.
        head_timeout_s: Seconds for a request head to arrive on TCP; inf for none. Never applied to unix
        sockets,
            where the gateway keeps connections open in advance.
    """

    head_bytes: int = 64 * 1024
    body_bytes: int = 32 * 1024 * 1024
    head_timeout_s: float = 10.0


class Application(Protocol):
    """Who answers."""

    streams_body: bool

    def begin(self, connection: Connection, invocation: Invocation) -> None:
        """Answer with `connection.reply` or `connection.start_stream`, now or later."""
        ...

    def gone(self, connection: Connection) -> None:
        """The client went away while its invocation was being worked on; nothing can be answered any more."""
        ...

    def quiet(self) -> None:
        """A connection became idle or ended while the server drains."""
        ...

    def refusal(self, status: int, text: str, invocation: Invocation) -> Reply:
        """Return the answer for what is refused before the function is called."""
        ...

    def upgrade(self, connection: Connection, invocation: Invocation, rest: bytes) -> bool:
        """Take the connection over for another protocol; False to answer the request in this one."""
        ...


class Shared:
    """What the connections of one server have in common.

    Args:
        app: Who answers.
        limits: What clients may ask for.

    Attributes:
        connections: All open ones.
        draining: Answers end their connection.
        on_answer: Told of each answer: invocation, status, seconds from its turn to its answer's head. None,
            the default, costs nothing.
        id_prefix, ids: Joined, they make the ids of requests that bring none.
        traces: Takes requests whose caller wants them traced; None where nobody would take the spans.
    """

    def __init__(self, app: Application, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.connections: set[Connection] = set()
        self.draining = False
        self.on_answer: Callable[[Invocation, int, float], None] | None = None
        # Unique without a system call each; the prefix keeps instances and restarts apart.
        self.id_prefix = os.urandom(6).hex() + "-"
        self.ids = itertools.count(1)
        self.traces: Traces | None = None


class _Refusal:
    """Stands in the queue of requests for one that is answered without the function."""

    __slots__ = ("invocation", "status", "text")

    def __init__(self, status: int, text: str, invocation: Invocation) -> None:
        self.status = status
        self.text = text
        self.invocation = invocation


class Connection(asyncio.Protocol):
    """One client connection: parses requests ahead, runs them one at a time, answers in order.

    Attributes:
        call: Free for the application while an invocation of this connection is worked on.
    """

    __slots__ = (
        "_advancing",
        "_app",
        "_began",
        "_body",
        "_body_bytes",
        "_body_length",
        "_carried",
        "_client",
        "_closing",
        "_continue_due",
        "_current",
        "_discarded",
        "_ended",
        "_expects",
        "_final",
        "_framing",
        "_has_body",
        "_head_limit",
        "_headers",
        "_held",
        "_host_count",
        "_id",
        "_id_prefix",
        "_ids",
        "_length",
        "_noted",
        "_on_answer",
        "_parse",
        "_parser",
        "_parsing",
        "_pending",
        "_progress",
        "_put_back",
        "_reading_paused",
        "_remaining",
        "_scheme",
        "_shared",
        "_slice",
        "_stream",
        "_streams_body",
        "_trace",
        "_trusted",
        "_unusual",
        "_url",
        "_writable",
        "_write",
        "_write_paused",
        "call",
        "head_since",
        "transport",
    )

    def __init__(self, shared: Shared, *, trusted: bool) -> None:
        self._shared = shared
        self._app = shared.app
        self._on_answer = shared.on_answer
        self._began = 0.0
        # on a unix socket the gateway is at the other end, and its forwarding headers hold
        self._trusted = trusted
        self._head_limit = shared.limits.head_bytes
        self._slice = max(1, min(_SLICE_BYTES, self._head_limit // 2))
        self._parser = httptools.HttpRequestParser(self)
        self._parse = self._parser.feed_data
        self._ids = shared.ids
        self._id_prefix = shared.id_prefix
        self._streams_body = shared.app.streams_body
        self._unusual = False
        self._pending: deque[Invocation | _Refusal] = deque()
        self._held: deque[bytes] = deque()
        self._current: Invocation | None = None
        self._parsing: Invocation | None = None
        self._final: Invocation | None = None
        self._stream: BodyStream | None = None
        self._closing = False
        self._framing = NOTHING
        self._remaining = 0
        self._writable: asyncio.Future[None] | None = None
        self._advancing = self._write_paused = self._reading_paused = False
        self._ended = self._continue_due = self._progress = False
        self._discarded = -1
        self._client, self._scheme, self._put_back = "", "http", b""
        self._body: list[bytes] = []
        self._body_bytes = self._carried = 0
        self._body_length = -1
        self.call: Any = None
        self.head_since = 0.0
        self.transport: asyncio.Transport | None = None
        self._reset_head()

    def _reset_head(self) -> None:
        self._url = b""
        self._headers: Headers = []
        self._host_count = 0
        self._id = b""
        self._noted = self._has_body = self._expects = False
        self._length = -1
        self._trace: Any = None

    # --- asyncio.Protocol ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)
        self._write = self.transport.write
        if not self._trusted:
            self.head_since = time.monotonic()
            peer = transport.get_extra_info("peername")
            if isinstance(peer, tuple):
                self._client = str(peer[0])
        self._shared.connections.add(self)
        if self._shared.draining:
            self._unusual = True

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._ended or self._held or len(data) > self._slice:
            self._receive_unusual(data)
            return
        self._progress = False
        try:
            self._parse(data)
        except _STOPS as stop:
            self._parser_stopped(stop, data)
        if not self._progress:
            self._await_more(len(data))
        if self._pending:
            self._advance()
        elif self._stream is not None:
            self.update_reading()

    def eof_received(self) -> None:
        """See asyncio.Protocol. The transport closes: a client that stops sending is a client that left."""

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.transport = None
        self._ended = True
        self._pending.clear()
        self._held.clear()
        self._shared.connections.discard(self)
        stream = self._stream
        if stream is not None:
            stream.finish(ClientGoneError("the client closed the connection while it sent the body"))
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._current is not None:
            self._current = None
            self._app.gone(self)
        if self._shared.draining:
            self._app.quiet()

    # --- httptools callbacks ------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; those after the head are trailers, collected and never looked at."""
        name = name.lower()
        if name in _SPECIAL:
            if name == b"host":
                self._host_count += 1
            elif self._special(name, value):
                return
        self._headers.append((name, value))

    def _special(self, name: bytes, value: bytes) -> bool:
        """Note what a header means here; True drops it."""
        if self._parsing is not None:
            return True
        if name == b"x-request-id":
            self._id = value
        elif name == b"content-length":
            # llhttp has checked that it is one number and no second one follows
            self._noted = True
            self._length = int(value)
            self._has_body = self._length > 0
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                self._refuse(501, "only the transfer coding 'chunked' is understood")
                raise _Stop
            self._has_body = True
            self._noted = True
            self._length = -1
        elif name == b"expect":
            if value.lower() != b"100-continue":
                self._refuse(417, "the only expectation understood is 100-continue")
                raise _Stop
            self._noted = True
            self._expects = True
        elif name == b"connection":
            self._noted = True
        elif name == b"x-pelton-function":
            return True  # between gateway and activator only
        elif name == b"traceparent":
            traces = self._shared.traces
            if traces is not None and value[-1:] in _ODD:  # the lowest bit of the flags: sampled
                self._trace = traces.enter(value)
        elif self._trusted:  # what the gateway says about the client
            if name == b"x-forwarded-for":  # the last one is the client that the gateway saw itself
                self._client = value.rpartition(b",")[2].strip().decode("latin-1")
            else:
                self._scheme = "https" if value.lower() == b"https" else "http"
        return False

    def on_headers_complete(self) -> None:
        """Check the head and make the Invocation."""
        self._progress = True
        parser = self._parser
        if self._carried:
            self._check_head_size()
        keep_alive = parser.should_keep_alive()
        # any other version is kept alive only by a Connection header, and that one was noted
        version = "1.1" if keep_alive and not self._noted else parser.get_http_version()
        if version != "1.1" or self._host_count != 1:
            self._check_version(version)
        if self._noted and self._has_body and parser.should_upgrade():
            self._put_back_without_upgrade(parser.get_method(), version)
            return
        name = parser.get_method()
        method = _METHODS.get(name)
        if method is None:
            self._unusual = True  # HEAD is one of them: its answers are framed differently
            method = name.decode()
        target = self._url
        if target[:1] != b"/":
            target = self._origin_form(method, target)
        given = self._id
        own_id = given.decode() if given and _id_matches(given) else self._id_prefix + str(next(self._ids))
        self._parsing = invocation = Invocation(
            own_id, method, target, self._headers, b"", None, _INFINITY, self._scheme, self._client, version
        )
        self.head_since = 0.0
        if self._trace is not None:
            self._shared.traces.begin(invocation, self._trace)  # type: ignore[union-attr]  # see _special
            self._trace = None
        if not keep_alive:
            self._final = invocation
            self._unusual = True
        if self._has_body:
            self._open_body(invocation)
        # _reset_head, written out: a call per request is 2 % of the budget
        self._url = b""
        self._headers = []
        self._host_count = 0
        if given:
            self._id = b""
        if self._noted:
            self._noted = self._expects = False
            self._length = -1
        if self._trusted and self._client:  # the next request may be another client's
            self._client = ""
            self._scheme = "http"

    def on_body(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self._progress = True
        stream = self._stream
        if stream is not None:
            stream.feed(chunk)
            return
        self._body_bytes += len(chunk)
        if self._body_bytes > self._shared.limits.body_bytes:
            self._refuse_body()
        self._body.append(chunk)

    def on_message_complete(self) -> None:
        """Queue the request, or end its stream."""
        self._progress = True
        self._carried = 0
        invocation = self._parsing
        self._parsing = None
        if invocation is None:
            return
        if self._has_body:
            self._has_body = self._continue_due = False
            self._headers = []  # trailers
            self._host_count = 0
        stream = self._stream
        if stream is not None:
            self._stream = None
            if invocation is self._current:
                stream.finish()
            else:  # nobody has seen the stream yet
                invocation.body = stream.take()
                invocation.stream = None
        else:
            if self._body:
                invocation.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body = []
                self._body_bytes = 0
            self._pending.append(invocation)
        if invocation is self._final:
            self._ended = True

    # --- the request side ---------------------------------------------------------------------------------

    def _receive_unusual(self, data: bytes) -> None:
        if self._ended:
            self._discard(len(data))
            return
        if (
            not self._held
            and self._parsing is not None
            and self._stream is None
            and len(data) <= self._body_length - self._body_bytes
        ):  # all of it belongs to one body: no request begins in it, and cutting it up would copy it
            self._feed(data)
            if self._pending:
                self._advance()
            return
        self._unusual = True
        for begin in range(0, len(data), self._slice):
            self._held.append(data[begin : begin + self._slice])
        self._feed_held()

    def _feed(self, data: bytes) -> None:
        self._progress = False
        try:
            self._parse(data)
        except _STOPS as stop:
            self._parser_stopped(stop, data)
        if not self._progress:
            self._await_more(len(data))

    def _parser_stopped(self, stop: Exception, data: bytes) -> None:
        upgrade = isinstance(stop, httptools.HttpParserUpgrade)
        # Also where the connection was to end with this request: the activator asks for that.
        if upgrade and self._current is None and len(self._pending) == 1 and not self._put_back:
            asking = self._pending[0]
            if type(asking) is Invocation and self._app.upgrade(self, asking, data[stop.args[0] :]):
                self._pending.clear()
                return
        if self._ended:
            return
        if not upgrade:
            self._refuse(400, f"the request is malformed: {stop}")
            return
        # The request asked for another protocol; it is answered in this one. The parser is done, the
        # client is not.
        self._parser = httptools.HttpRequestParser(self)
        self._parse = self._parser.feed_data
        rest, self._put_back = self._put_back + data[stop.args[0] :], b""
        if rest:
            self._feed(rest)
        self._progress = True

    def _await_more(self, count: int) -> None:
        """Take note of bytes that completed nothing: part of a head, of a trailer, of a chunk's frame."""
        if self._ended:
            return
        if self._parsing is None and not self._trusted and not self.head_since:
            self.head_since = time.monotonic()
        self._carried += count
        if self._carried > self._head_limit + self._slice:
            self._refuse(431, f"the headers exceed {self._head_limit} bytes")

    def _feed_held(self) -> None:
        """Parse what was read while there is room for more requests."""
        while self._held and not self._ended:
            if len(self._pending) >= _MAX_AHEAD or (
                self._stream is not None and self._stream.buffered >= HIGH_BYTES
            ):
                break
            self._feed(self._held.popleft())
            if self._pending:
                self._advance()
        if self._ended:
            self._held.clear()
        self.update_reading()

    def update_reading(self) -> None:
        """Stop or resume reading, by how much waits here."""
        transport = self.transport
        if transport is None:
            return
        stream = self._stream
        full = len(self._pending) >= _MAX_AHEAD or bool(self._held)
        if stream is not None:
            room = LOW_BYTES if self._reading_paused else HIGH_BYTES
            full = full or stream.buffered >= room
        if self._held and not self._advancing and stream is not None and stream.buffered <= LOW_BYTES:
            asyncio.get_running_loop().call_soon(self._feed_held)
        if full and not self._reading_paused:
            self._reading_paused = True
            transport.pause_reading()
        elif not full and self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()

    def _put_back_without_upgrade(self, method: bytes, version: str) -> None:
        """Have a request with a body parsed again without its `upgrade` header.

        The parser takes what follows such a head for another protocol; read as the next request, a body would
        become a smuggled one.
        """
        lines = [b"%s %s HTTP/%s\r\n" % (method, self._url, version.encode())]
        lines += [b"%s: %s\r\n" % header for header in self._headers if header[0] != b"upgrade"]
        self._put_back = b"".join(lines) + b"\r\n"
        self._reset_head()

    def _check_head_size(self) -> None:
        size = len(self._url) + 16 + sum(len(name) + len(value) + 4 for name, value in self._headers)
        self._carried = 0
        if size > self._head_limit:
            self._refuse(431, f"the headers exceed {self._head_limit} bytes")
            raise _Stop

    def _check_version(self, version: str) -> None:
        if version not in ("1.0", "1.1"):
            self._refuse(505, f"HTTP/{version} is not spoken here")
        elif self._host_count > 1 or (version == "1.1" and not self._host_count):
            self._refuse(400, "a request needs exactly one Host header")
        else:
            self._unusual = True
            return
        raise _Stop

    def _origin_form(self, method: str, target: bytes) -> bytes:
        """Return path and query of an absolute target (RFC 9112 3.2.2); refuse CONNECT."""
        if method == "CONNECT":
            self._refuse(501, "tunnels are not offered")
            raise _Stop
        _scheme, separator, rest = target.partition(b"://")
        if not separator:
            return target
        cut = re.search(rb"[/?]", rest)
        path = rest[cut.start() :] if cut else b"/"
        return path if path.startswith(b"/") else b"/" + path

    def _open_body(self, invocation: Invocation) -> None:
        """Prepare for a body; a streaming function starts now and reads while it arrives."""
        self._unusual = True
        if self._streams_body:
            stream = BodyStream(self, asyncio.get_running_loop())
            stream.wants_continue = self._expects and invocation.http_version == "1.1"
            invocation.stream = self._stream = stream
            self._pending.append(invocation)
            return
        if invocation.http_version == "1.0" and self._length < 0:
            self._refuse(400, "HTTP/1.0 has no transfer codings")
            raise _Stop
        self._body_length = self._length
        if self._length > self._shared.limits.body_bytes:
            self._refuse_body()
        if self._expects and invocation.http_version == "1.1":
            self._continue_due = True
            if self._current is None and not self._pending:
                self.send_continue()

    def send_continue(self) -> None:
        """Tell the client to go on and send the body."""
        self._continue_due = False
        if self.transport is not None:
            self._write(_CONTINUE)

    def _refuse_body(self) -> None:
        self._refuse(413, f"the body exceeds {self._shared.limits.body_bytes} bytes")
        raise _Stop

    def _refuse(self, status: int, text: str) -> None:
        """Answer the request being parsed with an error, in its turn, and read no further one."""
        self._ended = True
        invocation, self._parsing = self._parsing or _NOBODY, None
        self._body = []
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.finish(BodyError(status, text))
        else:
            self._pending.append(_Refusal(status, text, invocation))

    def _discard(self, count: int) -> None:
        """Ignore what comes after the last request; a client that never stops is cut off."""
        if self._discarded < 0:
            return
        self._discarded += count
        if self._discarded > 64 * 1024 * 1024 and self.transport is not None:
            self.transport.abort()

    # --- the answering side -------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begin the next request if none runs and what was answered has mostly left."""
        if self._advancing:
            return
        self._advancing = True
        pending = self._pending
        while pending and self._current is None and not self._write_paused:
            item = pending.popleft()
            if type(item) is Invocation:
                self._current = item
                if self._on_answer is not None:
                    self._began = time.monotonic()
                self._app.begin(self, item)
            else:
                refusal = cast("_Refusal", item)
                self._refuse_now(refusal)
        self._advancing = False
        if pending or self._unusual:
            self._look_around()

    def _look_around(self) -> None:
        """Do what else may be due between two requests."""
        if self._current is None:
            if self._continue_due and not self._pending:
                self.send_continue()
            if self._held:
                asyncio.get_running_loop().call_soon(self._feed_held)
            if self._shared.draining:
                self.settle()
        if self._reading_paused or len(self._pending) >= _MAX_AHEAD:
            self._unusual = True
            self.update_reading()

    def reply(self, reply: Reply) -> None:
        """Send a whole answer for the running invocation.

        Raises:
            ReplyError: The reply cannot be sent as HTTP; nothing was written and another may be given.
        """
        invocation = self._current
        if invocation is None:
            return
        if not self._unusual and len(reply.body) < _JOIN_BYTES:  # type: ignore[arg-type]  # bytes, see begin
            answer = render_plain(reply)
            if self._on_answer is not None:
                self._on_answer(invocation, reply.status, time.monotonic() - self._began)
            self._write(answer)
            self._current = self.call = None
            if self._pending and not self._advancing:
                self._advance()
            return
        closing = self._is_last(invocation)
        parts = render(reply, invocation, closing=closing)
        if self._on_answer is not None:
            self._on_answer(invocation, reply.status, time.monotonic() - self._began)
        if len(parts[-1]) < _JOIN_BYTES:
            self._write(b"".join(parts))
        else:
            self._write(b"".join(parts[:-1]))
            self._write(parts[-1])
        self._done(closing=closing)

    def start_stream(self, reply: Reply) -> None:
        """Send the head of a streamed answer; `pump` sends the rest.

        Raises:
            ReplyError: As in `reply`.
        """
        invocation = self._current
        if invocation is None:
            return
        self._closing = self._is_last(invocation)
        head, self._framing, self._remaining = render_stream_head(reply, invocation, closing=self._closing)
        if self._framing == UNTIL_CLOSE:
            self._closing = True
        if self._on_answer is not None:
            self._on_answer(invocation, reply.status, time.monotonic() - self._began)
        self._write(head)

    async def pump(self, chunks: AsyncIterator[bytes]) -> None:
        """Send a streamed body, no faster than the client reads, and end the answer.

        Raises:
            ClientGoneError: The client left before the end.
            ReplyError: The chunks are not bytes, or more or fewer of them than the announced length. As for
            any
                exception of the iterator, the connection is then to be ended by `break_off`.
        """
        framing = self._framing
        if framing != NOTHING:
            async for chunk in chunks:
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    raise ReplyError(f"a chunk of the body is {type(chunk).__name__}, not bytes")
                if not chunk:
                    continue
                self.write_chunk(chunk)
                if self._write_paused:
                    await self.drained()
        self.end_stream()

    def write_chunk(self, chunk: bytes | bytearray | memoryview) -> bool:
        """Send a piece of a streamed body; returns whether to wait for `drained` before the next.

        Raises:
            ClientGoneError, ReplyError: As in `pump`.
        """
        if self._current is None:
            raise ClientGoneError("the client left before the end of the answer")
        framing = self._framing
        if not chunk or framing == NOTHING:
            return False
        if framing == CHUNKED:
            self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk))  # type: ignore[str-format]  # buffers, too
        elif framing == LENGTH and len(chunk) > self._remaining:
            raise ReplyError("the body is longer than its content-length")
        else:
            self._remaining -= len(chunk)
            self._write(chunk)
        return self._write_paused

    def end_stream(self) -> None:
        """End a streamed answer; raises as `write_chunk`."""
        if self._framing == LENGTH and self._remaining:
            raise ReplyError("the body is shorter than its content-length")
        if self._current is None:
            raise ClientGoneError("the client left before the end of the answer")
        if self._framing == CHUNKED:
            self._write(b"0\r\n\r\n")
        self._done(closing=self._closing)

    def break_off(self) -> None:
        """End the connection in the middle of an answer, so that the client notices that it is not whole."""
        self._current = None
        self.call = None
        self._ended = True
        if self.transport is None:
            return
        if self._framing == UNTIL_CLOSE:
            self.transport.abort()  # an orderly end would look like the end of the body
        else:
            self.transport.close()

    async def drained(self) -> None:
        """Wait until the client has read enough for more to be sent, or left."""
        self._writable = asyncio.get_running_loop().create_future()
        try:
            await self._writable
        finally:
            self._writable = None

    def _is_last(self, invocation: Invocation) -> bool:
        """Return whether the connection ends with the answer to this one."""
        if invocation is self._final:
            return True
        stream = cast("BodyStream | None", invocation.stream)
        if stream is not None and not stream.complete:
            return True  # what is left of the body would have to be read to find the next request
        return self._shared.draining and not self._pending and self._parsing is None

    def _done(self, *, closing: bool) -> None:
        self._current = None
        self.call = None
        if closing:
            self._finish(linger=self._parsing is not None or self._stream is not None)
        elif not self._advancing:
            self._advance()

    def _refuse_now(self, refusal: _Refusal) -> None:
        if self.transport is None:
            return
        invocation = refusal.invocation
        answer = self._app.refusal(refusal.status, refusal.text, invocation)
        if self._on_answer is not None:
            self._on_answer(invocation, answer.status, 0.0)
        try:
            parts = render(answer, invocation, closing=True)
        except ReplyError:
            parts = render(plain_reply(refusal.status, refusal.text), invocation, closing=True)
        self._write(b"".join(parts))
        self._finish(linger=True)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the transport to another protocol; this object is done."""
        transport, self.transport = self.transport, None
        self._ended = True
        self._shared.connections.discard(self)
        if transport is not None:
            transport.set_protocol(protocol)

    def _finish(self, *, linger: bool) -> None:
        """Close once everything is sent; a client in the middle of a request may finish its sentence first.

        Closing at once would reset a TCP connection with unread data and could take the answer with it.
        """
        self._ended = True
        self._pending.clear()
        self._held.clear()
        self._parsing = None
        transport = self.transport
        if transport is None:
            return
        if not linger or not transport.can_write_eof():
            transport.close()
            return
        self._discarded = 0
        transport.write_eof()
        self.update_reading()
        asyncio.get_running_loop().call_later(_LINGER_S, transport.close)

    def settle(self) -> None:
        """Close if nothing is going on; else the next answer ends the connection. For a draining server."""
        self._unusual = True
        if self.idle:
            self.close()

    @property
    def idle(self) -> bool:
        """Whether no request is being received, waits or runs."""
        return (
            self._current is None
            and self._parsing is None
            and not self._pending
            and not self._held
            and not self._carried
            and not self._url
        )

    def close(self) -> None:
        """Close without waiting for what runs."""
        if self.transport is not None:
            self.transport.close()
