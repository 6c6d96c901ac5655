"""Where alerts come in: `POST /api/v2/alerts` and the health pages, as an ASGI app.

Called by functions, Alertmanager and the log handlers; calls `notify/alert.parse` and hands the alerts to
`accept` (the pipeline's). 200 means: stored, not yet sent. Errors have the same two keys as success, since
that is the shape clients of this API print. Source: contracts/log-notification.md 5, 9.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pelton import log
from pelton.clock import Clock, SystemClock
from pelton.errors import DeliveryError, OverloadedError, PayloadTooLargeError, ProtocolError
from pelton.notify.alert import Alert, parse

__all__ = ["ACCEPTED", "create_app", "read_body"]

ACCEPTED = "Notification request accepted"
"""What existing clients look for."""

_log = log.get(__name__)


def create_app(
    accept: Callable[[list[Alert]], Awaitable[object]],
    *,
    status: Callable[[], Mapping[str, Any]] = dict,
    ready: Callable[[], bool] = lambda: True,
    clock: Clock | None = None,
    body_limit_bytes: int = 4 * 1024 * 1024,
    max_requests: int = 32,
    read_timeout_s: float = 10.0,
    accept_timeout_s: float = 10.0,
    further: Sequence[BaseRoute] = (),
) -> Starlette:
    """Return the intake as an ASGI app; it needs no lifespan.

    Args:
        accept: Stores alerts durably; returns once they are. Raises PayloadTooLargeError, DeliveryError or
            OverloadedError.
        status: What `GET /status` shows.
        ready: Whether `GET /-/ready` answers 200, else 503.
        clock: Time of receipt; the machine's by default.
        body_limit_bytes: Largest body, inclusive; above it 413.
        max_requests: Requests handled at once; above it 503. With the body limit it bounds the memory used.
        read_timeout_s: Seconds a client has for its body; after it 408.
        accept_timeout_s: Seconds the queue has; after it 503.
        further: Routes of other APIs on this port.
    """
    time = clock or SystemClock()
    running = 0

    async def alerts(request: Request) -> Response:
        nonlocal running
        if running >= max_requests:
            return _busy("Too many requests at once; send it again.")
        running += 1
        try:
            return await take(request)
        finally:
            running -= 1

    async def take(request: Request) -> Response:
        try:
            try:
                body = await read_body(request, body_limit_bytes, timeout_s=read_timeout_s)
            except TimeoutError:
                late = f"The body did not arrive within {read_timeout_s:g} s."
                return _answer(408, late, {"connection": "close"})
            received = parse(body, now=time.now())
            if received:
                async with asyncio.timeout(accept_timeout_s):
                    await accept(received)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except PayloadTooLargeError as error:
            return _answer(413, error.message, {"connection": "close"})
        except ProtocolError as error:
            return _answer(400, error.message)
        except (DeliveryError, OverloadedError, OSError) as error:
            # The text of a broker's error is for the operator, not for whoever can reach this port.
            reason = str(error) or type(error).__name__
            _log.error("alerts not stored, the sender was told to repeat error=%s", reason)
            return _busy("The alerts could not be stored; send them again.")
        return _answer(200, ACCEPTED)

    async def page(_: Request) -> Response:
        return Response(msgspec.json.encode(dict(status())), media_type="application/json")

    async def live(_: Request) -> Response:
        return _answer(200, "live")

    async def ready_(_: Request) -> Response:
        return _answer(200, "ready") if ready() else _busy("Not ready yet.")

    return Starlette(
        routes=[
            Route("/api/v2/alerts", alerts, methods=["POST"]),
            Route("/-/ready", ready_, methods=["GET"]),
            Route("/-/live", live, methods=["GET"]),
            Route("/-/healthy", live, methods=["GET"]),
            Route("/status", page, methods=["GET"]),
            *further,
        ]
    )


async def read_body(request: Request, limit_bytes: int, *, timeout_s: float = 10.0) -> bytes:
    """Return the body of a request.

    Args:
        request: Not read yet.
        limit_bytes: Largest body, inclusive.
        timeout_s: Seconds that the client has for it.

    Raises:
        PayloadTooLargeError: It is above the limit.
        TimeoutError: It did not arrive in time.
        ClientDisconnect: The client went away; nobody reads an answer.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    async with asyncio.timeout(timeout_s):
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit_bytes:
                raise _too_large(limit_bytes)
    return bytes(body)


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body is above the limit of {limit} bytes; send less at once.")


def _busy(message: str) -> Response:
    return _answer(503, message, {"retry-after": "1"})


def _answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode({"Status": status, "Message": message}),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )
