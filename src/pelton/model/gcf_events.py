"""Google's legacy background events as CloudEvents, and back. Pure: no clock, no I/O.

A legacy event is `{"context": {eventId, timestamp, eventType, resource}, "data": ...}`, its context fields
perhaps at the root. `compat/gcf/events.py` decides which way an arriving event has to go.
Source: `faas-conventions` contract, section 4, its table of types. Where the specification and the Python
framework differ (the service of Analytics), the framework's value is made and both are read back.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pelton.errors import ProtocolError

__all__ = [
    "KNOWN_TYPES",
    "PUBSUB_MESSAGE",
    "LegacyEvent",
    "from_cloudevent",
    "pubsub_event",
    "read_legacy",
    "to_cloudevent",
]

PUBSUB_MESSAGE: Final = "type.googleapis.com/google.pubsub.v1.PubsubMessage"
"""Type of a Pub/Sub message, in resources and in `@type`."""

_PUBSUB_PUBLISH: Final = "google.pubsub.topic.publish"
_ANALYTICS: Final = "firebase.googleapis.com"
_ANALYTICS_BY_SPEC: Final = "firebaseanalytics.googleapis.com"
_AUTH: Final = "firebaseauth.googleapis.com"
_DATABASE: Final = "firebasedatabase.googleapis.com"
_FIRESTORE: Final = "firestore.googleapis.com"
_PUBSUB: Final = "pubsub.googleapis.com"
_REMOTE_CONFIG: Final = "firebaseremoteconfig.googleapis.com"
_STORAGE: Final = "storage.googleapis.com"

_TYPES: Final[Mapping[str, str]] = {
    _PUBSUB_PUBLISH: "google.cloud.pubsub.topic.v1.messagePublished",
    "google.storage.object.finalize": "google.cloud.storage.object.v1.finalized",
    "google.storage.object.delete": "google.cloud.storage.object.v1.deleted",
    "google.storage.object.archive": "google.cloud.storage.object.v1.archived",
    "google.storage.object.metadataUpdate": "google.cloud.storage.object.v1.metadataUpdated",
    "providers/cloud.firestore/eventTypes/document.write": "google.cloud.firestore.document.v1.written",
    "providers/cloud.firestore/eventTypes/document.create": "google.cloud.firestore.document.v1.created",
    "providers/cloud.firestore/eventTypes/document.update": "google.cloud.firestore.document.v1.updated",
    "providers/cloud.firestore/eventTypes/document.delete": "google.cloud.firestore.document.v1.deleted",
    "providers/firebase.auth/eventTypes/user.create": "google.firebase.auth.user.v1.created",
    "providers/firebase.auth/eventTypes/user.delete": "google.firebase.auth.user.v1.deleted",
    "providers/google.firebase.analytics/eventTypes/event.log": "google.firebase.analytics.log.v1.written",
    "providers/google.firebase.database/eventTypes/ref.create": "google.firebase.database.ref.v1.created",
    "providers/google.firebase.database/eventTypes/ref.write": "google.firebase.database.ref.v1.written",
    "providers/google.firebase.database/eventTypes/ref.update": "google.firebase.database.ref.v1.updated",
    "providers/google.firebase.database/eventTypes/ref.delete": "google.firebase.database.ref.v1.deleted",
    "providers/firebase.remoteConfig/remoteconfig.update": (
        "google.firebase.remoteconfig.remoteConfig.v1.updated"
    ),
}
# Older names of the same; the way back never leads to them.
_OLDER_TYPES: Final[Mapping[str, str]] = {
    "providers/cloud.pubsub/eventTypes/topic.publish": "google.cloud.pubsub.topic.v1.messagePublished",
    "providers/cloud.storage/eventTypes/object.change": "google.cloud.storage.object.v1.finalized",
}
_LEGACY: Final = {new: old for old, new in _TYPES.items()}

KNOWN_TYPES: Final = frozenset(_LEGACY)
"""CloudEvent types that have a legacy form."""

_SERVICES: Final = (
    ("providers/cloud.firestore/", _FIRESTORE),
    ("providers/google.firebase.analytics/", _ANALYTICS),
    ("providers/firebase.auth/", _AUTH),
    ("providers/google.firebase.database/", _DATABASE),
    ("providers/firebase.remoteConfig/", _REMOTE_CONFIG),
    ("providers/cloud.pubsub/", _PUBSUB),
    ("providers/cloud.storage/", _STORAGE),
    ("google.pubsub", _PUBSUB),
    ("google.storage", _STORAGE),
)
# Two groups each: what becomes part of the source, and the subject.
_SPLITS: Final[Mapping[str, re.Pattern[str]]] = {
    _ANALYTICS: re.compile(r"(projects/[^/]+)/(events/[^/]+)"),
    _ANALYTICS_BY_SPEC: re.compile(r"(projects/[^/]+)/(events/[^/]+)"),
    _DATABASE: re.compile(r"projects/_/(instances/[^/]+)/(refs/.+)", re.DOTALL),
    _FIRESTORE: re.compile(r"(projects/[^/]+/databases/[^/]+)/(documents/.+)", re.DOTALL),
    # A trailing `#<generation>` names a version of the object; the CloudEvent names the object.
    _STORAGE: re.compile(r"(projects/[^/]+/buckets/[^/]+)/(objects/.+?)(?:#\d+)?", re.DOTALL),
}
_LOCATION: Final = re.compile(r"/locations/([^/]+)")
_SOURCE: Final = re.compile(r"//([^/]+)/(.*)", re.DOTALL)
_TOPIC: Final = re.compile(r"projects/[^/?]+/topics/[^/?]+")
_AUTH_NAMES: Final = (("createdAt", "createTime"), ("lastSignedInAt", "lastSignInTime"))
_DEFAULT_DOMAIN: Final = "firebaseio.com"
_DEFAULT_LOCATION: Final = "us-central1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyEvent:
    """A background event.

    Attributes:
        event_id, timestamp, event_type: Its context; "" for what it does not say.
        resource: Name of what it is about, or `{service, name, type}`.
        data: Payload, as parsed from JSON.
        domain: Host of a Realtime Database; "" for all others.
    """

    event_id: str = ""
    timestamp: str = ""
    event_type: str = ""
    resource: Any = ""
    data: Any = ""
    domain: str = ""


def read_legacy(body: Any, *, path: str, now: str) -> LegacyEvent:
    """Read a parsed JSON body: a background event, or what a Pub/Sub push subscription posts.

    Args:
        body: The parsed body.
        path: Path of the request; may name the topic of a push.
        now: RFC 3339 time that stands in for a push's missing publishTime.

    Raises:
        ProtocolError: It is empty, or no JSON object of either shape.
    """
    if not isinstance(body, Mapping) or not body:
        raise ProtocolError("a background event must be a JSON object that is not empty")
    message = body.get("message")
    if "context" not in body and "subscription" in body and isinstance(message, Mapping):
        message_id = message.get("messageId", message.get("message_id"))
        if message_id is not None:
            return _push(message, str(message_id), path, now)
    context = body.get("context") or body
    if not isinstance(context, Mapping):
        raise ProtocolError("the context of a background event must be a JSON object")
    return LegacyEvent(
        event_id=_text(context.get("eventId")),
        timestamp=_text(context.get("timestamp")),
        event_type=_text(context.get("eventType")),
        resource=context.get("resource", ""),
        data=body.get("data", ""),
        domain=_text(body.get("domain")),
    )


def _push(message: Mapping[str, Any], message_id: str, path: str, now: str) -> LegacyEvent:
    topic = _TOPIC.search(path)
    return LegacyEvent(
        event_id=message_id,
        timestamp=_text(message.get("publishTime", message.get("publish_time"))) or now,
        event_type=_PUBSUB_PUBLISH,
        resource=_pubsub_resource(topic[0] if topic else ""),
        data={
            "@type": PUBSUB_MESSAGE,
            "data": message.get("data", ""),
            "attributes": message.get("attributes") or {},
        },
    )


def pubsub_event(
    data: bytes, *, id: str, time: str, topic: str, attributes: Mapping[str, str]
) -> LegacyEvent:
    """Return a broker's record as the Pub/Sub message that functions with a topic as trigger expect.

    Args:
        data: Payload; travels as base64, as Pub/Sub's does.
        id: Event id.
        time: RFC 3339 time.
        topic: Topic or queue; "" for none.
        attributes: The record's headers, name -> text.
    """
    return LegacyEvent(
        event_id=id,
        timestamp=time,
        event_type=_PUBSUB_PUBLISH,
        resource=_pubsub_resource(topic),
        data={
            "@type": PUBSUB_MESSAGE,
            "data": base64.b64encode(data).decode(),
            "attributes": dict(attributes),
        },
    )


def to_cloudevent(event: LegacyEvent) -> tuple[dict[str, Any], Any]:
    """Return a legacy event as CloudEvent attributes (name -> value) and data.

    Raises:
        ProtocolError: Its type has no CloudEvent form, or its resource is not what that type's has to be.
    """
    kind = _TYPES.get(event.event_type) or _OLDER_TYPES.get(event.event_type)
    if kind is None:
        raise ProtocolError(f"the background event type {event.event_type!r} has no CloudEvent form")
    service, resource, subject = _split_resource(event)
    data = event.data
    if service == _PUBSUB:
        message = dict(data) if isinstance(data, Mapping) else {"data": data}
        message.setdefault("messageId", event.event_id)
        message.setdefault("publishTime", event.timestamp)
        data = {"message": message}
    elif service == _AUTH:
        data = _rename_metadata(data, _AUTH_NAMES)
        if isinstance(data, Mapping) and "uid" in data:
            subject = f"users/{data['uid']}"
    elif service == _DATABASE:
        if not event.domain:
            raise ProtocolError("a Realtime Database event lacks 'domain', which tells its location")
        location = _DEFAULT_LOCATION if event.domain == _DEFAULT_DOMAIN else event.domain.partition(".")[0]
        resource = f"projects/_/locations/{location}/{resource}"
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": f"//{service}/{resource}",
        "type": kind,
        "datacontenttype": "application/json",
    }
    if event.timestamp:
        attributes["time"] = event.timestamp
    if subject:
        attributes["subject"] = subject
    return attributes, data


def from_cloudevent(attributes: Mapping[str, Any], data: Any) -> LegacyEvent:
    """Return a CloudEvent as the legacy event that it has replaced.

    Args:
        attributes: Attributes, name -> value.
        data: Payload, as parsed from JSON.

    Raises:
        ProtocolError: Its type has no legacy form (see KNOWN_TYPES), or its source, subject or data are not
            what that type's have to be.
    """
    kind = _text(attributes.get("type"))
    if kind not in _LEGACY:
        raise ProtocolError(f"the CloudEvent type {kind!r} has no background event form")
    split = _SOURCE.fullmatch(_text(attributes.get("source")))
    if split is None:
        raise ProtocolError(f"the source of a {kind} event must be //SERVICE/RESOURCE")
    service, name = split.groups()
    subject = _text(attributes.get("subject"))
    resource: Any = f"{name}/{subject}" if subject else name
    domain = ""
    if service == _PUBSUB:
        resource = _pubsub_resource(name)
        data = _unwrap(data)
    elif service == _AUTH:
        resource = name
        data = _rename_metadata(data, tuple((old, new) for new, old in _AUTH_NAMES))
    elif service == _STORAGE:
        if not isinstance(data, Mapping) or "kind" not in data:
            raise ProtocolError("the data of a Cloud Storage event lacks 'kind'")
        resource = {"service": service, "name": resource, "type": data["kind"]}
    elif service == _DATABASE:
        location = _LOCATION.search(name)
        domain = _domain(location[1] if location else _DEFAULT_LOCATION)
        resource = f"{_LOCATION.sub('', name, count=1)}/{subject}"
    if not subject and service in _SPLITS:
        raise ProtocolError(f"a {kind} event lacks its subject")
    return LegacyEvent(
        event_id=_text(attributes.get("id")),
        timestamp=_text(attributes.get("time")),
        event_type=_LEGACY[kind],
        resource=resource,
        data=data,
        domain=domain,
    )


def _split_resource(event: LegacyEvent) -> tuple[str, str, str]:
    """Return (service, resource of the source, subject); the subject may be ""."""
    resource = event.resource
    service = ""
    if isinstance(resource, Mapping):
        service, resource = _text(resource.get("service")), resource.get("name")
    if not isinstance(resource, str):
        raise ProtocolError("the resource of a background event must be a name, or an object that has one")
    if not service:
        service = next(name for prefix, name in _SERVICES if event.event_type.startswith(prefix))
    pattern = _SPLITS.get(service)
    if pattern is None:
        return service, resource, ""
    found = pattern.fullmatch(resource)
    if found is None:
        raise ProtocolError(f"the resource {resource!r} is none of {service}")
    return service, found[1], found[2]


def _rename_metadata(data: Any, names: tuple[tuple[str, str], ...]) -> Any:
    if not isinstance(data, Mapping) or not isinstance(data.get("metadata"), Mapping):
        return data
    renamed = dict(names)
    return {**data, "metadata": {renamed.get(name, name): value for name, value in data["metadata"].items()}}


def _unwrap(data: Any) -> Any:
    message = data.get("message", data) if isinstance(data, Mapping) else data
    if not isinstance(message, Mapping):
        return message
    return {name: value for name, value in message.items() if name not in {"messageId", "publishTime"}}


def _pubsub_resource(topic: str) -> dict[str, str]:
    return {"service": _PUBSUB, "name": topic, "type": PUBSUB_MESSAGE}


def _domain(location: str) -> str:
    """Return a domain that tells this location: the inverse of what `to_cloudevent` does with it."""
    return _DEFAULT_DOMAIN if location == _DEFAULT_LOCATION else f"{location}.firebasedatabase.app"


def _text(value: Any) -> str:
    return "" if value is None else str(value)
