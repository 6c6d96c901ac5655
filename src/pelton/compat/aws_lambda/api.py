"""The Lambda Runtime API, version 2018-06-01: invocations out, answers in.

Called over HTTP (`api_http.py`) by the runtime, and by `runtime_api.py`, which owns the runtime's process and
hands over what is to be invoked. `states.py` decides what is allowed. One object per runtime; `reset` makes
it forget a runtime that has ended, the address stays.
Source: `faas-conventions` contract, section 2.1. Decided where it is silent: an answer in a wrong response
mode ends its invocation as `Runtime.InvalidResponseModeHeader`, one that breaks off as
`Runtime.TruncatedResponse`, and the runtime may go on; streams are not throttled; without a time limit
the deadline is 900 s away.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from pelton.compat.aws_lambda.api_http import Connection, Request
from pelton.compat.aws_lambda.calls import JSON, PAYLOAD_LIMIT_BYTES, LambdaCall, LambdaResult, error_payload
from pelton.compat.aws_lambda.states import (
    BAD_MODE,
    TOO_LARGE,
    TRUNCATED,
    Phase,
    Refusal,
    RuntimeStates,
    error_type,
)

__all__ = ["Pending", "RuntimeApi", "Watcher", "error_result", "json_reply", "refuse"]

_BASE: Final = b"/2018-06-01"
_INVOCATION: Final = b"/2018-06-01/runtime/invocation/"
_NEXT: Final = b"/2018-06-01/runtime/invocation/next"
_JSON_LINE: Final = b"Content-Type: application/json\r\n"
_TEXT_LINE: Final = b"Content-Type: text/plain; charset=utf-8\r\n"
_OK: Final = b'{"status":"OK"}\n'
_ERROR_WITH_CAUSE: Final = "application/vnd.aws.lambda.error.cause+json"
_LONGEST_S: Final = 900.0
_HIGH_BYTES: Final = 256 * 1024
_LOW_BYTES: Final = 64 * 1024
_BREAKS: Final = bytes.maketrans(b"\r\n\0", b"   ")
_time, _monotonic = time.time, time.monotonic


class Watcher(Protocol):
    """Who is told what the runtime does, and says when it may be handed the next invocation."""

    def polled(self) -> None:
        """The runtime asked for its first invocation: its init is done."""
        ...

    def init_failed(self, result: LambdaResult) -> None:
        """The runtime reported that its init failed."""
        ...

    def may_invoke(self) -> bool:
        """Return whether everything besides the runtime is ready for an invocation."""
        ...

    def invoked(self, pending: Pending, deadline_ms: int) -> None:
        """An invocation was handed to the runtime; the deadline is in epoch milliseconds."""
        ...

    def other(self, request: Request) -> bool:
        """Take a request that is not the Runtime API's; False when it is unknown there, too."""
        ...


class Pending:
    """An invocation on its way through the runtime.

    Args:
        call: The invocation.
        future: Gets the result; a done one means that nobody waits any more.

    Attributes:
        handed: Whether the runtime has it.
        over: Whether the runtime has answered it completely.
        stream: The answer as it comes, once the runtime streams.
        timer: Whatever ends it in time.
    """

    __slots__ = ("call", "future", "handed", "over", "stream", "timer")

    def __init__(self, call: LambdaCall, future: asyncio.Future[LambdaResult]) -> None:
        self.call = call
        self.future = future
        self.handed = False
        self.over = False
        self.stream: AnswerStream | None = None
        self.timer: asyncio.TimerHandle | None = None

    def resolve(self, result: LambdaResult) -> None:
        """Say what came of it; the first word counts. A stream that has begun ends with the error."""
        self.over = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if not self.future.done():
            self.future.set_result(result)
        elif self.stream is not None:
            self.stream.end((result.error_type, result.payload) if result.error else None)


class AnswerStream:
    """A streamed answer: bytes from the runtime's request, read piece by piece by whoever called.

    Args:
        request: The request that brings it.
    """

    __slots__ = ("_dropped", "_ended", "_parts", "_request", "_size", "_waiter", "error")

    def __init__(self, request: Request) -> None:
        self.error: tuple[str, bytes] | None = None
        self._request = request
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        self._dropped = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """See api_http.Sink."""
        if self._dropped or self._ended:
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > _HIGH_BYTES:
            self._request.pause()
        self._wake()

    def end(self, error: tuple[str, bytes] | None) -> None:
        """Note that nothing more comes, and why, if it failed."""
        if not self._ended:
            self._ended = True
            self.error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what arrives; when left early, the rest is read and dropped."""
        try:
            while True:
                if self._parts:
                    data, self._parts, self._size = b"".join(self._parts), [], 0
                    self._request.resume()
                    yield data
                elif self._ended:
                    return
                else:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        finally:
            self._dropped = True
            self._parts = []
            self._request.resume()


class RuntimeApi:
    """The API of one runtime.

    Args:
        watcher: Who follows what the runtime does.
        several: Whether the runtime takes several invocations at once.
        caching: Whether init caching is on, which adds `restore/next` and `restore/error`.

    Attributes:
        connections: Open connections.
        states: Where the runtime stands.
    """

    def __init__(self, watcher: Watcher, *, several: bool = False, caching: bool = False) -> None:
        self.connections: set[Connection] = set()
        self._watcher = watcher
        self._several = several
        self._caching = caching
        self._server: asyncio.AbstractServer | None = None
        self._quiet: asyncio.Future[None] | None = None
        self._forget()

    def _forget(self) -> None:
        self.states = RuntimeStates(several=self._several, caching=self._caching)
        self._handed: dict[str, Pending] = {}
        self._waiting: list[Request] = []
        if not hasattr(self, "_queue"):
            self._queue: deque[Pending] = deque()

    # --- for the owner of the process ---------------------------------------------------------------------

    async def open(self) -> str:
        """Listen on a free port of 127.0.0.1; returns `host:port`."""
        # A socket of our own: for a host name uvloop would start threads to look it up, and without threads
        # programs start faster (`sdk/program.py`).
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=sock, backlog=512)
        return f"127.0.0.1:{sock.getsockname()[1]}"

    def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()

    def reset(self) -> list[Pending]:
        """Forget the runtime and end its connections; returns what it had and did not answer."""
        left = [pending for pending in self._handed.values() if not pending.over]
        for connection in list(self.connections):
            connection.close()
        self._forget()
        return left

    async def drained(self, timeout_s: float) -> None:
        """Return when all connections have ended: what an ended process has sent has been read by then."""
        if self.connections:
            self._quiet = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._quiet}, timeout=timeout_s)
            self._quiet = None

    @property
    def handed(self) -> list[Pending]:
        """What the runtime has and did not answer, oldest first."""
        return list(self._handed.values())

    @property
    def queued(self) -> int:
        """How many invocations wait for the runtime."""
        return len(self._queue)

    def submit(self, pending: Pending) -> None:
        """Hand an invocation to the runtime as soon as it asks."""
        self._queue.append(pending)
        self.pump()

    def withdraw(self, pending: Pending) -> bool:
        """Take an invocation back that was not handed over yet; False when it was."""
        try:
            self._queue.remove(pending)
        except ValueError:
            return False
        return True

    def take_queue(self) -> list[Pending]:
        """Take all invocations back that were not handed over yet."""
        taken = list(self._queue)
        self._queue.clear()
        return taken

    def pump(self) -> None:
        """Hand over what can be."""
        while self._queue and self._waiting and self.states.free and self._watcher.may_invoke():
            pending = self._queue.popleft()
            call = pending.call
            if call.request_id in self._handed:  # the same id twice at once: one after the other
                self._queue.appendleft(pending)
                return
            self.states.invoke(call.request_id)
            self._handed[call.request_id] = pending
            pending.handed = True
            head, deadline_ms = _next_head(call)
            if self._several:
                self._waiting.pop(0).reply(200, head, call.payload)
            else:
                # whoever asked twice gets it twice, as if the second had asked a moment later
                waiting, self._waiting = self._waiting, []
                for request in waiting:
                    request.work = pending
                    request.reply(200, head, call.payload)
            self._watcher.invoked(pending, deadline_ms)

    # --- what comes in ------------------------------------------------------------------------------------

    def accept(self, request: Request) -> None:
        """See api_http.Application."""
        path = request.path
        if path == _NEXT:
            request.finish = self._next
            wanted = "GET"
        elif path.startswith(_INVOCATION):
            request_id, _, what = path[len(_INVOCATION) :].partition(b"/")
            if what not in {b"response", b"error"}:
                _not_found(request)
                return
            wanted = "POST"
            if request.method == wanted:
                self._begin_answer(request, request_id.decode("latin-1"), good=what == b"response")
        else:
            route = self._route(path)
            if route is None:
                if not self._watcher.other(request):
                    _not_found(request)
                return
            wanted, request.finish = route
        if request.method != wanted:
            request.reply(405, b"Allow: %s\r\n" % wanted.encode(), b"")

    def _route(self, path: bytes) -> tuple[str, Callable[[Request], None]] | None:
        if not path.startswith(_BASE):
            return None
        rest = path[len(_BASE) :]
        if rest == b"/ping":
            return "GET", _pong
        if rest == b"/runtime/init/error":
            return "POST", self._init_error
        if self._caching and rest == b"/runtime/restore/next":
            return "GET", self._restore_next
        if self._caching and rest == b"/runtime/restore/error":
            return "POST", self._restore_error
        return None

    def truncated(self, request: Request) -> None:
        """See api_http.Application."""
        pending = request.work
        if isinstance(pending, Pending) and not pending.over:
            self._broken(request, pending)
        refuse(request, TRUNCATED)

    def gone(self, request: Request) -> None:
        """See api_http.Application."""
        if request in self._waiting:
            self._waiting.remove(request)
        pending = request.work
        if isinstance(pending, Pending) and not pending.over:
            self._broken(request, pending)
        forget = getattr(request.work, "forget", None)
        if forget is not None:
            forget(request)

    def closed(self) -> None:
        """See api_http.Application."""
        if not self.connections and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _broken(self, request: Request, pending: Pending) -> None:
        text = f"the runtime's answer broke off after {request.size} bytes"
        self._finished(pending, error_result("Runtime.TruncatedResponse", text))

    # --- next ---------------------------------------------------------------------------------------------

    def _next(self, request: Request) -> None:
        first = not self.states.polled
        again = self.states.next()
        if isinstance(again, Refusal):
            refuse(request, again)
        elif again:
            pending = self._handed[again]
            request.reply(200, _next_head(pending.call)[0], pending.call.payload)
        else:
            self._waiting.append(request)
            if first:
                self._watcher.polled()
            self.pump()

    # --- response and error -------------------------------------------------------------------------------

    def _begin_answer(self, request: Request, request_id: str, *, good: bool) -> None:
        refusal = self.states.answer(request_id, Phase.RESPONSE if good else Phase.ERROR_RESPONSE)
        if refusal is not None:
            refuse(request, refusal)
            return
        request.work = pending = self._handed[request_id]
        mode = request.headers.get(b"lambda-runtime-function-response-mode", b"") if good else b""
        if not good:
            request.finish = self._error
        elif not mode:
            request.finish = self._response
        elif mode != b"streaming":
            text = f"the response mode {mode.decode('latin-1')!r} does not exist"
            self._finished(pending, error_result("Runtime.InvalidResponseModeHeader", text))
            refuse(request, BAD_MODE)
        elif pending.call.wants_stream and not pending.future.done():
            pending.stream = stream = AnswerStream(request)
            request.finish = self._stream_end
            pending.future.set_result(
                LambdaResult(
                    payload=b"",
                    content_type=_content_type(request),
                    stream=stream.chunks(),
                    stream_error=lambda: stream.error,
                )
            )
            request.read_into(stream)
        else:
            request.finish = self._response

    def _response(self, request: Request) -> None:
        if request.oversize:
            text = (
                f"Response payload size exceeded maximum allowed payload size ({PAYLOAD_LIMIT_BYTES} bytes)."
            )
            self._finished(request.work, error_result("Function.ResponseSizeTooLarge", text))
            refuse(request, TOO_LARGE)
            return
        error = _trailing_error(request)
        if error is not None:
            self._finished(request.work, read_error(*error, JSON))
        else:
            result = LambdaResult(payload=request.body, content_type=_content_type(request))
            self._finished(request.work, result)
        request.reply(202, _JSON_LINE, _OK)

    def _stream_end(self, request: Request) -> None:
        pending: Pending = request.work
        error = _trailing_error(request)
        if pending.stream is not None:
            pending.stream.end(error)
        self._finished(pending, LambdaResult())
        request.reply(202, _JSON_LINE, _OK)

    def _error(self, request: Request) -> None:
        pending: Pending = request.work
        said = error_type(request.header(b"lambda-runtime-function-error-type"))
        body, content_type = request.body, _content_type(request)
        if content_type == _ERROR_WITH_CAUSE:
            body, content_type = _without_cause(body)
        self._finished(pending, read_error(said, body, content_type))
        request.reply(202, _JSON_LINE, _OK)

    def _finished(self, pending: Pending, result: LambdaResult) -> None:
        request_id = pending.call.request_id
        if self._handed.get(request_id) is pending:
            del self._handed[request_id]
            self.states.sent(request_id)
        pending.resolve(result)

    # --- init and restore ---------------------------------------------------------------------------------

    def _init_error(self, request: Request) -> None:
        self._init_failed(request, self.states.init_error())

    def _restore_error(self, request: Request) -> None:
        self._init_failed(request, self.states.restore_error())

    def _init_failed(self, request: Request, refusal: Refusal | None) -> None:
        if refusal is not None:
            refuse(request, refusal)
            return
        said = error_type(request.header(b"lambda-runtime-function-error-type"))
        self._watcher.init_failed(read_error(said, request.body, _content_type(request)))
        request.reply(202, _JSON_LINE, _OK)

    def _restore_next(self, request: Request) -> None:
        refusal = self.states.restore_next()
        if refusal is not None:
            refuse(request, refusal)
        else:  # nothing is kept and brought back, so the moment after the restore is now
            request.reply(200, b"", b"")


def _pong(request: Request) -> None:
    request.reply(200, _TEXT_LINE, b"pong")


def _not_found(request: Request) -> None:
    request.reply(404, _TEXT_LINE, b"404 page not found\n")


def refuse(request: Request, refusal: Refusal) -> None:
    """Answer with a refusal in the API's form."""
    json_reply(request, refusal.status, {"errorMessage": refusal.message, "errorType": refusal.error_type})


def json_reply(request: Request, status: int, document: dict[str, Any], headers: bytes = b"") -> None:
    """Answer with a JSON document."""
    request.reply(status, _JSON_LINE + headers, json.dumps(document).encode() + b"\n")


def _next_head(call: LambdaCall) -> tuple[bytes, int]:
    """Return the header lines of a `next` reply and the deadline in epoch milliseconds."""
    left_s = min(call.deadline - _monotonic(), _LONGEST_S)
    deadline_ms = int((_time() + left_s) * 1000)
    head = (
        f"Lambda-Runtime-Aws-Request-Id: {call.request_id}\r\nLambda-Runtime-Deadline-Ms: {deadline_ms}\r\n"
    ).encode()
    plain = not call.content_type or call.content_type == JSON
    head += _JSON_LINE if plain else _line(b"Content-Type", call.content_type)
    if call.arn:
        head += _line(b"Lambda-Runtime-Invoked-Function-Arn", call.arn)
    if call.trace_id:
        head += _line(b"Lambda-Runtime-Trace-Id", call.trace_id)
    if call.client_context:
        head += _line(b"Lambda-Runtime-Client-Context", call.client_context)
    if call.identity:
        head += _line(b"Lambda-Runtime-Cognito-Identity", call.identity)
    if call.tenant:
        head += _line(b"Lambda-Runtime-Aws-Tenant-Id", call.tenant)
    return head, deadline_ms


def _line(name: bytes, value: str) -> bytes:
    """Return a header line; line breaks, which JSON text may have, become spaces."""
    return b"%s: %s\r\n" % (name, value.encode("utf-8", "replace").translate(_BREAKS))


def _content_type(request: Request) -> str:
    return request.header(b"content-type") or JSON


def _trailing_error(request: Request) -> tuple[str, bytes] | None:
    """Return error type and document that the trailers of a streamed answer report, if they do."""
    said = request.trailers.get(b"lambda-runtime-function-error-type")
    if said is None:
        return None
    try:
        document = base64.b64decode(request.trailers.get(b"lambda-runtime-function-error-body", b""))
    except binascii.Error:
        document = b""
    return error_type(said.decode("latin-1")), document


def _without_cause(body: bytes) -> tuple[bytes, str]:
    """Return the error document of a body that carries a cause for tracing, too, and its media type."""
    try:
        found = json.loads(body)
        kept = {name: found[name] for name in ("errorMessage", "errorType", "stackTrace") if found.get(name)}
    except (ValueError, AttributeError):
        return b'"Invalid error body"', "application/octet-stream"
    return json.dumps(kept).encode(), JSON


def error_result(kind: str, message: str) -> LambdaResult:
    """Return the result of an invocation that the platform, not the function, calls failed."""
    return LambdaResult(
        payload=error_payload(kind, message), error=True, error_type=kind, error_message=message
    )


def read_error(said: str, document: bytes, content_type: str) -> LambdaResult:
    """Return the result for an error that the runtime reported.

    Args:
        said: Error type by its header; counts where the document has none.
        document: What it reports, usually JSON with `errorType` and `errorMessage`.
        content_type: Media type of the document.
    """
    kind, message = said, ""
    try:
        found = json.loads(document)
    except ValueError:
        found = None
    if isinstance(found, dict):
        if isinstance(found.get("errorType"), str) and found["errorType"]:
            kind = found["errorType"]
        if isinstance(found.get("errorMessage"), str):
            message = found["errorMessage"]
    return LambdaResult(
        payload=document, content_type=content_type, error=True, error_type=kind, error_message=message
    )
