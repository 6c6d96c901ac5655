"""The app channel over HTTP/1.1: routes of the app, `/dapr/subscribe`, OPTIONS probes, health.

Implements `AppChannel` of `channel.py` with the client of `sdk/forward.py`, over TCP or the unix socket of an
instance. Made by whoever registers the app.
Source: contracts, Dapr runtime, sections 3 and 5; Dapr HTTP, section 1 (token, trace headers).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from pelton.compat.dapr.channel import (
    ABSENT,
    RETRY,
    SUCCESS,
    UNREACHED,
    Answer,
    AppUnreachableError,
    BindingAnswer,
    BindingEvent,
    TopicEvent,
    judge_status,
    trace_of,
)
from pelton.compat.dapr.subscriptions import TopicSubscription, from_json
from pelton.errors import ProtocolError
from pelton.model.cloudevent import UNREADABLE, is_json
from pelton.model.invocation import Headers, Invocation, Reply
from pelton.sdk.forward import ForwardError, Upstream

__all__ = ["HttpChannel"]

_ASK_S: Final = 5.0
_ANSWER_BYTES: Final = 4 * 1024 * 1024
_NEVER_SENT: Final = frozenset(
    {"content-length", "content-type", "connection", "transfer-encoding", "host", "dapr-api-token"}
)
_CLOUDEVENT: Final = (b"content-type", b"application/cloudevents+json")
_JSON: Final = (b"content-type", b"application/json")


class HttpChannel:
    """One address of an app that speaks HTTP.

    Args:
        address: (host, port), or the path of a unix socket.
        token: Sent as `dapr-api-token`; "" sends none.
        headers: Further headers of every request, lower-case names.
        ask_s: Seconds that the app has to say what it wants.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        token: str = "",
        headers: Headers | None = None,
        ask_s: float = _ASK_S,
    ) -> None:
        self._upstream = Upstream(address)
        self._always: Headers = list(headers or ())
        self._token = token
        self._ask_s = ask_s
        if token:
            self._always.append((b"dapr-api-token", token.encode()))

    async def subscriptions(self) -> tuple[list[TopicSubscription], list[str]]:
        """Ask `GET /dapr/subscribe`; an app without that route wants nothing."""
        status, body, _ = await self._ask("GET", b"/dapr/subscribe")
        if status in (404, 405) or (200 <= status < 300 and not body.strip()):
            return [], []
        if not 200 <= status < 300:
            raise ProtocolError(f"GET /dapr/subscribe answered {status}")
        try:
            items = msgspec.json.decode(body)
        except UNREADABLE as exc:
            raise ProtocolError(f"the answer to GET /dapr/subscribe is no JSON: {exc}") from exc
        return from_json(items)

    async def deliver(self, event: TopicEvent, *, timeout_s: float) -> Answer:
        """POST the envelope to the event's route."""
        headers = [_CLOUDEVENT, (b"pubsubname", event.pubsub.encode()), *_metadata(event.metadata)]
        headers += _traced(event.attributes)
        try:
            status, body, content_type = await self._post(event.path, headers, event.envelope, timeout_s)
        except (AppUnreachableError, TimeoutError) as exc:
            return _unanswered(exc, timeout_s)
        if status == 404:
            return Answer(status=ABSENT, reason=f"the app has no route {event.path}", code="404")
        if not 200 <= status < 300:
            return Answer(status=RETRY, reason=_said(event.path, status, body), code=str(status))
        if not body or (content_type and not is_json(content_type) and body[:1] != b"{"):
            return Answer(status=SUCCESS, code=str(status))
        try:
            members = msgspec.json.decode(body)
        except UNREADABLE:
            return Answer(status=SUCCESS, code=str(status))
        given = members.get("status") if isinstance(members, dict) else None
        judged = judge_status(given)
        reason = "" if judged == SUCCESS else f"the app answered {str(given)[:100]}"
        return Answer(status=judged, reason=reason, code=str(status))

    async def deliver_bulk(self, events: Sequence[TopicEvent], *, timeout_s: float) -> list[Answer]:
        """POST the events as one bulk to their route."""
        first = events[0]
        body = msgspec.json.encode(
            {
                "id": str(uuid.uuid4()),
                "type": "com.dapr.event.sent.bulk",
                "topic": first.topic,
                "pubsubname": first.pubsub,
                "metadata": {"pubsubName": first.pubsub},
                "entries": [_entry(event) for event in events],
            }
        )
        headers = [_JSON, (b"pubsubname", first.pubsub.encode())]
        try:
            status, answered, _ = await self._post(first.path, headers, body, timeout_s)
        except (AppUnreachableError, TimeoutError) as exc:
            return [_unanswered(exc, timeout_s)] * len(events)
        code = str(status)
        if status == 404:
            reason = f"the app has no route {first.path}"
            return [Answer(status=SUCCESS, reason=reason, code=code)] * len(events)
        if not 200 <= status < 300:
            answer = Answer(status=RETRY, reason=_said(first.path, status, answered), code=code)
            return [answer] * len(events)
        return _bulk_answers(events, answered, code)

    async def takes_binding(self, name: str, route: str) -> bool:
        """Ask by OPTIONS; 2xx and 405 mean yes."""
        del name
        status, _, _ = await self._ask("OPTIONS", _target(route))
        return 200 <= status < 300 or status == 405

    async def trigger(self, event: BindingEvent, *, timeout_s: float) -> BindingAnswer:
        """POST the payload to the binding's route, its metadata as headers."""
        headers = [_JSON, *_metadata(event.metadata)]
        try:
            status, body, _ = await self._post(event.route, headers, event.data, timeout_s)
        except (AppUnreachableError, TimeoutError) as exc:
            return BindingAnswer(answer=_unanswered(exc, timeout_s))
        if not 200 <= status < 300:
            answer = Answer(status=RETRY, reason=_said(event.route, status, body), code=str(status))
            return BindingAnswer(answer=answer)
        return _binding_answer(Answer(status=SUCCESS, code=str(status)), body)

    async def invoke(self, invocation: Invocation) -> Reply:
        """Pass a request on and its answer back; redirects and errors are the caller's."""
        if self._always:
            invocation.headers = [
                *(pair for pair in invocation.headers if pair[0] != b"dapr-api-token"),
                *self._always,
            ]
        try:
            return await self._upstream.forward(invocation)
        except ForwardError as exc:
            raise _unreached(exc) from exc

    async def is_healthy(self, path: str, *, timeout_s: float) -> bool:
        """GET `path`; any 2xx is healthy."""
        try:
            async with asyncio.timeout(timeout_s):
                status, _, _ = await self._exchange("GET", _target(path), [], b"")
        except (AppUnreachableError, TimeoutError):
            return False
        return 200 <= status < 300

    async def close(self) -> None:
        """Close the connections."""
        self._upstream.close()

    async def _ask(self, method: str, target: bytes) -> tuple[int, bytes, str]:
        try:
            async with asyncio.timeout(self._ask_s):
                return await self._exchange(method, target, [], b"")
        except TimeoutError:
            raise AppUnreachableError(
                f"{method} {target.decode()} was not answered in {self._ask_s:g} s"
            ) from None

    async def _post(
        self, route: str, headers: Headers, body: bytes, timeout_s: float
    ) -> tuple[int, bytes, str]:
        async with asyncio.timeout(timeout_s or None):
            return await self._exchange("POST", _target(route), headers, body)

    async def _exchange(
        self, method: str, target: bytes, headers: Headers, body: bytes
    ) -> tuple[int, bytes, str]:
        invocation = Invocation(
            id=uuid.uuid4().hex,
            method=method,
            target=target,
            headers=[*headers, *self._always],
            body=body,
        )
        try:
            reply = await self._upstream.forward(invocation)
            content_type = next(
                (value.decode("latin-1") for name, value in reply.headers if name == b"content-type"), ""
            )
            return reply.status, await _whole(reply), content_type
        except ForwardError as exc:
            raise _unreached(exc) from exc


async def _whole(reply: Reply) -> bytes:
    """Return a body; of one that is longer than any answer that means something, its beginning."""
    body: Any = reply.body
    if isinstance(body, bytes):
        return body
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in body:
            parts.append(chunk)
            size += len(chunk)
            if size > _ANSWER_BYTES:
                break
    finally:
        await body.aclose()
    return b"".join(parts)


def _target(route: str) -> bytes:
    """Return the request target of a route, which may be written without its slash."""
    path, mark, query = route.partition("?")
    return quote("/" + path.lstrip("/") + mark + query, safe="/%?&=:@!$'()*+,;~-._").encode()


def _metadata(metadata: Mapping[str, str]) -> Headers:
    """Return broker metadata as headers; what no header can hold is left out."""
    found: Headers = []
    for name, value in metadata.items():
        lower = name.lower()
        if lower in _NEVER_SENT or not lower or not _is_token(lower):
            continue
        line = " ".join(value.split("\n")).replace("\r", " ").replace("\0", " ")
        found.append((lower.encode(), line.encode("utf-8")))
    return found


def _is_token(name: str) -> bool:
    return all(char.isascii() and (char.isalnum() or char in "!#$%&'*+-.^_`|~") for char in name)


def _traced(attributes: Mapping[str, Any]) -> Headers:
    return [(name.encode(), text.encode()) for name, text in trace_of(attributes).items()]


def _said(route: str, status: int, body: bytes) -> str:
    text = body[:200].decode("utf-8", "replace").strip()
    return f"{route or '/'} answered {status}" + (f": {text}" if text else "")


def _unreached(exc: ForwardError) -> AppUnreachableError:
    return AppUnreachableError(str(exc), untouched=isinstance(exc.__cause__, OSError))


def _unanswered(exc: Exception, timeout_s: float) -> Answer:
    if isinstance(exc, TimeoutError):
        return Answer(status=RETRY, reason=f"no answer within {timeout_s:g} s", code="504")
    if isinstance(exc, AppUnreachableError) and exc.untouched:
        return Answer(status=UNREACHED, reason=str(exc))
    return Answer(status=RETRY, reason=str(exc))


def _entry(event: TopicEvent) -> dict[str, Any]:
    """Return an entry of a bulk: an envelope as it is, a raw payload as its media type demands."""
    return {
        "entryId": event.entry_id,
        "event": msgspec.Raw(event.envelope),
        "contentType": "application/cloudevents+json",
        "metadata": dict(event.metadata),
    }


def _bulk_answers(events: Sequence[TopicEvent], body: bytes, code: str) -> list[Answer]:
    unreadable = Answer(status=RETRY, reason="the app's answer to the bulk cannot be read", code=code)
    try:
        statuses = msgspec.json.decode(body)["statuses"]
        given = {item["entryId"]: item.get("status") for item in statuses}
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        return [unreadable] * len(events)
    answers: list[Answer] = []
    for event in events:
        status = given.get(event.entry_id)
        judged = judge_status(status) if status else RETRY
        reason = "" if judged == SUCCESS else f"the app answered {status or 'nothing'} for this event"
        answers.append(Answer(status=judged, reason=reason, code=code))
    return answers


def _binding_answer(answer: Answer, body: bytes) -> BindingAnswer:
    """Read the form `{to, data, concurrency}`; any other body is only data."""
    try:
        members = msgspec.json.decode(body) if body else None
    except UNREADABLE:
        members = None
    if not isinstance(members, dict):
        return BindingAnswer(answer=answer, data=body)
    to = members.get("to")
    data = members.get("data")
    return BindingAnswer(
        answer=answer,
        data=msgspec.json.encode(data) if data is not None else b"",
        to=tuple(str(name) for name in to) if isinstance(to, list) else (),
        parallel=str(members.get("concurrency", "")).lower() == "parallel",
    )
