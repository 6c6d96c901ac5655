"""What called a function, in one shape: request, CloudEvent, timer, record, binding, deferred call.

Each convention in `compat/` turns this into its own platform's event (an MSK record, a TimerRequest, ...).
Built from an Invocation without copying its payload.
Source: `dapr-components` contract (metadata names of consumed records); `faas-conventions`, section 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.clock import SystemClock, rfc3339
from pelton.model import cloudevent
from pelton.model.invocation import Event, Invocation
from pelton.sdk.event import attributes_of

__all__ = ["Trigger", "of"]

_PLAIN_TYPE: Final = cloudevent.DAPR_TYPE
"""Type of the envelope that a plain message gets; says nothing about its content."""


@dataclass(slots=True, kw_only=True)
class Trigger:
    """What called a function.

    Attributes:
        kind: `http` (a plain request), `cloudevent` (a request or a record that is a CloudEvent with a type
            of its own), `timer`, `record` (a message of a topic or queue), `binding` (anything else an input
            binding delivers) or `deferred` (accepted earlier, see `Deferred`).
        id: Event id, else the invocation's.
        time: When it happened, RFC 3339 with `Z`.
        source: Component that delivered it; "" for requests.
        topic: Topic or queue; "" for none.
        partition, offset: Position of a record; 0 where the broker has none.
        timestamp_ms: The record's time, epoch milliseconds.
        key: The record's key; None for none.
        headers: The record's headers, name -> text.
        data: Payload.
        content_type: Media type of `data`; may be "".
        attributes: CloudEvent attributes, name -> value; filled for every kind but `http`.
        schedule: Schedule of a timer as written; "" unknown.
        attempt: 1 for the first delivery.
    """

    kind: str
    id: str
    time: str
    source: str = ""
    topic: str = ""
    partition: int = 0
    offset: int = 0
    timestamp_ms: int = 0
    key: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    content_type: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = ""
    attempt: int = 1


def of(invocation: Invocation) -> Trigger:
    """Return what caused an invocation.

    Raises:
        ProtocolError: A request that claims to be a CloudEvent and is none.
    """
    event = invocation.event
    if event is not None:
        return _of_event(event, invocation.id)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in invocation.headers]
    found = cloudevent.from_headers(headers, invocation.body) if _may_be_event(invocation) else None
    if found is None:
        content_type = invocation.header(b"content-type") or b""
        return Trigger(
            kind="http",
            id=invocation.id,
            time=_now(),
            data=invocation.body,
            content_type=content_type.decode("latin-1"),
        )
    attributes = found.attributes()
    return Trigger(
        kind="cloudevent",
        id=found.id,
        time=str(attributes.get("time") or _now()),
        topic=str(attributes.get("topic") or ""),
        data=found.data,
        content_type=found.content_type,
        attributes=attributes,
    )


def _may_be_event(invocation: Invocation) -> bool:
    """Tell cheaply whether a request can be a CloudEvent at all."""
    for name, value in invocation.headers:
        if name == b"ce-specversion" or (
            name == b"content-type" and value[:29].lower().startswith(b"application/cloudevents+json")
        ):
            return True
    return False


def _of_event(event: Event, invocation_id: str) -> Trigger:
    metadata = event.metadata
    lower = {name.lower(): value for name, value in metadata.items()}
    attributes = attributes_of(event, invocation_id)
    time = str(attributes.get("time") or lower.get("readtimeutc") or _now())
    attributes.setdefault("time", time)
    own = event.attributes.get("type") not in {None, "", _PLAIN_TYPE}
    if event.kind == "deferred":
        kind = "deferred"
    elif event.component_type == "bindings.cron":
        kind = "timer"
    elif own and "specversion" in event.attributes:
        kind = "cloudevent"
    elif event.kind == "topic" or event.component_type in _QUEUES or "__topic" in metadata:
        kind = "record"
    else:
        kind = "binding"
    key = metadata.get("__key")
    return Trigger(
        kind=kind,
        id=str(attributes.get("id") or invocation_id),
        time=time,
        source=event.component,
        topic=event.topic or metadata.get("__topic", "") or metadata.get("Topic", ""),
        partition=_number(metadata.get("__partition")),
        offset=_number(metadata.get("__offset")),
        timestamp_ms=_number(metadata.get("__timestamp")) or _epoch_ms(),
        key=None if key is None else key.encode(),
        headers={
            name: value for name, value in metadata.items() if not name.startswith("__") and name != "Topic"
        },
        data=event.data,
        content_type=event.content_type,
        attributes=attributes,
        schedule=lower.get("schedule", ""),
        attempt=event.attempt,
    )


_QUEUES: Final = frozenset(
    {"bindings.kafka", "bindings.rabbitmq", "bindings.mqtt", "bindings.mqtt3", "bindings.redis"}
)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _now() -> str:
    return rfc3339(SystemClock().now(), fraction=True)


def _epoch_ms() -> int:
    return int(SystemClock().now().timestamp() * 1000)
