"""CloudEvents 1.0: the event as data and its codecs: JSON, HTTP (binary, structured), Dapr's envelope.

Pure. The dispatcher unwraps what brokers deliver, outputs wrap what functions send, conventions rebuild them
for user code. JSON payloads travel as the bytes they were, never through Python numbers: big ones stay exact.
Source: CloudEvents 1.0.2 with its JSON format and HTTP protocol binding; `dapr-runtime` contract, section 3.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from pelton import errors

__all__ = [
    "BATCH",
    "BROKER_HEADERS",
    "DAPR_TYPE",
    "STRUCTURED",
    "UNREADABLE",
    "CloudEvent",
    "from_headers",
    "from_json",
    "from_message",
    "split_batch",
    "is_binary",
    "is_json",
    "is_json_text",
    "to_headers",
    "to_json",
    "wrap",
]

STRUCTURED: Final = "application/cloudevents+json"
"""Media type of an event in the JSON format."""

BATCH: Final = "application/cloudevents-batch+json"
"""Media type of a JSON array of events."""

DAPR_TYPE: Final = "com.dapr.event.sent"
"""`type` of an event whose publisher gave none."""

BROKER_HEADERS: Final = frozenset(
    {"__key", "__topic", "__partition", "__offset", "__timestamp", "__tombstone", "Nats-Msg-Id"}
)
"""Headers that brokers and drivers put to a message; they say nothing about its content."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON of others raises; the last one where it is nested too deeply to be anything of use."""

_REQUIRED: Final = ("id", "source", "type", "specversion")
_CONTEXT: Final = (*_REQUIRED, "datacontenttype", "dataschema", "subject", "time")
# An event may not redefine these on publish; all others come from `cloudevent.<name>` metadata.
_OVERRIDABLE: Final = ("id", "source", "type", "subject", "traceid", "traceparent", "tracestate")
_PRINTABLE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')

_PAYLOADS: Final = frozenset(("", "data", "data_base64"))
"""Names that no attribute has: the JSON format keeps the payload under them."""

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_anything = msgspec.json.Decoder(msgspec.Raw)
_array = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """One event.

    Attributes:
        id, source, type: Required by the specification, never empty.
        specversion: `1.0`.
        content_type: Media type of `data` (`datacontenttype`); "" when the event does not say.
        subject, time, dataschema: Optional context; "" for absent. `time` is RFC 3339.
        extensions: Further attributes, lower-case name -> text, integer or boolean (Dapr: topic, ...).
        data: Payload bytes.
    """

    id: str
    source: str
    type: str
    specversion: str = "1.0"
    content_type: str = ""
    subject: str = ""
    time: str = ""
    dataschema: str = ""
    extensions: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""

    def attributes(self) -> dict[str, Any]:
        """Return all attributes by their wire names, without the data; absent ones are left out."""
        found: dict[str, Any] = {
            "specversion": self.specversion,
            "id": self.id,
            "source": self.source,
            "type": self.type,
        }
        optional = (
            ("datacontenttype", self.content_type),
            ("subject", self.subject),
            ("time", self.time),
            ("dataschema", self.dataschema),
        )
        found.update((name, value) for name, value in optional if value)
        found.update(self.extensions)
        return found


def is_json(content_type: str) -> bool:
    """Tell whether a media type means JSON: `application/json`, `text/json` or a `+json` suffix."""
    media = content_type.partition(";")[0].strip().lower()
    return media.endswith(("/json", "+json"))


def is_binary(content_type: str) -> bool:
    """Tell whether a media type means bytes, which the JSON format has in base64."""
    media = content_type.partition(";")[0].strip().lower()
    return media in {"application/octet-stream", "application/cloudevents+protobuf"}


def is_json_text(data: bytes) -> bool:
    """Tell whether bytes are JSON; numbers may be larger than any type of Python's decoder."""
    try:
        data.decode()
        _anything.decode(data)
    except UNREADABLE:
        return False
    return True


def from_json(text: bytes) -> CloudEvent:
    """Decode the JSON format, which is also Dapr's envelope (its keys become extensions).

    Raises:
        ProtocolError: Not a JSON object, a required attribute is missing, or `data_base64` is not base64.
    """
    return _event(*_split(text))


def to_json(event: CloudEvent, *, exact: bool = False) -> bytes:
    """Encode in the JSON format.

    JSON payloads stand in `data` as they are, other UTF-8 text (also JSON that is none, as with Dapr) as a
    string, everything else in `data_base64`.

    Args:
        event: Whose.
        exact: Whether `from_json` has to give the payload back as it was: JSON that is none would come back
            as a JSON string, and `null` as no data at all, so both stand in `data_base64`, as does text that
            is shorter there: no event becomes larger than by a third.
    """
    members: dict[str, Any] = event.attributes()
    if not event.data:
        return msgspec.json.encode(members)
    content_type = event.content_type
    says_json = not content_type or is_json(content_type)
    if says_json and is_json_text(event.data) and not (exact and event.data.strip() == b"null"):
        members["data"] = msgspec.Raw(event.data)
    elif is_binary(content_type) or (exact and says_json):
        members["data_base64"] = base64.b64encode(event.data).decode()
    else:
        try:
            text = msgspec.json.encode(event.data.decode())
        except UnicodeDecodeError:
            text = b""
        # Of text that is mostly escapes, base64 is the shorter form, and nobody reads the other one either.
        if not text or (exact and len(text) > 2 + (len(event.data) + 2) // 3 * 4):
            members["data_base64"] = base64.b64encode(event.data).decode()
        else:
            members["data"] = msgspec.Raw(text)
    return msgspec.json.encode(members)


def from_headers(headers: Iterable[tuple[str, str]] | Mapping[str, str], body: bytes) -> CloudEvent | None:
    """Decode an HTTP request or a message with headers; None when it carries no CloudEvent.

    Args:
        headers: Names in any case; binary mode uses the prefix `ce-` (HTTP, NATS) or `ce_` (Kafka).
        body: The payload, or the whole event in structured mode.

    Raises:
        ProtocolError: It says that it is a CloudEvent and is not a valid one.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lower = {name.lower(): value for name, value in pairs}
    content_type = lower.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() == STRUCTURED:
        return from_json(body)
    attributes: dict[str, Any] = {
        name[3:]: unquote(value)
        for name, value in lower.items()
        if name.startswith(("ce-", "ce_")) and name[3:] not in _PAYLOADS
    }
    if "specversion" not in attributes and "id" not in attributes:
        return None
    if content_type:
        attributes["datacontenttype"] = content_type
    return _event(attributes, body)


def from_message(headers: Mapping[str, str], body: bytes) -> CloudEvent | None:
    """Decode a broker's message: by its headers, else by its looks, since Dapr publishes without headers.

    A body that looks like an event but is no valid one is somebody's own JSON: None, like all raw messages.
    """
    if not headers.keys() <= BROKER_HEADERS:
        found = from_headers(headers, body)
        if found is not None:
            return found
    if body[:1] == b"{" and b'"specversion"' in body:
        try:
            return from_json(body)
        except errors.ProtocolError:
            return None
    return None


def split_batch(headers: Mapping[str, str], body: bytes) -> list[bytes] | None:
    """Return the events of a batch, each in the JSON format; None for what is no batch.

    Whether each is a valid event is for its reader to see.
    """
    content_type = next((text for name, text in headers.items() if name.lower() == "content-type"), "")
    if content_type.partition(";")[0].strip().lower() != BATCH:
        return None
    try:
        return [bytes(event) for event in _array.decode(body)]
    except UNREADABLE:
        return None


def to_headers(event: CloudEvent) -> tuple[list[tuple[str, str]], bytes]:
    """Encode for HTTP binary mode: (header name, value) pairs in order of the attributes, and the body.

    Attributes whose names cannot be in a header are left out: no specification knows them.
    """
    headers = [
        ("content-type", value)
        if name == "datacontenttype"
        else (f"ce-{name}", quote(_text(value), safe=_PRINTABLE))
        for name, value in event.attributes().items()
        if _HEADER_NAME.fullmatch(name)
    ]
    return headers, event.data


def wrap(
    data: bytes,
    *,
    id: str,
    source: str,
    topic: str,
    pubsub: str,
    time: str,
    content_type: str = "",
    metadata: Mapping[str, str] | None = None,
) -> CloudEvent:
    """Return the envelope in which Dapr publishes.

    Args:
        data: What the publisher sends; a ready event when `content_type` says so: then only gaps are filled,
            and topic and pubsubname are set in any case.
        id: Random id, for events that bring none.
        source: Publisher, `<namespace>/<function>`.
        topic: Topic it is published on.
        pubsub: Name of the pub/sub component.
        time: RFC 3339 time of publishing.
        content_type: Media type of `data`; "" means text/plain.
        metadata: Publish metadata; `cloudevent.<attribute>` overrides an attribute.

    Raises:
        ProtocolError: `content_type` announces a CloudEvent and `data` is none.
    """
    if content_type.partition(";")[0].strip().lower() == STRUCTURED:
        attributes, data = _split(data)
    else:
        attributes = {"datacontenttype": content_type or "text/plain"}
    for name, value in (
        ("id", id),
        ("source", source),
        ("type", DAPR_TYPE),
        ("specversion", "1.0"),
        ("time", time),
    ):
        if not attributes.get(name):
            attributes[name] = value
    for key, value in (metadata or {}).items():
        name = key.lower().removeprefix("cloudevent.")
        if key.lower().startswith("cloudevent.") and name in _OVERRIDABLE and value:
            attributes[name] = value
            if name == "traceparent":
                attributes["traceid"] = value
    attributes["topic"] = topic
    attributes["pubsubname"] = pubsub
    return _event(attributes, data)


def _split(text: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the attributes of an event in the JSON format, which may lack required ones, and its data."""
    try:
        members = _members.decode(text)
    except UNREADABLE as exc:
        raise errors.ProtocolError(f"a CloudEvent must be a JSON object: {exc}") from exc
    payload = members.pop("data", None)
    encoded = members.pop("data_base64", None)
    attributes = {name: _plain(name, raw) for name, raw in members.items()}
    attributes = {name: value for name, value in attributes.items() if value is not None}
    content_type = str(attributes.get("datacontenttype", ""))
    if encoded is not None and bytes(encoded) != b"null":
        return attributes, _unbase64(encoded)
    if payload is None or bytes(payload) == b"null":
        return attributes, b""
    return attributes, _payload(bytes(payload), content_type)


def _event(attributes: dict[str, Any], data: bytes) -> CloudEvent:
    missing = [name for name in _REQUIRED if not attributes.get(name)]
    if missing:
        raise errors.ProtocolError(
            f"a CloudEvent lacks {', '.join(missing)}",
            hint="Every event needs id, source, type and specversion.",
        )
    if str(attributes["specversion"]) != "1.0":
        raise errors.ProtocolError(f"CloudEvents {attributes['specversion']} is not understood, only 1.0 is")
    return CloudEvent(
        id=str(attributes["id"]),
        source=str(attributes["source"]),
        type=str(attributes["type"]),
        content_type=str(attributes.get("datacontenttype", "")),
        subject=str(attributes.get("subject", "")),
        time=str(attributes.get("time", "")),
        dataschema=str(attributes.get("dataschema", "")),
        extensions={name: value for name, value in attributes.items() if name not in _CONTEXT},
        data=data,
    )


def _plain(name: str, raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE as exc:
        raise errors.ProtocolError(f"attribute {name} of a CloudEvent is not JSON: {exc}") from exc


def _payload(raw: bytes, content_type: str) -> bytes:
    """Return `data` as the function gets it: text of a string unless the media type says JSON, else JSON."""
    if content_type and not is_json(content_type) and raw[:1] == b'"':
        return msgspec.json.decode(raw, type=str).encode()
    return raw


def _unbase64(raw: msgspec.Raw) -> bytes:
    try:
        return base64.b64decode(msgspec.json.decode(raw, type=str), validate=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error) as exc:
        raise errors.ProtocolError("data_base64 of a CloudEvent is not base64") from exc


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
