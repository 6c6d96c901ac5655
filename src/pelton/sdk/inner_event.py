"""OpenFunction's inner event: the CloudEvent that traced functions put around what they send. Pure.

`sdk/tracing.py` wraps, `compat/openfunction.py` unwraps; the outer envelope of a topic is not this file's.
Source: `openfunction` contract, section 10.2 (frameworks of all languages unwrap each other's).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pelton.model.invocation import Event

__all__ = ["is_wrapped_output", "may_be_wrapped", "unwrap", "wrap"]

_TYPE: Final = "io.openfunction.function"
_MARK: Final = b"io.openfunction.function"
_QUEUES: Final = frozenset(
    f"bindings.{name}"
    for name in (
        "kafka",
        "rabbitmq",
        "aws.sqs",
        "aws.kinesis",
        "gcp.pubsub",
        "azure.eventgrid",
        "azure.eventhubs",
        "azure.servicebusqueues",
        "azure.storagequeues",
    )
)


def is_wrapped_output(component_type: str) -> bool:
    """Tell whether what goes to a component of this type is wrapped: topics and queues."""
    return component_type.startswith("pubsub.") or component_type in _QUEUES


def wrap(
    data: bytes,
    *,
    id: str,
    namespace: str,
    function: str,
    subject: str,
    time: str,
    metadata: Mapping[str, str],
) -> bytes:
    """Return a payload inside an event, in the JSON format.

    Args:
        data: What the function sends.
        id: New unique id.
        namespace: The function's.
        function: Its name.
        subject: Name of the input that caused it; "" for none.
        time: RFC 3339 time.
        metadata: Travels with the data: trace headers.
    """
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": f"{namespace}/{function}",
        "type": f"{_TYPE}.{namespace}.{function}",
        "datacontenttype": "application/json",
        "time": time,
        "data": {"metadata": dict(metadata), "userData": base64.b64encode(data).decode()},
    }
    if subject:
        event["subject"] = subject
    return json.dumps(event, separators=(",", ":")).encode()


def may_be_wrapped(event: Event) -> bool:
    """Tell cheaply whether `unwrap` could find anything; most events are not looked at any further."""
    if event.data.find(b'"specversion"') >= 0:  # half the price of `in`, which tries it as a number first
        return True
    attributes = event.attributes
    return bool(attributes) and str(attributes.get("type", "")).startswith(_TYPE)


def unwrap(event: Event, *, any_event: bool) -> tuple[Event, dict[str, str]]:
    """Return the event as its sender's function handed it over, and the metadata that travelled with it.

    Args:
        event: As delivered.
        any_event: Whether every JSON CloudEvent inside the payload counts, as in traced functions; else only
            those that functions of OpenFunction made.
    """
    data = event.data
    if str(event.attributes.get("type", "")).startswith(_TYPE):  # its envelope is gone already
        inner = _object(data)
        return event if inner is None else _with(event, inner), _metadata(inner)
    if data[:1] != b"{" or b'"specversion"' not in data or not (any_event or _MARK in data):
        return event, {}
    outer = _object(data)
    if outer is None or "specversion" not in outer or not outer.get("type"):
        return event, {}
    if not any_event and not str(outer["type"]).startswith(_TYPE):
        return event, {}
    content = outer.get("data")
    if isinstance(content, dict):
        return _with(event, content), _metadata(content)
    plain = _decode(outer["data_base64"]) if "data_base64" in outer else _bytes(content)
    content_type = str(outer.get("datacontenttype") or "")
    return msgspec.structs.replace(event, data=plain, content_type=content_type), {}


def _with(event: Event, content: dict[str, Any]) -> Event:
    """Return the event with `userData` as payload, or with the whole content where there is none."""
    if "userData" not in content:
        return msgspec.structs.replace(event, data=_bytes(content), content_type="application/json")
    user = content["userData"]
    data = _decode(user) if isinstance(user, str) else _bytes(user)
    content_type = "application/json" if data[:1] in {b"{", b"["} else "application/octet-stream"
    return msgspec.structs.replace(event, data=data, content_type=content_type)


def _metadata(content: dict[str, Any] | None) -> dict[str, str]:
    found = content.get("metadata") if content else None
    return {str(k).lower(): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _bytes(value: Any) -> bytes:
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def _decode(text: Any) -> bytes:
    """Return base64's bytes; text that is none is taken as it is, since not every framework encodes."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return _bytes(text)
