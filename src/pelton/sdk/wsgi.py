"""The WSGI engine: one application behind Invocations; streamed answers are stepped on threads.

Called by `compat/wsgi.py`. The worker runs it inline or on a thread, as every sync function.
Source: PEP 3333. Decided where it is silent: an answer is taken whole when it is a list or tuple, announces
at most 256 KiB, or says that it is no stream (Django); everything else leaves piece by piece as it is made.
What `write` is given is kept until the application returns.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final

from pelton.model.invocation import Headers, Invocation, Reply
from pelton.sdk.event import as_request
from pelton.sdk.flask_app import environ

__all__ = ["WSGIApp", "caller", "environ_of"]

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_WHOLE_BYTES: Final = 256 * 1024
_END: Final = object()


def environ_of(invocation: Invocation) -> dict[str, Any]:
    """Return the WSGI environment of a request; what the gateway took off the path is SCRIPT_NAME."""
    made = environ(invocation)
    prefix = made.get("HTTP_X_FORWARDED_PREFIX")
    if prefix:
        made["SCRIPT_NAME"] = prefix.rstrip("/")
    return made


def caller(app: WSGIApp) -> Callable[[Invocation], Reply]:
    """Return `Invocation -> Reply` for an application."""

    def call(invocation: Invocation) -> Reply:
        # One context for the call and for all steps of its answer: Flask enters its own in the one and leaves
        # them in the other.
        context = contextvars.copy_context()
        return context.run(answer, invocation, context)

    def answer(invocation: Invocation, context: contextvars.Context) -> Reply:
        if invocation.event is not None:
            invocation = as_request(invocation)
        start = _Start()
        result = app(environ_of(invocation), start)
        whole = False
        try:
            if (
                isinstance(result, (list, tuple))
                or 0 <= start.length <= _WHOLE_BYTES
                or getattr(result, "streaming", True) is False
            ):
                body = b"".join(result)
                whole = True
            else:
                # An application may call start_response as late as for its first piece.
                pieces = iter(result)
                first = start.written.pop(0) if start.written else next(pieces, _END)
                if not start.said:
                    raise RuntimeError("the application returned without calling start_response")
                if first is _END:
                    body = b""
                    whole = True
                elif not isinstance(first, bytes | bytearray | memoryview):
                    whole = True  # the headers have not left: there can still be an error
                    raise TypeError(f"a piece of the body is {type(first).__name__}, not bytes")
                else:
                    start.sent = True
                    chunks = _chunks([first, *start.written], pieces, result, context)
                    return Reply(start.status, start.headers, chunks)
        except BaseException:
            whole = True
            raise
        finally:
            if whole:
                _close(result)
        if not start.said:
            raise RuntimeError("the application returned without calling start_response")
        if start.written:
            body = b"".join([*start.written, body])
        return Reply(start.status, start.headers, body)

    return call


class _Start:
    """One answer's `start_response`.

    Attributes:
        said: Whether it was called.
        sent: Whether the headers are on their way.
        status, headers: What it was told.
        length: Announced length in bytes; -1 for none.
        written: What `write` was given.
    """

    __slots__ = ("headers", "length", "said", "sent", "status", "written")

    def __init__(self) -> None:
        self.said = self.sent = False
        self.status = 500
        self.headers: Headers = []
        self.length = -1
        self.written: list[bytes] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """See PEP 3333."""
        if exc_info is not None:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # the PEP's own advice against a circle
        elif self.said:
            raise AssertionError("start_response is called a second time, without exc_info")
        self.said = True
        self.status = int(status[:3])
        self.length = -1
        made: Headers = []
        for name, value in headers:
            key = name.lower().encode("latin-1")
            made.append((key, value.encode("latin-1")))
            if key == b"content-length" and value.isdecimal():
                self.length = int(value)
        self.headers = made
        return self.written.append


async def _chunks(ahead: list[Any], pieces: Iterator[Any], owner: Any, context: Any) -> AsyncIterator[bytes]:
    """Step an application's iterable on threads, in one context; its `close` runs however the stream ends."""
    loop = asyncio.get_running_loop()
    step: asyncio.Future[Any] | None = None
    try:
        for chunk in ahead:
            yield chunk
        while True:
            step = loop.run_in_executor(None, context.run, next, pieces, _END)
            chunk = await asyncio.shield(step)
            if chunk is _END:
                break
            yield chunk
    finally:
        if step is not None and not step.done():
            await asyncio.wait({step})  # a thread cannot be interrupted, nor a running generator be closed
        await loop.run_in_executor(None, context.run, _close, owner)


def _close(result: Any) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()
