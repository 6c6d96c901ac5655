"""One invocation shape for HTTP requests and events: Invocation in, Reply out.

Every convention's codec (`compat/`) maps its arguments and results onto these; the worker
(`dataplane/worker.py`) makes and consumes them. Invocation, Reply and Event are structs and not dataclasses,
since one of each is built per request or event and a struct is built without running Python code.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from pelton.model.state import StateAnswer, StateCall

__all__ = [
    "Answer",
    "Deferred",
    "Delivered",
    "Event",
    "Handler",
    "Headers",
    "Invocation",
    "LoadRequest",
    "LoadedFunction",
    "Output",
    "Reply",
]

Headers = list[tuple[bytes, bytes]]
"""HTTP headers in wire order; names are lower-case bytes."""


class Event(msgspec.Struct, kw_only=True, array_like=True):
    """An event as the dispatcher hands it to a worker; without names on the wire.

    Attributes:
        kind: `topic` (publish/subscribe), `binding`, or `deferred` (accepted earlier for this function).
        component: Name of the Dapr component it came through.
        component_type: Its type, e.g. `pubsub.jetstream`.
        topic: Topic for `topic` events, else "".
        data: Payload as delivered by the broker, unwrapped from a CloudEvent envelope where there was one.
        content_type: Media type of `data`; may be "".
        attributes: CloudEvent attributes (id, source, type, specversion, time, subject, extensions); for a
            binding event: empty.
        metadata: Broker metadata, header name -> value.
        attempt: 1 for the first delivery that a function sees.
    """

    kind: str
    component: str
    component_type: str
    topic: str
    data: bytes
    content_type: str
    attributes: dict[str, Any] = msgspec.field(default_factory=dict)
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    attempt: int = 1


class Invocation(msgspec.Struct):
    """One call of a function, whatever caused it.

    Attributes:
        id: Unique id; from the `x-request-id` header or the event, else made by the worker.
        method: HTTP method, upper case; `POST` for events.
        target: Request target as received, path and query, e.g. b"/a%20b?x=1".
        headers: Lower-case names, wire order; empty for events.
        body: Whole body, bytes; b"" while `stream` is set.
        stream: Body chunks, for functions that asked for streaming and have not got the whole body; else
            None.
        deadline: CLOCK_MONOTONIC seconds at which the invocation is given up; inf for none.
        scheme: `http` or `https`, as the client used it.
        client: Client address as text; may be "".
        http_version: `1.0` or `1.1`.
        event: Set when a broker delivered this invocation.
    """

    id: str
    method: str
    target: bytes
    headers: Headers
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    deadline: float = float("inf")
    scheme: str = "http"
    client: str = ""
    http_version: str = "1.1"
    event: Event | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header (lower-case name), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Reply(msgspec.Struct):
    """What a function answered.

    Attributes:
        status: HTTP status; for events anything from 200 to 299 means success.
        headers: Lower-case names. Content-length is set by the worker when `body` is bytes and none is given.
        body: Bytes, or an async iterator of chunks for a streamed answer.
        retry: For events with a failing status: False means "drop to dead letters at once".
        error: One-line reason for a failing event, for logs and dead letters; else "".
    """

    status: int = 200
    headers: Headers = msgspec.field(default_factory=list)
    body: bytes | AsyncIterator[bytes] = b""
    retry: bool = True
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Output:
    """Something a function sends while it runs.

    Attributes:
        name: Output name as the manifest calls it.
        data: Payload bytes.
        content_type: Media type of `data`.
        operation: Binding operation that overrides the manifest's; "" keeps the manifest's.
        metadata: Extra metadata, merged over the manifest's.
        traceparent: W3C trace context of the invocation that sends it, "" when it is not traced.
    """

    name: str
    data: bytes
    content_type: str = "application/json"
    operation: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    traceparent: str = ""


@dataclass(slots=True, kw_only=True)
class Delivered:
    """What an output's destination answered.

    Attributes:
        ok: Whether it was accepted.
        data: Response body of a binding; b"" for topics.
        metadata: Response metadata, e.g. `statusCode`.
        error: Why it was not accepted; "" when ok.
    """

    ok: bool
    data: bytes = b""
    metadata: dict[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Deferred:
    """An invocation that is accepted now and carried out later; it survives the process that accepted it.

    It comes back as an Event of kind `deferred` with the same id, data, content type and metadata.

    Attributes:
        id: Its invocation id; the same id twice is carried out once.
        data: Payload bytes.
        content_type: Media type of `data`.
        metadata: Whatever the convention needs to know again, name -> value.
    """

    id: str
    data: bytes
    content_type: str = "application/json"
    metadata: dict[str, str] = field(default_factory=dict)


class Answer(Protocol):
    """Where a function that answers by itself puts its answer, see `LoadedFunction.serve`.

    Either one `reply`, or `start`, any number of `write` and one `end`. Of a client that left, `gone` is set,
    `on_gone` is called, a `reply` goes nowhere, and `start` and `write` raise ConnectionError.
    """

    gone: bool
    on_gone: Callable[[], None] | None

    def reply(self, reply: Reply) -> None:
        """Send a whole answer; its body is bytes."""
        ...

    def start(self, reply: Reply) -> None:
        """Send status and headers of an answer whose body follows; the reply's own body is not looked at."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body, no faster than the client reads."""
        ...

    def end(self) -> None:
        """End the body."""
        ...


Handler = Callable[[Invocation], Awaitable[Reply]]
"""The one shape that conventions, hooks, retries, traces and limits wrap."""


@dataclass(slots=True, kw_only=True)
class LoadedFunction:
    """A convention's view of user code after loading, ready to be called.

    Attributes:
        call: `Invocation -> Reply` when `sync`, else `Invocation -> Awaitable[Reply]`. Raising means "the
            function failed": the worker answers with `on_error`.
        sync: True for plain functions: the worker runs `call` inline or on a thread.
        blocking: True when a sync call may wait for the platform itself (an output's answer); such a call
            never runs inline on the event loop.
        streams_body: True when a request is to begin before its body has arrived; `Invocation.stream` then
            has it, unless the whole body came with the head.
        on_error: Maps an exception raised by `call` to the convention's error answer.
        signature: What was found, e.g. `http`, `cloudevent`, `openfunction`.
        target: Name of the function in the user's module.
        start, stop: Optional lifespan coroutines run once in the worker's loop before the first and after the
            last call.
        probe: What a load check does besides loading, in a process of its own that is then thrown away:
            starts what an instance would start, and ends it. Raises FunctionLoadError.
        unhandled_paths: Paths answered 404 without calling the function, e.g. {b"/favicon.ico"}.
        serve: Used instead of `call` by async functions that may go on after their answer: a coroutine
            function of (invocation, Answer). It is not cancelled when the client leaves, but told; only one
            that goes on for 10 s after its client left a streamed answer is, and one that has no answer when
            its time is up.
        refuse: The convention's answer for what the worker itself refuses: (status, text, invocation) ->
            Reply, or None for the worker's own. Status is 413 (body too long; its invocation has no body),
            503 (queue full) or 504 (time limit passed). Never called for events.
        body_limit_bytes: Longest request body by the convention's own rules; the lower of this and the
            function's limit counts. 0 for none.
        aside: Answers what needs no user code and so no place in the gate (an invocation that is only to be
            accepted, a question about one): invocation -> awaitable of the Reply, or None for everything
            else. Must not block. Never called for events.
        upgrade: Takes over a connection whose request asks for another protocol: (invocation, transport,
            bytes already received after the head) -> the asyncio.Protocol that goes on, or None to answer the
            request as usual.
            The hook has called its `connection_made` and fed it; the worker counts it as one invocation until
            its `connection_lost`, and calls its `shutdown`, if it has one, when it drains.
        raw: Makes the asyncio.Protocol that gets every byte of a connection, so that HTTP is not parsed at
            all (h2c). It is given `begin`: to be called when an invocation begins, it returns a function to
            be called when that one has ended; scaling and draining go by it. None for HTTP/1.1.
    """

    call: Callable[[Invocation], Any]
    sync: bool
    blocking: bool = False
    streams_body: bool = False
    on_error: Callable[[BaseException], Reply] | None = None
    signature: str = "http"
    target: str = ""
    start: Callable[[], Awaitable[None]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None
    probe: Callable[[], Awaitable[None]] | None = None
    unhandled_paths: frozenset[bytes] = frozenset()
    serve: Callable[[Invocation, Answer], Awaitable[None]] | None = None
    refuse: Callable[[int, str, Invocation], Reply | None] | None = None
    body_limit_bytes: int = 0
    aside: Callable[[Invocation], Awaitable[Reply] | None] | None = None
    upgrade: Callable[[Invocation, Any, bytes], Any] | None = None
    raw: Callable[[Callable[[], Callable[[], None]]], Any] | None = None


@dataclass(slots=True, kw_only=True)
class LoadRequest:
    """What a convention needs to load user code; made by `dataplane/loader.py`.

    Attributes:
        source: Path of the source file, absolute; the bundle's directory when there is no single file.
        target: Name of the function, or "" to let the convention find it.
        signature: Signature type asked for, or "".
        context: The function context (contracts: OpenFunction section 8.3, merged form); {} when there is
            none.
        send: Hands an Output to the runtime and returns its Delivered; blocks the calling thread, raises when
            called on the event loop's thread.
        send_async: The same for coroutines.
        defer: Hands over an invocation to be carried out later; its Delivered is ok once it is stored.
        state: Uses a state store and returns its answer; blocks the calling thread as `send` does. Raises
            PeltonError for what the store refuses.
        state_async: The same for coroutines.
        bundle: Directory of the source, absolute; the working directory.
        namespace, name, revision: The Function's.
        options: How to serve it, e.g. {"http-event": "alb"}: what detection found, then `pelton.dev/...`
            annotations without the prefix.
        timeout_s: Seconds per invocation, 0 for no limit.
        concurrency: Invocations that may run at once, 0 for no limit.
        body_limit_bytes: Longest request body of the function.
    """

    source: str
    target: str
    signature: str
    context: Mapping[str, Any]
    send: Callable[[Output], Delivered]
    send_async: Callable[[Output], Awaitable[Delivered]]
    defer: Callable[[Deferred], Awaitable[Delivered]] | None = None
    state: Callable[[StateCall], StateAnswer] | None = None
    state_async: Callable[[StateCall], Awaitable[StateAnswer]] | None = None
    bundle: str = ""
    namespace: str = "default"
    name: str = ""
    revision: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 300.0
    concurrency: int = 0
    body_limit_bytes: int = 32 * 1024 * 1024
