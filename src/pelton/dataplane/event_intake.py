"""Where events of EventSources of kind http come in: `POST /events/<namespace>/<source>/<event>`.

CloudEvents in binary, structured and batch mode, and any other body as it is. 202 means: stored, not yet
relayed. A CloudEvent that is posted twice within two minutes is stored once. `cli/runtime.py` puts the route
beside the alerts' intake; what is stored is `triggers.py`'s. Source: CloudEvents' HTTP protocol binding.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pelton import log
from pelton.errors import DeliveryError, ProtocolError
from pelton.model import cloudevent
from pelton.model.event_framework import Relay

__all__ = ["Posted", "event_routes"]

_LIMIT_BYTES: Final = 5 * 1024 * 1024
_REQUESTS: Final = 64
_READ_S: Final = 10.0
_STORE_S: Final = 10.0

Posted = tuple[Mapping[str, str], bytes, str]
"""Headers, data and id of one event."""

_log = log.get(__name__)


def event_routes(
    relay_at: Callable[[str], Relay | None],
    accept: Callable[[Relay, Sequence[Posted]], Awaitable[object]],
    new_id: Callable[[], str],
) -> list[Route]:
    """Return the route.

    Args:
        relay_at: Path -> whose events are posted there; None for nobody's.
        accept: Stores events durably; raises DeliveryError.
        new_id: Returns an id for a body that is no CloudEvent.
    """
    running = 0

    async def events(request: Request) -> Response:
        nonlocal running
        if running >= _REQUESTS:
            return _answer(503, "too many requests at once; send it again", {"retry-after": "1"})
        running += 1
        try:
            return await take(request)
        finally:
            running -= 1

    async def take(request: Request) -> Response:
        relay = relay_at(request.url.path)
        if relay is None or relay.webhook is None:
            return _answer(404, "no EventSource has an http event of that name, or it is not ready")
        if relay.webhook.token and not _knows(request, relay.webhook.token):
            return _answer(401, "send the token as `Authorization: Bearer`", {"www-authenticate": "Bearer"})
        try:
            async with asyncio.timeout(_READ_S):
                body = await _read(request)
        except TimeoutError:
            return _answer(408, f"the body did not arrive within {_READ_S:g} s", {"connection": "close"})
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        if body is None:
            return _answer(413, f"the body is above {_LIMIT_BYTES} bytes", {"connection": "close"})
        try:
            posted = _events(request.headers, body, new_id)
        except ProtocolError as error:
            return _answer(400, error.message)
        try:
            async with asyncio.timeout(_STORE_S):
                await accept(relay, posted)
        except (DeliveryError, OSError) as error:
            _log.error("%s: events not stored, the sender was told to repeat: %s", relay.key, error)
            return _answer(503, "the events could not be stored; send them again", {"retry-after": "1"})
        return _answer(202, f"{len(posted)} stored")

    return [Route("/events/{namespace}/{source}/{event}", events, methods=["POST"])]


def _knows(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


async def _read(request: Request) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LIMIT_BYTES:
            return None
    return bytes(body)


def _events(headers: Mapping[str, str], body: bytes, new_id: Callable[[], str]) -> list[Posted]:
    """Split a request into events; raises ProtocolError when it says it is one, or a batch, and is none."""
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() == cloudevent.BATCH:
        parts = cloudevent.split_batch(headers, body)
        if parts is None:
            raise ProtocolError("a batch of CloudEvents must be a JSON array")
        structured = {"content-type": cloudevent.STRUCTURED}
        return [(structured, part, _id(cloudevent.from_json(part))) for part in parts]
    found = cloudevent.from_headers(headers, body)
    kept = {name: headers[name] for name in ("content-type", "traceparent") if headers.get(name)}
    if found is None:
        return [(kept, body, new_id())]
    kept |= {name: value for name, value in headers.items() if name.startswith("ce-")}
    return [(kept, body, _id(found))]


def _id(event: cloudevent.CloudEvent) -> str:
    """Return what is the same for the same event: its source and id together."""
    return hashlib.sha256(f"{event.source}\n{event.id}".encode()).hexdigest()[:32]


def _answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode({"message": message}),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )
