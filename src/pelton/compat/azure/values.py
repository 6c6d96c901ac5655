"""From what called a function to the value and metadata that Azure's host would send for its trigger.

Pure: a datum is (type, value) here, which `convert.py` hands to the library's own converters. Pelton delivers
one event per call, so a function with cardinality `many` gets a list of one.
Source: `faas-conventions` contract, section 3.1 (metadata keys); azure-functions (what its converters read).
Decided where it is silent: text where the payload is UTF-8, bytes elsewhere and for dataType binary; a
timer is past due when its next due time has come before the function ran.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pelton.compat.azure.app import Binding
from pelton.compat.azure.schedule import Schedule
from pelton.sdk.event import json_or_raw
from pelton.sdk.trigger import Trigger

__all__ = ["Collection", "Datum", "event_grid_events", "of_trigger"]

Datum = tuple[str | None, Any]
"""Type (`string`, `bytes`, `json`, `int`, `collection_string`, ...) and value."""

_NEVER: Final = "0001-01-01T00:00:00+00:00"
_GRID: Final = frozenset({"id", "eventType", "eventTime", "subject"})
_CLOUD: Final = frozenset({"id", "source", "type", "specversion"})


class Collection:
    """A list as the wire has it; one of the three is filled.

    Attributes:
        string, bytes, sint64: Its items.
    """

    __slots__ = ("bytes", "sint64", "string")

    def __init__(
        self,
        *,
        string: list[str] | None = None,
        bytes: list[bytes] | None = None,
        sint64: list[int] | None = None,
    ) -> None:
        self.string = string or []
        self.bytes = bytes or []
        self.sint64 = sint64 or []


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _payload(trigger: Trigger, binding: Binding) -> Datum:
    """Return the payload as it is."""
    wants_bytes = binding.wanted is bytes or str(binding.fields.get("dataType", "")).lower() in {
        "binary",
        "stream",
    }
    text = None if wants_bytes else _text(trigger.data)
    return ("bytes", trigger.data) if text is None else ("string", text)


def _listed(datum: Datum) -> Datum:
    kind, value = datum
    if kind == "bytes":
        return "collection_bytes", Collection(bytes=[value])
    return "collection_string", Collection(string=[value])


def of_trigger(
    trigger: Trigger, binding: Binding, *, now: datetime, last: datetime | None, schedule: Schedule | None
) -> tuple[Datum, dict[str, Datum]]:
    """Return a trigger's datum and its metadata.

    Args:
        trigger: What called the function.
        binding: Its trigger binding.
        now: The time, UTC.
        last: When its timer was due the last time; None for never.
        schedule: Its schedule, for timers.
    """
    if binding.type == "timerTrigger":
        return _timer(trigger, now, last, schedule), {}
    build = _KINDS.get(binding.type, _plain)
    return build(trigger, binding)


def _plain(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    return _payload(trigger, binding), {}


# --- timer ---
def _timer(trigger: Trigger, now: datetime, last: datetime | None, schedule: Schedule | None) -> Datum:
    due = _moment(trigger.time) or now
    following = schedule.next_after(due) if schedule is not None else None
    info = {
        "IsPastDue": following is not None and following <= now,
        "Schedule": {"AdjustForDST": True},
        "ScheduleStatus": {
            "Last": last.isoformat() if last is not None else _NEVER,
            "LastUpdated": due.isoformat(),
            "Next": following.isoformat() if following is not None else _NEVER,
        },
    }
    return "json", json.dumps(info)


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


# --- queues and streams ---
def _queue(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    metadata: dict[str, Datum] = {
        "Id": ("string", trigger.id),
        "DequeueCount": ("int", trigger.attempt),
        "InsertionTime": ("string", trigger.time),
        "ExpirationTime": ("string", "9999-12-31T23:59:59+00:00"),
        "NextVisibleTime": ("string", trigger.time),
        "PopReceipt": ("string", f"{trigger.id}:{trigger.attempt}"),
    }
    return _payload(trigger, binding), metadata


def _kafka(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    timestamp = _iso(trigger.timestamp_ms)
    headers = [{"Key": name, "Value": value} for name, value in trigger.headers.items()]
    key = None if trigger.key is None else trigger.key.decode("utf-8", "replace")
    envelope = {
        "Offset": trigger.offset,
        "Partition": trigger.partition,
        "Topic": trigger.topic,
        "Timestamp": timestamp,
        "Value": _text_or_base64(trigger.data),
        "Headers": headers,
    }
    datum: Datum = ("string", json.dumps(envelope, ensure_ascii=False))
    if binding.wanted is bytes or str(binding.fields.get("dataType", "")).lower() == "binary":
        datum = ("bytes", trigger.data)
    if not binding.many:
        one: dict[str, Datum] = {
            "Offset": ("int", trigger.offset),
            "Partition": ("int", trigger.partition),
            "Topic": ("string", trigger.topic),
            "Timestamp": ("string", timestamp),
            "Headers": ("json", json.dumps(headers, ensure_ascii=False)),
        }
        if key is not None:
            one["Key"] = ("string", key)
        return datum, one
    return _listed(datum), {
        "OffsetArray": ("collection_sint64", Collection(sint64=[trigger.offset])),
        "PartitionArray": ("json", json.dumps([trigger.partition])),
        "TopicArray": ("collection_string", Collection(string=[trigger.topic])),
        "TimestampArray": ("json", json.dumps([timestamp])),
        "KeyArray": ("json", json.dumps([key])),
        "HeadersArray": ("json", json.dumps([headers], ensure_ascii=False)),
    }


def _event_hub(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    properties: dict[str, Any] = {
        "SequenceNumber": trigger.offset,
        "Offset": str(trigger.offset),
        "EnqueuedTimeUtc": _iso(trigger.timestamp_ms),
    }
    if trigger.key is not None:
        properties["PartitionKey"] = trigger.key.decode("utf-8", "replace")
    context = json.dumps(
        {
            "EventHubName": trigger.topic,
            "ConsumerGroup": str(binding.fields.get("consumerGroup") or "$Default"),
            "PartitionId": str(trigger.partition),
        }
    )
    user = json.dumps(dict(trigger.headers), ensure_ascii=False)
    datum = _payload(trigger, binding)
    if not binding.many:
        one: dict[str, Datum] = {
            "PartitionContext": ("json", context),
            "SequenceNumber": ("int", trigger.offset),
            "Offset": ("string", properties["Offset"]),
            "EnqueuedTimeUtc": ("string", properties["EnqueuedTimeUtc"]),
            "Properties": ("json", user),
            "SystemProperties": ("json", json.dumps(properties)),
        }
        if "PartitionKey" in properties:
            one["PartitionKey"] = ("string", properties["PartitionKey"])
        return datum, one
    # the converter of a list reads positions as numbers only
    return _listed(datum), {
        "PartitionContext": ("json", context),
        "PropertiesArray": ("json", f"[{user}]"),
        "SystemPropertiesArray": ("json", json.dumps([{**properties, "Offset": trigger.offset}])),
    }


def _service_bus(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    user = json.dumps(dict(trigger.headers), ensure_ascii=False)
    enqueued = _iso(trigger.timestamp_ms)
    single: dict[str, Datum] = {
        "MessageId": ("string", trigger.id),
        "ContentType": ("string", trigger.content_type),
        "DeliveryCount": ("int", trigger.attempt),
        "EnqueuedTimeUtc": ("string", enqueued),
        "SequenceNumber": ("int", trigger.offset),
        "ApplicationProperties": ("json", user),
        "UserProperties": ("json", user),
    }
    if trigger.key is not None:
        single["SessionId"] = ("string", trigger.key.decode("utf-8", "replace"))
    for name, attribute in (("CorrelationId", "correlationid"), ("Subject", "subject")):
        if trigger.attributes.get(attribute):
            single[name] = ("string", str(trigger.attributes[attribute]))
    datum = _payload(trigger, binding)
    if not binding.many:
        return datum, single
    arrays: dict[str, Datum] = {
        f"{name}Array": ("json", f"[{value if kind == 'json' else json.dumps(value)}]")
        for name, (kind, value) in single.items()
    }
    return _listed(datum), arrays


# --- blob, event grid, cosmos ---
def _blob(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    path = str(binding.fields.get("path") or "")
    headers = {name.lower(): value for name, value in trigger.headers.items()}
    name = next(
        (headers[key] for key in ("blobname", "name", "key", "filename") if headers.get(key)),
        str(trigger.attributes.get("subject") or "").rpartition("/blobs/")[2] or trigger.id,
    )
    container = path.partition("/")[0] or trigger.topic or trigger.source
    full = name if name.startswith(f"{container}/") else f"{container}/{name}"
    properties = {
        "ContentLength": len(trigger.data),
        "ContentType": trigger.content_type or "application/octet-stream",
        "LastModified": trigger.time,
    }
    wants_text = binding.wanted is str
    text = _text(trigger.data) if wants_text else None
    return ("bytes", trigger.data) if text is None else ("string", text), {
        "BlobTrigger": ("string", full),
        "Uri": ("string", headers.get("uri") or str(trigger.attributes.get("source") or full)),
        "Properties": ("json", json.dumps(properties)),
        "Metadata": ("json", json.dumps(dict(trigger.headers), ensure_ascii=False)),
    }


def _event_grid(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    content = json_or_raw(trigger.data)
    ready = isinstance(content, dict) and (content.keys() >= _GRID or content.keys() >= _CLOUD)
    if not ready and getattr(binding.wanted, "__name__", "") == "CloudEvent":
        return ("json", _cloud_event(trigger)), {}
    if not ready:
        attributes = trigger.attributes
        content = {
            "id": trigger.id,
            "topic": str(attributes.get("source") or trigger.source),
            "subject": str(attributes.get("subject") or trigger.topic),
            "eventType": str(attributes.get("type") or ""),
            "eventTime": trigger.time,
            "dataVersion": "1.0",
            "metadataVersion": "1",
            "data": _text_or_base64(content) if isinstance(content, bytes) else content,
        }
    return ("json", json.dumps(content, ensure_ascii=False)), {}


def _dapr_topic(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    return ("string", _cloud_event(trigger)), {}


def _cloud_event(trigger: Trigger) -> str:
    content = json_or_raw(trigger.data)
    event = {"specversion": "1.0", "id": trigger.id, "source": trigger.source or "/", **trigger.attributes}
    event.setdefault("type", "com.dapr.event.sent")
    if trigger.topic:
        event.setdefault("topic", trigger.topic)
    if isinstance(content, bytes):
        text = _text(content)
        if text is None:
            event["data_base64"] = base64.b64encode(content).decode()
        else:
            event["data"] = text
    else:
        event["data"] = content
    return json.dumps(event, ensure_ascii=False, default=str)


def _documents(trigger: Trigger, binding: Binding) -> tuple[Datum, dict[str, Datum]]:
    content = json_or_raw(trigger.data)
    if isinstance(content, bytes):
        return _payload(trigger, binding), {}
    return ("json", json.dumps(content if isinstance(content, list) else [content], ensure_ascii=False)), {}


_KINDS: Final[Mapping[str, Callable[[Trigger, Binding], tuple[Datum, dict[str, Datum]]]]] = {
    "queueTrigger": _queue,
    "kafkaTrigger": _kafka,
    "eventHubTrigger": _event_hub,
    "serviceBusTrigger": _service_bus,
    "blobTrigger": _blob,
    "eventGridTrigger": _event_grid,
    "daprTopicTrigger": _dapr_topic,
    "cosmosDBTrigger": _documents,
    "sqlTrigger": _documents,
    "mysqlTrigger": _documents,
}


def event_grid_events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of a request to Event Grid's webhook: one, or an array of them.

    Raises:
        ValueError: The body is no JSON, or holds something else.
    """
    content = json.loads(body)
    events = content if isinstance(content, list) else [content]
    if not all(isinstance(event, dict) for event in events):
        raise ValueError("an event is not a JSON object")
    return events


def _text_or_base64(data: bytes) -> str:
    text = _text(data)
    return base64.b64encode(data).decode() if text is None else text


def _iso(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
