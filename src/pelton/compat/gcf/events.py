"""event, cloudevent and typed functions: from a request or a broker's event to their arguments, and back.

Requests must be POST. A request that is no CloudEvent, but one of Google's legacy events (or a Pub/Sub push),
is converted for cloudevent functions, and the other way round for event functions (`model/gcf_events.py`). A
broker's record reaches an event function as the Pub/Sub message that it would have been; a CloudEvent of
Google's own types as its legacy form. Called by `compat/gcf/__init__.py`.
Source: `faas-conventions` contract, section 4. Decided where it is silent: a typed function's object is
answered as application/json; an event that can never be understood is not tried again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from pelton.clock import SystemClock, rfc3339
from pelton.compat.gcf import logs
from pelton.compat.gcf.http import said
from pelton.errors import ProtocolError
from pelton.model import cloudevent, gcf_events
from pelton.model.invocation import Headers, Invocation, Reply
from pelton.sdk import trigger
from pelton.sdk.event import as_request, attributes_of, json_or_raw
from pelton.sdk.flask_app import FlaskApp
from pelton.sdk.response import to_reply

__all__ = ["Context", "call", "cloudevent_arguments", "event_arguments", "typed_arguments", "typed_reply"]

Arguments = tuple[Any, ...]
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_JSON: Final = (b"content-type", b"application/json")
_NO_CLOUDEVENT: Final = (
    "This is no CloudEvent: send ce-id, ce-source, ce-type and ce-specversion headers, or a body of "
    "Content-Type application/cloudevents+json."
)
_encode: Final = json.JSONEncoder().encode


class Context:
    """What an event function gets as `context`, where Google's own package is not installed.

    Attributes:
        event_id: Id of the event.
        timestamp: When it happened, RFC 3339.
        event_type: Type, e.g. `google.pubsub.topic.publish`.
        resource: What it is about: a name, or a dict of service, name and type.
    """

    def __init__(
        self, eventId: Any = None, timestamp: Any = "", eventType: Any = "", resource: Any = ""
    ) -> None:
        self.event_id = eventId
        self.timestamp = timestamp
        self.event_type = eventType
        self.resource = resource

    def __repr__(self) -> str:
        return (
            f"Context(event_id={self.event_id!r}, timestamp={self.timestamp!r}, "
            f"event_type={self.event_type!r}, resource={self.resource!r})"
        )


def call(
    function: Callable[..., Any],
    arguments: Callable[[Invocation], Arguments | Reply],
    reply: Callable[[Any], Reply] | None,
    app: FlaskApp | None,
    *,
    is_async: bool,
) -> Callable[[Invocation], Any]:
    """Return how to call a function that takes events.

    Args:
        function: The function; may return a Reply (see `http.guard`).
        arguments: Makes its arguments, or the answer that refuses the invocation.
        reply: Makes an answer of what it returned; None for `OK`, whatever that was.
        app: The Flask application around it, for code that uses Flask.
        is_async: Whether it is a coroutine function.
    """
    make = reply if reply is not None else _ok
    if app is not None:
        return _in_flask(function, arguments, make, app, is_async=is_async)
    if is_async:

        async def call_async(invocation: Invocation) -> Reply:
            try:
                made = arguments(invocation)
                if isinstance(made, Reply):
                    return made
                return make(await function(*made))
            except Exception as exc:
                answer = said(exc)
                if answer is None:
                    raise
                return answer

        return call_async

    def call_sync(invocation: Invocation) -> Reply:
        try:
            made = arguments(invocation)
            if isinstance(made, Reply):
                return made
            return make(function(*made))
        except Exception as exc:
            answer = said(exc)
            if answer is None:
                raise
            return answer

    return call_sync


def _in_flask(
    function: Callable[..., Any],
    arguments: Callable[[Invocation], Arguments | Reply],
    make: Callable[[Any], Reply],
    app: FlaskApp,
    *,
    is_async: bool,
) -> Callable[[Invocation], Any]:
    """Do the same inside Flask's contexts, with `flask.request` as the framework has it."""

    def prepared(invocation: Invocation) -> tuple[Invocation, Any]:
        request = as_request(invocation) if invocation.event is not None else invocation
        logs.ensure_id(request.headers)
        return request, arguments(invocation)

    async def call_async(invocation: Invocation) -> Reply:
        try:
            request, made = prepared(invocation)
            if isinstance(made, Reply):
                return made

            async def run(_request: Any) -> Reply:
                return make(await function(*made))

            return await app.call_async(request, run, None)
        except Exception as exc:
            answer = said(exc)
            if answer is None:
                raise
            return answer

    def call_sync(invocation: Invocation) -> Reply:
        try:
            request, made = prepared(invocation)
            if isinstance(made, Reply):
                return made
            return app.call(request, lambda _request: make(function(*made)), None)
        except Exception as exc:
            answer = said(exc)
            if answer is None:
                raise
            return answer

    return call_async if is_async else call_sync


def _ok(value: Any) -> Reply:
    return value if type(value) is Reply else Reply(200, [_HTML], b"OK")


def _refused(status: int, text: str) -> Reply:
    headers: Headers = [_TEXT, (b"allow", b"POST")] if status == 405 else [_TEXT]
    return Reply(status, headers, f"{text}\n".encode(), retry=False, error=text)


def _not_post() -> Reply:
    return _refused(405, "This function takes events: POST one.")


# --- cloudevent ---


def cloudevent_arguments(
    make: Callable[[dict[str, Any], Any], Any],
) -> Callable[[Invocation], Arguments | Reply]:
    """Return what makes a cloudevent function's argument.

    Args:
        make: The class of the event: (attributes, data) -> event.
    """

    def arguments(invocation: Invocation) -> Arguments | Reply:
        event = invocation.event
        if event is not None:
            return (make(attributes_of(event, invocation.id), json_or_raw(event.data)),)
        if invocation.method != "POST":
            return _not_post()
        found, why = _cloudevent(invocation)
        if found is not None:
            return (make(found.attributes(), json_or_raw(found.data)),)
        try:
            attributes, data = gcf_events.to_cloudevent(_legacy(invocation))
        except ProtocolError as exc:
            return _refused(400, f"{why or _NO_CLOUDEVENT} Nor is it a background event: {exc.message}.")
        return (make(attributes, data),)

    return arguments


def _cloudevent(invocation: Invocation) -> tuple[cloudevent.CloudEvent | None, str]:
    """Return the CloudEvent of a request and "", or None and what is wrong with what claims to be one."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in invocation.headers]
    try:
        found = cloudevent.from_headers(headers, invocation.body)
    except ProtocolError as exc:
        return None, _sentence(exc)
    return found, ""


def _sentence(exc: ProtocolError) -> str:
    return f"{exc.message[:1].upper()}{exc.message[1:]}."


def _legacy(invocation: Invocation) -> gcf_events.LegacyEvent:
    path = invocation.target.partition(b"?")[0].decode("latin-1")
    return gcf_events.read_legacy(_parsed(invocation.body), path=path, now=_now())


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"the body is no JSON: {exc}") from exc


def _now() -> str:
    return rfc3339(SystemClock().now(), fraction=True)


# --- event ---


def event_arguments(
    make: Callable[..., Any],
) -> Callable[[Invocation], Arguments | Reply]:
    """Return what makes an event function's arguments.

    Args:
        make: The class of the context: (eventId, timestamp, eventType, resource) -> context.
    """

    def of(event: gcf_events.LegacyEvent) -> Arguments:
        return event.data, make(event.event_id, event.timestamp, event.event_type, event.resource)

    def arguments(invocation: Invocation) -> Arguments | Reply:
        if invocation.event is not None:
            return of(_of_broker(invocation))
        if invocation.method != "POST":
            if invocation.method in {"GET", "HEAD"} and invocation.target.partition(b"?")[0] == b"/":
                return Reply(200, [_HTML])
            return _not_post()
        found, why = _cloudevent(invocation)
        try:
            if found is None:
                return of(_legacy(invocation))
            if found.type in gcf_events.KNOWN_TYPES:
                return of(gcf_events.from_cloudevent(found.attributes(), json_or_raw(found.data)))
        except ProtocolError as exc:
            return _refused(400, f"{why} {_sentence(exc)}".strip())
        return found.data, _context_of_headers(make, invocation, found)

    return arguments


def _context_of_headers(
    make: Callable[..., Any], invocation: Invocation, event: cloudevent.CloudEvent
) -> Any:
    """Return the context of a CloudEvent whose type has no legacy form: old headers, else attributes."""

    def header(name: bytes, otherwise: str) -> str:
        value = invocation.header(name)
        return otherwise if value is None else value.decode("latin-1")

    return make(
        header(b"ce-eventid", event.id),
        header(b"ce-timestamp", event.time),
        header(b"ce-eventtype", event.type),
        header(b"ce-resource", event.source),
    )


def _of_broker(invocation: Invocation) -> gcf_events.LegacyEvent:
    came = trigger.of(invocation)
    if came.attributes.get("type") in gcf_events.KNOWN_TYPES:
        try:
            return gcf_events.from_cloudevent(came.attributes, json_or_raw(came.data))
        except ProtocolError:
            pass  # somebody's own event under Google's name: a message like any other
    headers = dict(came.headers)
    if came.kind == "cloudevent":
        headers.update((f"ce-{name}", str(value)) for name, value in came.attributes.items())
    return gcf_events.pubsub_event(
        came.data, id=came.id, time=came.time, topic=came.topic, attributes=headers
    )


# --- typed ---


def typed_arguments(input_type: Any) -> Callable[[Invocation], Arguments | Reply]:
    """Return what makes a typed function's argument.

    Args:
        input_type: A class with `from_dict`. Whatever goes wrong there is the function's failure, as in the
            original.
    """
    from_dict = input_type.from_dict

    def arguments(invocation: Invocation) -> Arguments | Reply:
        event = invocation.event
        if event is None and invocation.method != "POST":
            return _not_post()
        return (from_dict(json.loads(invocation.body if event is None else event.data)),)

    return arguments


def typed_reply(app: FlaskApp | None) -> Callable[[Any], Reply]:
    """Return what makes an answer of what a typed function returned."""

    def reply(value: Any) -> Reply:
        if type(value) is Reply:
            return value
        if value is None:
            return Reply(200, [_HTML])
        if type(value).__module__ == "builtins":
            return to_reply(value if app is None else app.app.make_response(value))
        if not callable(getattr(value, "to_dict", None)):
            raise TypeError(f"the function returned a {type(value).__name__}, which has no method to_dict")
        return Reply(200, [_JSON], _encode(value.to_dict()).encode())

    return reply
