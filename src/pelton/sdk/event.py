"""Events as user code sees them: OpenFunction's topic event and binding request, and a CloudEvent.

Each has the surface of the class that the original platform hands over, so that code needs no change:
`cloudevents`' v1 Event, dapr-ext-grpc's BindingRequest, and `cloudevents.http.CloudEvent`. Made by `compat/`.
Source: cloudevents 1.x and dapr-ext-grpc (their public names), `openfunction` contract, section 10.1.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from pelton.clock import SystemClock, rfc3339
from pelton.model.invocation import Event, Headers, Invocation

__all__ = ["BindingRequest", "CloudEvent", "TopicEvent", "as_request", "attributes_of", "json_or_raw"]

_CONTEXT: Final = {"id", "source", "type", "specversion", "time", "subject", "datacontenttype", "dataschema"}


def attributes_of(event: Event, invocation_id: str) -> dict[str, Any]:
    """Return CloudEvent attributes for any event; what the event lacks is filled from where it came from."""
    found = {
        "specversion": "1.0",
        "id": invocation_id,
        "source": event.component,
        "type": "com.dapr.event.sent"
        if event.kind == "topic"
        else f"dev.pelton.binding.{event.component_type}",
    }
    if event.content_type:
        found["datacontenttype"] = event.content_type
    found.update({name: value for name, value in event.attributes.items() if value not in {None, ""}})
    return found


def json_or_raw(data: bytes) -> Any:
    """Return the payload parsed as JSON, or as it is when it is none (the CloudEvents SDK's default)."""
    if not data:
        return None
    try:
        return json.loads(data)
    except ValueError:
        return data


class BindingRequest(msgspec.Struct, eq=False):
    """What an input binding delivered.

    Attributes:
        data: Payload bytes.
        metadata: Name -> value.
    """

    data: bytes
    metadata: dict[str, str]

    def text(self) -> str:
        """Return the payload as UTF-8 text."""
        return self.data.decode()

    @property
    def binding_metadata(self) -> dict[str, str]:
        """The same as `metadata`."""
        return self.metadata


class TopicEvent:
    """A message from a topic: the accessors of the CloudEvents SDK's v1 Event, and the same as properties.

    Args:
        event: The event as delivered.
        invocation_id: Stands in for an id that the event lacks.
    """

    def __init__(self, event: Event, invocation_id: str) -> None:
        attributes = attributes_of(event, invocation_id)
        self.id: str = attributes["id"]
        self.source: str = attributes["source"]
        self.type: str = attributes["type"]
        self.specversion: str = attributes["specversion"]
        self.time: str | None = attributes.get("time")
        self.subject: str | None = attributes.get("subject", event.topic or None)
        self.schema: str | None = attributes.get("dataschema")
        self.content_type: str | None = attributes.get("datacontenttype")
        self.data: bytes = event.data
        self.topic = event.topic
        self.metadata = dict(event.metadata)
        self.extensions: dict[str, Any] = {k: v for k, v in attributes.items() if k not in _CONTEXT}

    def __repr__(self) -> str:
        return f"TopicEvent(id={self.id!r}, source={self.source!r}, type={self.type!r}, topic={self.topic!r})"

    def Data(self) -> bytes:
        """Return the payload bytes."""
        return self.data

    def EventID(self) -> str:
        """Return the event's id."""
        return self.id

    def Source(self) -> str:
        """Return where the event comes from."""
        return self.source

    def EventType(self) -> str:
        """Return the event's type."""
        return self.type

    def CloudEventVersion(self) -> str:
        """Return the specification's version."""
        return self.specversion

    def EventTime(self) -> str | None:
        """Return when it happened, RFC 3339, or None."""
        return self.time

    def Subject(self) -> str | None:
        """Return the subject; the topic when the event has none."""
        return self.subject

    def Schema(self) -> str | None:
        """Return the schema of the payload, or None."""
        return self.schema

    def ContentType(self) -> str | None:
        """Return the media type of the payload, or None."""
        return self.content_type

    def Extensions(self) -> dict[str, Any]:
        """Return the extension attributes."""
        return self.extensions

    def Properties(self, with_nullable: bool = False) -> dict[str, Any]:
        """Return all attributes and the data; absent ones only when `with_nullable`."""
        found = {
            "specversion": self.specversion,
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": self.time,
            "subject": self.subject,
            "dataschema": self.schema,
            "datacontenttype": self.content_type,
            "extensions": self.extensions,
            "data": self.data,
        }
        return {name: value for name, value in found.items() if with_nullable or value is not None}

    def Get(self, key: str) -> tuple[Any, bool]:
        """Return (value, found) of an attribute by its name."""
        properties = self.Properties()
        return properties.get(key, self.extensions.get(key)), key in properties or key in self.extensions


class CloudEvent:
    """A CloudEvent with the surface of `cloudevents.http.CloudEvent`.

    Args:
        attributes: Name -> value; `type` and `source` are required, `id`, `time` and `specversion` are filled
            in.
        data: Payload: parsed JSON, or bytes.

    Raises:
        ValueError: `type` or `source` is missing.
    """

    def __init__(self, attributes: Mapping[str, Any], data: Any = None) -> None:
        self._attributes: dict[str, Any] = {name.lower(): value for name, value in attributes.items()}
        self.data = data
        for name in ("type", "source"):
            if not self._attributes.get(name):
                raise ValueError(f"a CloudEvent lacks {name}")
        self._attributes.setdefault("specversion", "1.0")
        self._attributes.setdefault("id", str(uuid.uuid4()))
        if "time" not in self._attributes:
            self._attributes["time"] = rfc3339(SystemClock().now(), fraction=True)

    def __getitem__(self, name: str) -> Any:
        return self._attributes[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._attributes[name] = value

    def __delitem__(self, name: str) -> None:
        del self._attributes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._attributes

    def __iter__(self) -> Iterator[str]:
        return iter(self._attributes)

    def __len__(self) -> int:
        return len(self._attributes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CloudEvent):
            return NotImplemented
        return self._attributes == other._attributes and self.data == other.data

    __hash__ = None  # type: ignore[assignment]  # mutable, as in the SDK

    def __repr__(self) -> str:
        return f"CloudEvent({self._attributes!r}, {self.data!r})"

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the default."""
        return self._attributes.get(name, default)

    def get_attributes(self) -> Mapping[str, Any]:
        """Return all attributes, name -> value."""
        return dict(self._attributes)

    def get_data(self) -> Any:
        """Return the payload."""
        return self.data


def as_request(invocation: Invocation) -> Invocation:
    """Return an event as the HTTP request that carries it: POST, data as body, `ce-` headers."""
    event = invocation.event
    if event is None:
        return invocation
    headers: Headers = []
    for name, value in attributes_of(event, invocation.id).items():
        key = b"content-type" if name == "datacontenttype" else b"ce-" + name.encode("latin-1", "replace")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        headers.append((key, "".join(_escape(char) for char in text).encode("latin-1")))
    return Invocation(
        id=invocation.id,
        method="POST",
        target=invocation.target or b"/",
        headers=headers,
        body=event.data,
        deadline=invocation.deadline,
        event=event,
    )


def _escape(char: str) -> str:
    """Percent-encode what an HTTP header value may not hold (CloudEvents HTTP binding, section 3.1.3.2)."""
    if "!" <= char <= "~" and char not in '"%':
        return char
    return "".join(f"%{byte:02X}" for byte in char.encode())
