"""The activator: holds requests for functions at zero, wakes them, splices the request through.

Envoy sends it what no worker can take (priority 1), with the header `x-pelton-function: namespace/name`. It
reads one request head, waits for a ready instance within bounded queues, then copies bytes both ways; it
parses nothing else, so bodies of any size stream. Each connection carries one request: `connection: close` is
put on the request, so that the next one meets Envoy's fresh choice. Also answers requests that no route
matches (header `-`). Functions that speak HTTP/2 themselves have a socket each (ADR 0014): their headers are
compressed, and only the bytes are passed on (`sdk/h2.py`).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote

from pelton.clock import Clock
from pelton.dataplane.instance import Instance
from pelton.dataplane.traces import new_span_id, sampled
from pelton.errors import OverloadedError, PeltonError, WakeError
from pelton.log import get
from pelton.model.span import SpanRecord
from pelton.sdk.h2 import Splice, refusal
from pelton.sdk.trace_codec import Context

__all__ = ["Activator"]

HEAD_LIMIT_BYTES: Final = 72 * 1024
"""Envoy's own limit is 64 KiB; its additions fit on top."""

LINGER_S: Final = 5.0
"""How long a client may go on sending a body that nobody reads any more."""

WAIT_LIMIT_S: Final = 60.0
FUNCTION_QUEUE: Final = 1_000
TOTAL_QUEUE: Final = 10_000
RETRY_AFTER_S: Final = 1
_CHUNK_BYTES: Final = 256 * 1024
_LAMBDA_PATH: Final = re.compile(rb"[A-Z]+ /20(?:15-03-31|21-11-15)/functions/([^/ ?]+)/")
_HOPS: Final = re.compile(rb"\r\ntracestate:[^\r]*\bpelton=hops\b", re.IGNORECASE)
"""How `pelton trace` says that it reads the node's spans."""
_DAPR_CALL: Final = re.compile(rb"\r\ndapr-callee-app-id:[ \t]*([^\r]*?)[ \t]*\r\n", re.IGNORECASE)
_TRACEPARENT: Final = re.compile(rb"\r\ntraceparent:[ \t]*([^\r]{55})[ \t]*\r\n", re.IGNORECASE)
_REASONS: Final = {
    404: "Not Found",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}

_log = get(__name__)


class Found(Protocol):
    """A function's key, and the head of the request that it is to see."""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        ...

    @property
    def head(self) -> bytes:
        """Up to and including the empty line."""
        ...


class Activator:
    """Serves one unix socket.

    Args:
        wake: Returns an instance of `namespace/name` whose socket takes connections, or raises WakeError.
        why_gone: Returns the error for an instance that ended while it started.
        listing: Lines that the 404 page shows; empty when the gateway listens beyond loopback.
        clock: Time.
        find: Returns the function (and the head it is to see) for a request that Envoy had no route for.
        on_spans: Takes spans of requests whose client wants them traced; None where nobody would.
        exported: Whether those reach a collector.
    """

    def __init__(
        self,
        *,
        wake: Callable[[str], Awaitable[Instance]],
        why_gone: Callable[[str], WakeError],
        listing: Callable[[], list[str]],
        clock: Clock,
        find: Callable[[bytes], Found | None] = lambda _head: None,
        on_spans: Callable[[list[SpanRecord]], None] | None = None,
        exported: bool = False,
    ) -> None:
        self._on_spans = on_spans
        self._exported = exported
        self._wake = wake
        self._why_gone = why_gone
        self._listing = listing
        self._find = find
        self._clock = clock
        self._waiting: Counter[str] = Counter()
        self._total = 0
        self._server: asyncio.AbstractServer | None = None
        self._path: Path | None = None
        self._h2c: dict[str, asyncio.AbstractServer] = {}
        self.overflowed = 0
        self.abandoned = 0

    async def start(self, path: Path) -> None:
        """Listen on a unix socket; a stale file is replaced."""
        path.unlink(missing_ok=True)
        self._path = path
        self._server = await asyncio.start_unix_server(
            self._serve, path=str(path), limit=HEAD_LIMIT_BYTES, backlog=1024
        )
        path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening; what is being copied goes on until the process ends."""
        if self._server is not None:
            self._server.close()
        for server in self._h2c.values():
            server.close()

    async def serve_h2c(self, key: str, path: Path) -> None:
        """Listen on a unix socket for one function that speaks HTTP/2 itself; safe to repeat."""
        if key in self._h2c:
            return
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        self._h2c[key] = await asyncio.get_running_loop().create_unix_server(
            lambda: self._h2c_connection(key), path=str(path), backlog=1024
        )
        path.chmod(0o600)

    def h2c_keys(self) -> list[str]:
        """Return the keys that have a socket of their own."""
        return list(self._h2c)

    def forget_h2c(self, key: str) -> None:
        """Stop listening for a function; what is being passed on goes on. Safe to repeat."""
        server = self._h2c.pop(key, None)
        if server is not None:
            server.close()

    def _h2c_connection(self, key: str) -> Splice:
        """Return the protocol of one connection of Envoy's; like every other one, it serves one wake only."""
        waiting = _Streams(self, key)
        return Splice(waiting.connect, waiting.begin, failed=waiting.failed, farewell=True)

    def queued(self, key: str) -> int:
        """Return requests that wait for an instance of a function."""
        return self._waiting[key]

    def waiting(self) -> list[str]:
        """Return keys of functions with waiting requests."""
        return [key for key, count in self._waiting.items() if count]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._one(reader, writer)
            await _linger(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.abandoned += 1
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("a request could not be forwarded")
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await _answer(writer, 431, "request headers exceed 64 KiB")
            return
        key = _function_of(head)
        if key in ("", "-"):
            found = self._find(head)
            if found is None:
                await self._not_found(writer, head)
                return
            key, head = found.key, found.head
        trace, head = self._traced(key, head)
        error = "the client left"
        try:
            upstream = await self._connect(key, head, reader)
            if upstream is None:
                self.abandoned += 1
                return
            up_reader, up_writer, instance = upstream
            error = ""  # from here on Envoy leaves as soon as it has the answer
            if trace is not None:
                trace.connected(instance, self._clock.monotonic())
            try:
                answered = await _splice(reader, writer, up_reader, up_writer, instance.id)
            finally:
                instance.give_back()
            error = "" if answered else f"the worker of {key} ended before it answered"
            if not answered:
                await _answer(writer, 502, error, head=head)
        except PeltonError as exc:
            error = exc.message
            await _answer(writer, exc.http_status, exc.message, hint=exc.hint, head=head)
        finally:
            if trace is not None and self._on_spans is not None:
                self._on_spans([trace.span(self._clock.monotonic(), error)])

    def _traced(self, key: str, head: bytes) -> tuple[_Trace | None, bytes]:
        """Return the trace that a client wants, and the head that the worker sees.

        It names this hop as the parent where its span can be found: in a collector, or by `pelton trace`.
        """
        found = _TRACEPARENT.search(head) if self._on_spans is not None else None
        parent = sampled(found[1].decode("latin-1")) if found is not None else None
        if found is None or parent is None:
            return None, head
        own = Context(trace_id=parent.trace_id, span_id=new_span_id())
        trace = _Trace(key, own, parent.span_id, self._clock.now().timestamp(), self._clock.monotonic())
        if self._exported or _HOPS.search(head) is not None:
            head = head[: found.start(1)] + str(own).encode() + head[found.end(1) :]
        return trace, head

    async def _connect(
        self, key: str, head: bytes, reader: asyncio.StreamReader
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Instance] | None:
        """Wait for an instance and hand it the request's head; None when the client left meanwhile.

        The head is sent as soon as the socket takes it, so that the worker finds it when its code has loaded;
        this returns when the worker is ready.
        """
        self._check_queue(key)
        self._count(key, 1)
        gone = asyncio.ensure_future(_client_gone(reader))
        work = asyncio.ensure_future(self._hand_over(key, head))
        try:
            done, _ = await asyncio.wait(
                {work, gone}, timeout=WAIT_LIMIT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if work in done:
                return work.result()
            if gone in done:
                return None
            raise WakeError(f"{key} was not ready within {WAIT_LIMIT_S:g} s")
        finally:
            gone.cancel()
            work.cancel()
            self._count(key, -1)

    def _check_queue(self, key: str, *, more: int = 1) -> None:
        if self._waiting[key] + more > FUNCTION_QUEUE or self._total + more > TOTAL_QUEUE:
            self.overflowed += 1
            raise OverloadedError(
                f"{self._waiting[key]} requests already wait for {key}",
                hint="retry after the time in Retry-After",
            )

    def _count(self, key: str, change: int) -> None:
        self._total += change
        self._waiting[key] += change
        if not self._waiting[key]:
            del self._waiting[key]

    async def _hand_over(
        self, key: str, head: bytes
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Instance]:
        while True:
            instance = await self._wake(key)
            instance.handed += 1
            try:
                up_reader, up_writer = await asyncio.open_unix_connection(instance.http, limit=_CHUNK_BYTES)
            except OSError:
                instance.give_back()
                # The worker died between being chosen and now; its burial is on the way, so ask again.
                await self._clock.sleep(0.002)
                continue
            except BaseException:
                instance.give_back()
                raise
            try:
                up_writer.write(head[:-2] + b"connection: close\r\n\r\n")
                if instance.state == "starting":
                    await instance.settled.wait()
                    if instance.state == "gone" and not instance.served:
                        raise self._why_gone(key)
            except BaseException:
                instance.give_back()
                up_writer.close()
                raise
            return up_reader, up_writer, instance

    async def reach_h2c(self, key: str, factory: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        """Wake a function and return a connection to an instance that is ready.

        Args:
            key: `namespace/name`.
            factory: Makes the connection's protocol.

        Raises:
            PeltonError: No instance, in time or at all.
        """
        self._check_queue(key, more=0)
        try:
            async with asyncio.timeout(WAIT_LIMIT_S):
                instance, transport = await self._open_h2c(key, factory)
                try:
                    if instance.state == "starting":
                        await instance.settled.wait()
                        if instance.state == "gone" and not instance.served:
                            raise self._why_gone(key)
                except BaseException:
                    transport.abort()
                    raise
                return transport
        except TimeoutError:
            raise WakeError(f"{key} was not ready within {WAIT_LIMIT_S:g} s") from None

    async def _open_h2c(
        self, key: str, factory: Callable[[], asyncio.Protocol]
    ) -> tuple[Instance, asyncio.Transport]:
        while True:
            instance = await self._wake(key)
            try:
                transport, _ = await asyncio.get_running_loop().create_unix_connection(factory, instance.http)
            except OSError:
                await self._clock.sleep(0.002)  # as in _hand_over
                continue
            return instance, transport

    def count_waiting(self, key: str, change: int) -> None:
        """Add to, or take from, the requests that wait for a function."""
        self._count(key, change)

    async def _not_found(self, writer: asyncio.StreamWriter, head: bytes) -> None:
        called = _LAMBDA_PATH.match(head)
        if called is not None:  # AWS' clients look for their own error, and read no other
            name = unquote(called[1].decode("latin-1")).rpartition(":function:")[2]
            await _answer_aws(writer, name)
            return
        names = self._listing()
        known = ("functions here:\n" + "\n".join(f"  {line}" for line in names)) if names else ""
        await _answer(writer, 404, "no function answers at this address", hint=known, head=head)


class _Trace:
    """This hop of a traced request: from its head to the end of its answer.

    Args:
        key: `namespace/name`.
        context: This hop's own.
        parent_id: Span of whoever sent the request.
        now_s: Epoch seconds, and `at`, CLOCK_MONOTONIC seconds, of the same moment.
    """

    def __init__(self, key: str, context: Context, parent_id: str, now_s: float, at: float) -> None:
        self._key = key
        self._context = context
        self._parent_id = parent_id
        self._now_s = now_s
        self._at = at
        self._tags: dict[str, str] = {}

    def connected(self, instance: Instance, at: float) -> None:
        """Note which instance has the request, and how it came to be."""
        self._tags = {"service.instance.id": instance.id, "pelton.waited_ms": _ms(at - self._at)}
        cold = instance.started_at >= self._at
        self._tags["faas.coldstart"] = "true" if cold else "false"
        if instance.forked_at:
            self._tags["pelton.fork_ms"] = _ms(instance.forked_at - instance.started_at)
        if instance.ready_at:
            self._tags["pelton.ready_ms"] = _ms(instance.ready_at - instance.started_at)

    def span(self, at: float, error: str) -> SpanRecord:
        """Return the finished span."""
        return SpanRecord(
            trace_id=self._context.trace_id,
            span_id=self._context.span_id,
            parent_id=self._parent_id,
            name=f"activate {self._key}",
            kind="internal",
            service="activator",
            start_ns=int(self._now_s * 1e9),
            end_ns=int((self._now_s + at - self._at) * 1e9),
            tags=self._tags,
            error=error,
        )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


class _Streams:
    """The HTTP/2 streams of one connection of Envoy's, which count as waiting until an instance has them."""

    def __init__(self, activator: Activator, key: str) -> None:
        self._activator = activator
        self._key = key
        self._waiting = 0
        self._over = False

    def begin(self) -> Callable[[], None]:
        if self._over:
            return _nothing
        self._change(1)

        def end() -> None:
            if not self._over:
                self._change(-1)

        return end

    def _change(self, by: int) -> None:
        self._waiting += by
        self._activator.count_waiting(self._key, by)

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        try:
            return await self._activator.reach_h2c(self._key, factory)
        finally:
            self._change(-self._waiting)
            self._over = True

    def failed(self, exc: Exception, streams: tuple[int, ...]) -> bytes:
        if not isinstance(exc, PeltonError):
            _log.error("a request could not be forwarded", exc_info=exc)
            return refusal(streams, "the request could not be forwarded", retry_after_s=RETRY_AFTER_S)
        text = exc.message + (f"; {exc.hint}" if exc.hint else "")
        return refusal(streams, text, retry_after_s=RETRY_AFTER_S)


def _nothing() -> None:
    """Stands for the end of what is not counted."""


def _function_of(head: bytes) -> str:
    """Return the value of the last x-pelton-function header: Envoy's own."""
    lowered = head.lower()
    at = lowered.rfind(b"\r\nx-pelton-function:")
    if at < 0:
        return ""
    start = at + len(b"\r\nx-pelton-function:")
    return head[start : head.index(b"\r\n", start)].strip().decode("latin-1")


async def _client_gone(reader: asyncio.StreamReader) -> None:
    """Return when the client closed its side; body bytes stay in the bounded buffer meanwhile."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 -- a stream has no event for its end
        await asyncio.sleep(0.1)


async def _splice(
    down_reader: asyncio.StreamReader,
    down_writer: asyncio.StreamWriter,
    up_reader: asyncio.StreamReader,
    up_writer: asyncio.StreamWriter,
    instance: str,
) -> bool:
    """Copy the request's rest up and the response down until the worker closes; True if anything came down.

    The response's head gets a line with the instance's name, which the gateway's access log shows. Either
    side's disappearance ends both: a client that leaves cancels the invocation in the worker.
    """

    async def up() -> None:
        while data := await down_reader.read(_CHUNK_BYTES):
            up_writer.write(data)
            await up_writer.drain()

    sent = False
    upward = asyncio.ensure_future(up())
    try:
        while True:
            downward = asyncio.ensure_future(up_reader.read(_CHUNK_BYTES))
            waiting = {downward} if upward.done() else {downward, upward}
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if downward not in done:
                if upward.exception() is None:
                    downward.cancel()
                    raise ConnectionResetError("the client left")
                data = await downward  # the worker stopped reading: it may have answered early
            else:
                data = downward.result()
            if not data:
                return sent
            down_writer.write(data if sent else _signed(data, instance))
            sent = True
            await down_writer.drain()
    except ConnectionError:
        if sent or down_reader.at_eof():
            raise
        return False
    finally:
        upward.cancel()
        await asyncio.gather(upward, return_exceptions=True)  # whoever reads on must be the only reader
        up_writer.close()


def _signed(data: bytes, instance: str) -> bytes:
    """Name the instance behind the first line of a response's head, unless an interim answer comes first."""
    line, end, rest = data.partition(b"\r\n")
    if not end or not line.startswith(b"HTTP/1.1 ") or line[9:10] == b"1":
        return data
    return line + b"\r\nx-pelton-instance: " + instance.encode() + end + rest


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say that nothing more comes, and read on for a while.

    Closing with bytes unread resets the connection, and the answer that was just written is lost with it; a
    worker that refuses a body answers before it has all of it.
    """
    writer.write_eof()
    try:
        async with asyncio.timeout(LINGER_S):
            while await reader.read(_CHUNK_BYTES):
                pass
    except (TimeoutError, ConnectionError):
        pass


def _one_line(text: str) -> str:
    """Return a sentence as a header can hold it, for the gateway's access log."""
    return " ".join(text.split())[:200].encode("ascii", "replace").decode()


async def _answer_aws(writer: asyncio.StreamWriter, name: str) -> None:
    """Say in the words of Lambda's Invoke API that there is no such function."""
    arn = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
    body = json.dumps({"Type": "User", "Message": f"Function not found: {arn}"}).encode()
    lines = [
        "HTTP/1.1 404 Not Found",
        "content-type: application/json",
        "x-amzn-errortype: ResourceNotFoundException",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


async def _answer(
    writer: asyncio.StreamWriter, status: int, message: str, *, hint: str = "", head: bytes = b""
) -> None:
    """Answer without a worker: JSON for clients that ask for it, else text; a call of Dapr as Dapr does."""
    dapr_call = _DAPR_CALL.search(head)
    wants_json = b"\r\naccept: application/json" in head.lower() or dapr_call is not None
    retried_later = status == 503
    if dapr_call is not None:
        said = f"fail to invoke, id: {dapr_call[1].decode('latin-1')}, err: {message}"
        status, body = 500, json.dumps({"errorCode": "ERR_DIRECT_INVOKE", "message": said}).encode()
    elif wants_json:
        body = json.dumps({"error": message, "hint": hint}).encode() + b"\n"
    else:
        body = (message + (f"\n{hint}" if hint else "") + "\n").encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}",
        "content-type: " + ("application/json" if wants_json else "text/plain; charset=utf-8"),
        f"content-length: {len(body)}",
        "connection: close",
        f"x-pelton-reason: {_one_line(message)}",
    ]
    if retried_later:
        lines.append(f"retry-after: {RETRY_AFTER_S}")
    payload = b"" if head.startswith(b"HEAD ") else body
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
    await writer.drain()
