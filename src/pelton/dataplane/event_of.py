"""What a function gets for a message of a broker: the event, unwrapped when it is a CloudEvent. Pure.

Called by `dispatcher.py` once per event and attempt, so it looks at headers only where they can say
something.
Source: `dapr-runtime` contract, section 3; CloudEvents 1.0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pelton.model import cloudevent
from pelton.model.desired import Subscription
from pelton.model.invocation import Event
from pelton.ports import Message

__all__ = ["to_event"]

_SILENT: Final = cloudevent.BROKER_HEADERS.issuperset
_JSON_BEGINS: Final = frozenset((b"{", b"["))


def to_event(subscription: Subscription, message: Message, *, key: str, attempt: int) -> Event:
    """Return what a function gets for a message: unwrapped when it is a CloudEvent, as it is otherwise.

    Args:
        subscription: Names component and topic.
        message: As the broker has it.
        key: Identity of the delivery: the id of an event that brings none.
        attempt: 1 for the first.
    """
    component = subscription.component
    headers, data = message.headers, message.data
    metadata = {**headers, "Topic": message.topic}
    if "__offset" not in metadata:
        offset = key.rpartition(":")[2]
        if offset.isdecimal():
            metadata["__offset"] = offset
    if subscription.deferred:
        return Event(
            kind="deferred",
            component=component.name,
            component_type=component.type,
            topic="",
            data=data,
            content_type=headers.get("Content-Type", ""),
            attributes={"id": headers.get("Nats-Msg-Id") or message.id or key},
            metadata=metadata,
            attempt=attempt,
        )
    attributes: dict[str, Any] = {}
    found = None
    silent = _SILENT(headers)
    # find, since `in` would try its left side as a number first, at the same price again
    if not silent or (data[:1] == b"{" and data.find(b'"specversion"') >= 0):
        found = cloudevent.from_message(headers, data)
    if found is not None:
        data, content_type = found.data, found.content_type
        if subscription.topic:
            attributes = found.attributes()
    else:
        content_type = ("" if silent else _named_type(headers)) or (
            "application/json" if data[:1] in _JSON_BEGINS else "application/octet-stream"
        )
        if subscription.topic:
            attributes = {
                "specversion": "1.0",
                "id": headers.get("Nats-Msg-Id") or message.id or key,
                "source": f"{component.namespace}/{component.name}",
                "type": cloudevent.DAPR_TYPE,
                "datacontenttype": content_type,
            }
    if not subscription.topic:
        return Event(
            kind="binding",
            component=component.name,
            component_type=component.type,
            topic="",
            data=data,
            content_type=content_type,
            metadata=metadata,
            attempt=attempt,
        )
    attributes.setdefault("topic", message.topic)
    attributes.setdefault("pubsubname", component.name)
    return Event(
        kind="topic",
        component=component.name,
        component_type=component.type,
        topic=message.topic,
        data=data,
        content_type=content_type,
        attributes=attributes,
        metadata=metadata,
        attempt=attempt,
    )


def _named_type(headers: Mapping[str, str]) -> str:
    for name, value in headers.items():
        if value and name.lower() == "content-type":
            return value
    return ""
