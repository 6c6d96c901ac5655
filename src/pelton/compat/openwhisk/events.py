"""Events as OpenWhisk's feeds would deliver them: which actions they start, with which parameters. Pure.

Called by `front.py` with what `sdk/trigger.py` says about an invocation.
Source: `faas-conventions` contract, sections 1a and 6.2 (alarms), and the message feed's documented form.
Decided: a timer brings its trigger's `trigger_payload`; a record is one message of `messages`, its value
parsed when the trigger says `isJSONData` or, without a declared trigger, when its media type is JSON; a
CloudEvent brings its data's members, with its attributes as `ce-` names in `__ow_headers`, so that an action
sees the same however it arrives.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from pelton.compat.openwhisk.manifest import TriggerSpec
from pelton.sdk.trigger import Trigger

__all__ = ["parameters", "trigger_of"]


def trigger_of(trigger: Trigger, declared: tuple[TriggerSpec, ...]) -> TriggerSpec | None:
    """Return the manifest's trigger that an event belongs to.

    By the name of the component that delivered it (`NAME`, or `...-NAME`), by topic or schedule, else the
    only one of its kind.
    """
    kind = "cron" if trigger.kind == "timer" else "topic"
    fitting = [item for item in declared if item.kind == kind]
    for item in fitting:
        if trigger.source == item.name or trigger.source.endswith(f"-{item.name}"):
            return item
    for item in fitting:
        if item.value and item.value in (trigger.topic, trigger.schedule):
            return item
    return fitting[0] if len(fitting) == 1 and trigger.kind in {"timer", "record"} else None


def parameters(trigger: Trigger, declared: TriggerSpec | None) -> dict[str, Any]:
    """Return the parameters that an event brings."""
    if trigger.kind == "timer":
        return dict(declared.payload) if declared is not None else {}
    if trigger.kind == "record":
        return {"messages": [_message(trigger, declared)]}
    found = _members(trigger.data, trigger.content_type)
    if trigger.kind == "cloudevent":
        found["__ow_headers"] = _headers(trigger.attributes)
    return found


def _message(trigger: Trigger, declared: TriggerSpec | None) -> dict[str, Any]:
    parsed = declared.json_data if declared is not None else _is_json(trigger.content_type)
    return {
        "topic": trigger.topic,
        "partition": trigger.partition,
        "offset": trigger.offset,
        "key": None if trigger.key is None else trigger.key.decode("utf-8", "replace"),
        "value": _value(trigger.data, parsed=parsed),
    }


def _value(data: bytes, *, parsed: bool) -> Any:
    if parsed:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            pass
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


def _members(data: bytes, content_type: str) -> dict[str, Any]:
    """Return a JSON object's members, anything else as __ow_body."""
    if not data:
        return {}
    value = _value(data, parsed=not content_type or _is_json(content_type))
    return value if isinstance(value, dict) else {"__ow_body": value}


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def _headers(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return attributes as a request in binary mode carries them, unescaped."""
    return {
        "content-type" if name == "datacontenttype" else f"ce-{name}": str(value).lower()
        if isinstance(value, bool)
        else str(value)
        for name, value in attributes.items()
    }
