"""What an alert is, and how a request body becomes a list of them.

Pure: `now` comes in as an argument. Read by `notify/intake.py`, carried by `notify/envelope.py`, shown by
`notify/template.py`. Two shapes are accepted: an object with `alerts` (Alertmanager's webhook, version "4",
and the Notification Manager's) and a bare array (Alertmanager's own intake). Source:
contracts/log-notification.md 5, 9.1, 9.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from pelton.clock import rfc3339
from pelton.errors import ProtocolError

__all__ = ["FIRING", "RESOLVED", "ZERO_TIME", "Alert", "fingerprint", "identified", "parse"]

FIRING = "firing"
RESOLVED = "resolved"

ZERO_TIME = "0001-01-01T00:00:00Z"
"""How Go writes "no time": a firing alert's endsAt."""

_FNV_OFFSET = 14695981039346656037
_FNV_PRIME = 1099511628211
_MOST_STEPS = 50_000
_LONGEST_STEP = 200  # characters; so that what is remembered has a bound in bytes, too
_steps: dict[tuple[int, tuple[str, str]], int] = {}
_JSON_TYPES = {dict: "an object", list: "an array", str: "text", bool: "a boolean", type(None): "null"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert.

    Attributes:
        status: `firing` or `resolved`.
        labels: Name -> value; the identity of the alert.
        annotations: Name -> value; text for people.
        starts_at: RFC 3339, as it came in.
        ends_at: RFC 3339; `ZERO_TIME` while nobody knows.
        generator_url: Where it was made; "" when unknown.
        fingerprint: 16 hex digits over the labels; "" until the pipeline has taken it, which may add labels,
            unless the sender says one.
        upstream: The group that an Alertmanager sent it in; "" when it comes from elsewhere. Such an alert
            has waited in a group already and is not made to wait again.
    """

    status: str
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: str = ZERO_TIME
    ends_at: str = ZERO_TIME
    generator_url: str = ""
    fingerprint: str = ""
    upstream: str = ""

    @property
    def message(self) -> str:
        """The sentence for people: annotation message, else summary, else the Chinese summary, else ""."""
        for name in ("message", "summary", "summaryCn"):
            if text := self.annotations.get(name):
                return text
        return ""


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return 16 hex digits that identify a label set, whatever its order.

    Source: Prometheus' label set fingerprint: FNV-1a, 64 bit, over sorted names and values, each closed by
    byte 255, so that the same alert has the same fingerprint here and in Alertmanager.
    """
    state = _FNV_OFFSET
    for label in sorted(labels.items()):
        # Most label sets begin alike, and the same ones come again and again.
        step = (state, label)
        after = _steps.get(step)
        if after is None:
            after = state
            for byte in label[0].encode() + b"\xff" + label[1].encode() + b"\xff":
                after = ((after ^ byte) * _FNV_PRIME) & 0xFFFF_FFFF_FFFF_FFFF
            if len(_steps) >= _MOST_STEPS:
                _steps.clear()
            if len(label[1]) <= _LONGEST_STEP:
                _steps[step] = after
        state = after
    return f"{state:016x}"


def identified(alert: Alert, cluster: str) -> Alert:
    """Return an alert with the fingerprint of its labels, `cluster` among them unless that is "".

    A label with an empty value is none, as in Alertmanager.
    """
    labels = {"cluster": cluster} | alert.labels if cluster else alert.labels
    if "" in labels.values():
        labels = {name: value for name, value in labels.items() if value}
    # Spelt out: dataclasses.replace takes four times as long.
    return Alert(
        status=alert.status,
        labels=labels,
        annotations=alert.annotations,
        starts_at=alert.starts_at,
        ends_at=alert.ends_at,
        generator_url=alert.generator_url,
        fingerprint=fingerprint(labels),
        upstream=alert.upstream,
    )


def parse(body: bytes, *, now: datetime) -> list[Alert]:
    """Read a request body.

    Labels and annotations common to a group are merged into each of its alerts (the alert's own value wins),
    since hand-written senders put shared labels only there.

    Args:
        body: JSON, UTF-8.
        now: Time of receipt, UTC; the default of `startsAt`.

    Returns:
        Alerts in the order of the body; may be empty.

    Raises:
        ProtocolError: Not JSON, or not of either shape; the message names the first offending place.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ProtocolError(f"The body is not JSON: {reason}.") from error
    if isinstance(document, list):
        bare = _Shared(received=rfc3339(now, fraction=True))
        return [_alert(item, f"[{i}]", bare, now) for i, item in enumerate(document)]
    if not isinstance(document, dict) or "alerts" not in document:
        raise ProtocolError("Expected an object with the key `alerts`, or an array of alerts.")
    items = document["alerts"]
    if items is None:  # a Go sender writes an empty slice as null
        return []
    if not isinstance(items, list):
        raise ProtocolError(f"alerts is {_type(items)}; expected an array.")
    shared = _Shared(
        labels=_texts(document, "groupLabels", "") | _texts(document, "commonLabels", ""),
        annotations=_texts(document, "commonAnnotations", ""),
        status=_status(document, "", default=""),
        # Only Alertmanager's own webhook has both.
        upstream=_text(document, "groupKey", "body") if document.get("version") == "4" else "",
        received=rfc3339(now, fraction=True),
    )
    return [_alert(item, f"alerts[{i}]", shared, now) for i, item in enumerate(items)]


@dataclass(frozen=True, slots=True)
class _Shared:
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    status: str = ""
    upstream: str = ""
    received: str = ""


def _alert(item: Any, where: str, shared: _Shared, now: datetime) -> Alert:
    if not isinstance(item, dict):
        raise ProtocolError(f"{where} is {_type(item)}; expected an object.")
    labels = shared.labels | _texts(item, "labels", where)
    annotations = shared.annotations | _texts(item, "annotations", where)
    if labels.get("alerttype") == "metric":
        annotations = {"alerttime": shared.received} | annotations  # alerts of events come with one
    starts_at, starts = _time(item, "startsAt", where)
    ends_at, ends = _time(item, "endsAt", where)
    # Only the bare array states "over" by its end alone; an object's sender states it in `status`.
    status = _status(item, where, default=shared.status)
    if not status:
        status = RESOLVED if ends is not None and ends <= now else FIRING
    return Alert(
        status=status,
        labels=labels,
        annotations=annotations,
        # Go's clients, amtool among them, write the zero time where they have none.
        starts_at=starts_at if starts is not None else shared.received,
        ends_at=ends_at if ends is not None else ZERO_TIME,
        generator_url=_text(item, "generatorURL", where),
        fingerprint=_text(item, "fingerprint", where),
        upstream=shared.upstream,
    )


def _texts(item: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = item.get(key)
    if value is None:
        return {}
    path = f"{where}.{key}" if where else key
    if not isinstance(value, dict):
        raise ProtocolError(f"{path} is {_type(value)}; expected an object of texts.")
    for name, text in value.items():
        if not isinstance(text, str):
            raise ProtocolError(f"{path}.{name} is {_type(text)}; expected text.")
    return value


def _text(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ProtocolError(f"{where}.{key} is {_type(value)}; expected text.")
    return value


def _status(item: Mapping[str, Any], where: str, *, default: str) -> str:
    value = item.get("status")
    # Alertmanager's own API has an object here (state, silencedBy, inhibitedBy): nothing about firing.
    if value is None or value == "" or isinstance(value, dict):
        return default
    path = f"{where}.status" if where else "status"
    if not isinstance(value, str) or value not in {FIRING, RESOLVED}:
        shown = repr(value) if isinstance(value, str) else _type(value)
        raise ProtocolError(f"{path} is {shown}; expected `firing` or `resolved`.")
    return value


def _time(item: Mapping[str, Any], key: str, where: str) -> tuple[str, datetime | None]:
    """Return the text as it came ("" for none) and its moment (None for none and for Go's zero time)."""
    text = _text(item, key, where)
    if not text:
        return "", None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or "T" not in text.upper():
        raise ProtocolError(f"{where}.{key} is {text[:40]!r}; expected a time such as 2026-01-02T03:04:05Z.")
    if moment.year == 1:
        return ZERO_TIME, None
    return text, moment


def _type(value: Any) -> str:
    return _JSON_TYPES.get(type(value), "a number")
