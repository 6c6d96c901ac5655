"""The ASGI engine: one application behind Invocations, with lifespan, streaming both ways and disconnects.

`compat/asgi.py`, `compat/knative_func.py` and whoever else has an ASGI callable make an `Engine` and put its
parts into a LoadedFunction. The application runs in the invocation's own task and answers from inside its
call (`LoadedFunction.serve`), so a hello pays for no queue and no second task, and work behind the answer
goes on. WebSockets: `sdk/websocket.py`.
Source: ASGI 3.0, HTTP and WebSocket 2.4, lifespan 2.0. Decided where it is silent: an answer in one piece to
a client that left is dropped without an error; a streamed one raises OSError; an application that raises
between `http.response.start` and the first piece of the body is answered 500, since nothing has been sent.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

from pelton.errors import FunctionLoadError
from pelton.model.invocation import Answer, Headers, Invocation, Reply
from pelton.sdk import tracebacks
from pelton.sdk.event import as_request

__all__ = ["ASGIApp", "Collected", "Engine", "Exchange", "crash", "guarantee_single_callable", "scope_of"]

ASGIApp = Callable[..., Any]
"""`async (scope, receive, send)`, or the older `(scope) -> async (receive, send)`."""

VERSIONS: Final = {"version": "3.0", "spec_version": "2.4"}
_LIFESPAN_VERSIONS: Final = {"version": "3.0", "spec_version": "2.0"}
_SHUTDOWN_S: Final = 10.0
"""How long an application may take to shut down; the platform ends the process some time later anyway."""
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_DISCONNECT: Final = {"type": "http.disconnect"}

_OUTCOMES: Final = {
    "lifespan.startup.complete": (True, False),
    "lifespan.startup.failed": (True, True),
    "lifespan.shutdown.complete": (False, False),
    "lifespan.shutdown.failed": (False, True),
}
"""Message -> (about the startup, failed)."""

_WAITING, _STARTED, _STREAMING, _DONE = range(4)
"""How far an answer is: nothing, status and headers known, being sent, over."""


def guarantee_single_callable(app: ASGIApp) -> ASGIApp:
    """Return an application of the current form; one of ASGI 2 is wrapped."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return app
    needed = [
        item
        for item in parameters
        if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD) and item.default is item.empty
    ]
    if len(needed) != 1 or any(item.kind is item.VAR_POSITIONAL for item in parameters):
        return app

    async def single(scope: Any, receive: Any, send: Any) -> None:
        await app(scope)(receive, send)

    return single


def crash(exc: BaseException) -> Reply:
    """Answer an exception as ASGI servers do: 500 without a word about it."""
    return Reply(500, [_TEXT], b"Internal Server Error", error=tracebacks.reason(exc))


_hosts: dict[bytes, tuple[str, int | None]] = {}
"""Host header -> (host, port); bounded, since clients choose it."""


def _server(host: bytes) -> tuple[str, int | None]:
    name, colon, port = host.decode("latin-1").rpartition(":")
    made = (name, int(port)) if colon and port.isdecimal() else (host.decode("latin-1"), None)
    if len(_hosts) < 256:
        _hosts[host] = made
    return made


def scope_of(invocation: Invocation, state: dict[str, Any], *, mounted: bool = True) -> dict[str, Any]:
    """Return the HTTP scope of a request.

    Args:
        invocation: The request; its headers are handed on, not copied.
        state: What the lifespan left; copied, as the specification asks.
        mounted: Whether the path says where the gateway found the function (`root_path`); False for functions
            that believe in an address of their own.
    """
    headers = invocation.headers
    raw, _, query = invocation.target.partition(b"?")
    root, server = "", None
    for name, value in headers:
        if name == b"host":
            server = _hosts.get(value) or _server(value)
        elif (
            name == b"x-forwarded-prefix" and mounted
        ):  # set by the gateway, which has taken this off the path
            root = value.decode("latin-1").rstrip("/")
    path = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8", "replace")
    return {
        "type": "http",
        "asgi": VERSIONS,
        "http_version": invocation.http_version,
        "method": invocation.method,
        "scheme": invocation.scheme,
        "path": root + path if root else path,
        "raw_path": root.encode("latin-1") + raw if root else raw,
        "query_string": query,
        "root_path": root,
        "headers": headers,
        "client": (invocation.client, 0) if invocation.client else None,
        "server": server,
        "state": state.copy(),
    }


class Engine:
    """One application.

    Args:
        app: The ASGI callable.
        where: Source file, for error messages.

    Attributes:
        app: The same in its current form.
        state: What the lifespan put there; copied into every scope.
    """

    def __init__(self, app: ASGIApp, *, where: str = "") -> None:
        self.app = guarantee_single_callable(app)
        self.state: dict[str, Any] = {}
        self._where = where
        self._lifespan: _Lifespan | None = None

    async def serve(self, invocation: Invocation, answer: Answer) -> None:
        """See LoadedFunction.serve."""
        if invocation.event is not None:
            invocation = as_request(invocation)
        exchange = Exchange(invocation, answer)
        await self.app(scope_of(invocation, self.state), exchange.receive, exchange.send)
        if exchange.phase != _DONE:
            exchange.unfinished()

    async def call(self, invocation: Invocation) -> Reply:
        """Answer in one piece: for callers that know Invocation and Reply only."""
        answer = Collected()
        await self.serve(invocation, answer)
        return answer.collected

    async def start(self) -> None:
        """Run the application's startup.

        Raises:
            FunctionLoadError: The application says that it failed. One that knows no lifespan starts without.
        """
        lifespan = _Lifespan(self.app, self.state)
        await lifespan.start(self._where)
        self._lifespan = lifespan

    async def stop(self) -> None:
        """Run its shutdown, for at most 10 s."""
        if self._lifespan is not None:
            await self._lifespan.stop()


class Exchange:
    """One request and its answer: an application's `receive` and `send`.

    Attributes:
        phase: How far the answer is.
    """

    DONE = _DONE
    """The phase of an answer that is over."""

    __slots__ = (
        "_answer",
        "_body_left",
        "_error",
        "_given",
        "_headers",
        "_invocation",
        "_over",
        "_status",
        "phase",
    )

    def __init__(self, invocation: Invocation, answer: Answer) -> None:
        self.phase = _WAITING
        self._invocation = invocation
        self._answer = answer
        self._body_left = True
        self._status = 0
        self._headers: Headers = []
        self._given: Any = ()
        self._error: Exception | None = None
        self._over: asyncio.Future[None] | None = None

    @property
    def untouched(self) -> bool:
        """Whether nothing has been answered at all."""
        return self.phase == _WAITING

    async def receive(self) -> dict[str, Any]:
        """Return the next message: the body, or the client's leaving."""
        if self._body_left:
            stream = self._invocation.stream
            if stream is None:
                self._body_left = False
                return {"type": "http.request", "body": self._invocation.body, "more_body": False}
            try:
                return {"type": "http.request", "body": await anext(stream), "more_body": True}
            except StopAsyncIteration:
                self._body_left = False
                return {"type": "http.request", "body": b"", "more_body": False}
            except ConnectionError:
                self._body_left = False
                return _DISCONNECT.copy()
        if self.phase != _DONE and not self._answer.gone:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
                self._answer.on_gone = self._end_waiting
            await asyncio.shield(self._over)  # several may wait, and each may be cancelled
        return _DISCONNECT.copy()

    async def send(self, message: dict[str, Any]) -> None:
        """Take the next message of the answer."""
        kind = message["type"]
        phase = self.phase
        if kind == "http.response.body" and phase != _WAITING:
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = bytes(body)
            if phase == _STARTED and not message.get("more_body", False):
                self.phase = _DONE
                self._answer.reply(Reply(self._status, self._headers, body))
                if self._over is not None:
                    self._end_waiting()
            else:
                await self._stream(phase, body, last=not message.get("more_body", False))
        elif kind == "http.response.start" and phase == _WAITING:
            status = message["status"]
            given = message.get("headers") or ()
            if type(given) is not list:
                given = list(given)
            # An answer in one piece has its length from its body; that header need not be looked at.
            headers = [(name, value) for name, value in given if name != b"content-length"]
            if len(headers) == len(given):
                # Kept back, so that an answer in one piece leaves in one write; but an event stream's client
                # waits for the head, which may come long before the first event.
                asyncio.get_running_loop().call_soon(self._flush)
            elif status == 304 or self._invocation.method == "HEAD":
                headers = [(name, value) for name, value in given]
            if status >= 200:  # an interim answer is advice that a server need not pass on
                self._status = status
                self._given = given
                self._headers = headers
                self.phase = _STARTED
        elif kind != "http.response.early_hint":  # the same
            raise RuntimeError(f"the message {kind!r} is not expected here")

    async def _stream(self, phase: int, body: bytes, *, last: bool) -> None:
        if phase == _DONE:
            raise RuntimeError("the answer is complete: http.response.body comes too late")
        if phase == _STARTED:
            self._start()
        if self._error is not None:
            raise self._error
        if body:
            await self._answer.write(body)
        if last:
            self.phase = _DONE
            self._answer.end()
            if self._over is not None:
                self._end_waiting()

    def _flush(self) -> None:
        if self.phase == _STARTED:
            try:
                self._start()
            except Exception as exc:  # for the application, when it goes on
                self._error = exc

    def _start(self) -> None:
        self.phase = _STREAMING
        self._answer.start(Reply(self._status, [(name, value) for name, value in self._given]))

    def _end_waiting(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def unfinished(self) -> None:
        """Say what is wrong with an application that returned before the end of its answer.

        Raises:
            RuntimeError: Always, but for a client that left: nobody misses the rest then.
        """
        self._end_waiting()
        if self._answer.gone:
            return
        if self._error is not None:
            raise self._error
        if self.phase == _STREAMING:
            raise RuntimeError("the application returned before the end of its answer (no more_body=False)")
        what = "http.response.start" if self.phase == _WAITING else "http.response.body"
        raise RuntimeError(f"the application returned without sending {what}")


class Collected:
    """An Answer that is kept instead of sent.

    Attributes:
        collected: The answer so far.
    """

    def __init__(self) -> None:
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.collected = Reply(500, [_TEXT], b"Internal Server Error")

    def reply(self, reply: Reply) -> None:
        """See Answer."""
        self.collected = reply

    def start(self, reply: Reply) -> None:
        """See Answer."""
        self.collected = Reply(reply.status, reply.headers, b"")

    async def write(self, chunk: bytes) -> None:
        """See Answer."""
        self.collected.body = cast("bytes", self.collected.body) + chunk

    def end(self) -> None:
        """See Answer."""


class _Lifespan:
    """The application's lifespan task: its cancel scopes need startup and shutdown in one task."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._started: asyncio.Future[str] | None = None
        self._stopped: asyncio.Future[str] | None = None
        self._stop_asked = asyncio.Event()
        self._received = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self, where: str) -> None:
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._task = task = loop.create_task(self._run())
        waiting: set[asyncio.Future[Any]] = {task, self._started}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not self._started.done():
            return  # it ended without a word: it knows no lifespan
        failure = self._started.result()
        if failure:
            await asyncio.wait({task}, timeout=1.0)
            task.cancel()
            lines = failure.splitlines()
            raise FunctionLoadError(
                f"the application's startup failed: {lines[-1]}", log_tail=tuple(lines[-20:]), where=where
            )

    async def stop(self) -> None:
        task, stopped = self._task, self._stopped
        if task is None or stopped is None or task.done():
            return
        self._stop_asked.set()
        waiting: set[asyncio.Future[Any]] = {task, stopped}
        await asyncio.wait(waiting, timeout=_SHUTDOWN_S, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({task}, timeout=1.0)
        task.cancel()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": _LIFESPAN_VERSIONS, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            # Before a word about the startup: it knows no lifespan, which is no fault.
            if self._started is not None and self._started.done() and not self._started.result():
                import traceback

                traceback.print_exception(exc)

    async def _receive(self) -> dict[str, Any]:
        self._received += 1
        if self._received == 1:
            return {"type": "lifespan.startup"}
        await self._stop_asked.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: dict[str, Any]) -> None:
        outcome = _OUTCOMES.get(message["type"])
        if outcome is None:  # an application that takes every scope for a request finds out here
            raise RuntimeError(f"the message {message['type']!r} is no part of a lifespan")
        startup, failed = outcome
        about = self._started if startup else self._stopped
        if about is None or about.done():
            return
        text = str(message.get("message", "")).strip() or "no reason was given"
        about.set_result(text if failed else "")
        if failed and not startup:
            import sys

            sys.stderr.write(f"the application's shutdown failed: {text}\n")
