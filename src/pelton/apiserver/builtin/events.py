"""Event, as core v1 and as events.k8s.io/v1 with the same objects; kept for an hour, and only so many.

Objects are stored as core v1; `_Convert` translates. `Expiry` is run by `cli/`.

Source: contracts operator-webhook.md 6.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pelton.apiserver.builtin.coordination import micro_time
from pelton.apiserver.builtin.shapes import Shaped, integer, kind, struct, text
from pelton.apiserver.registry import Cause, Row
from pelton.apiserver.rules import Obj
from pelton.apiserver.store import ObjectStore, decode
from pelton.clock import Clock
from pelton.errors import NotFoundError
from pelton.manifest.kinds import Column

__all__ = ["EVENT", "EVENTS", "EVENTS_KEY", "Expiry"]

EVENTS_KEY = "events"
"""The store's name of both."""

_LIFE = timedelta(hours=1)
_MOST = 10_000
_SWEEP_S = 60.0
_SAME = ("action", "reason", "type", "metadata", "reportingInstance", "eventTime", "related")
_OTHER = {  # core -> events.k8s.io
    "message": "note",
    "involvedObject": "regarding",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
_REFERENCE = struct(
    "An object.",
    {
        "apiVersion": text("Its group and version."),
        "fieldPath": text("The part of it that is meant."),
        "kind": text("Its kind."),
        "name": text("Its name."),
        "namespace": text("Its namespace."),
        "resourceVersion": text("Its version."),
        "uid": text("Its uid."),
    },
    atomic=True,
)
_SERIES = struct(
    "How often it happened again.",
    {"count": integer("Times."), "lastObservedTime": text("When last.", form="date-time")},
)
_SOURCE = struct("Who reports.", {"component": text("Program."), "host": text("Machine.")})
_COMMON = {
    "action": text("What was done about it."),
    "eventTime": text("When it happened.", form="date-time"),
    "reason": text("Why, in one word."),
    "related": _REFERENCE,
    "reportingInstance": text("Which instance of the reporting program."),
    "series": _SERIES,
    "type": text("Normal or Warning."),
}
_CORE_SCHEMA = kind(
    "Something that happened to an object.",
    {
        **_COMMON,
        "count": integer("How often it happened."),
        "firstTimestamp": text("When it happened first.", form="date-time"),
        "involvedObject": _REFERENCE,
        "lastTimestamp": text("When it happened last.", form="date-time"),
        "message": text("What happened, for people."),
        "reportingComponent": text("Which program reports."),
        "source": _SOURCE,
    },
    required=("involvedObject",),
)
_NEW_SCHEMA = kind(
    "Something that happened to an object.",
    {
        **_COMMON,
        "deprecatedCount": integer("As in core v1."),
        "deprecatedFirstTimestamp": text("As in core v1.", form="date-time"),
        "deprecatedLastTimestamp": text("As in core v1.", form="date-time"),
        "deprecatedSource": _SOURCE,
        "note": text("What happened, for people."),
        "regarding": _REFERENCE,
        "reportingController": text("Which program reports."),
    },
)


def _defaults(obj: Obj) -> Obj:
    return {**obj, "eventTime": micro_time(obj["eventTime"])} if "eventTime" in obj else obj


def _core_rules(new: Obj, old: Obj | None) -> list[Cause]:
    involved = new.get("involvedObject") or {}
    space, own = involved.get("namespace", ""), new["metadata"].get("namespace", "")
    if own != (space or "default"):
        return [
            Cause(field="involvedObject.namespace", message="Invalid value: does not match event.namespace")
        ]
    return []


def _new_rules(new: Obj, old: Obj | None) -> list[Cause]:
    causes = []
    if old is None:
        causes += [
            Cause(field=field, message="Required value", reason="FieldValueRequired")
            for field in ("eventTime", "reportingController", "reportingInstance", "action", "reason")
            if not new.get(field)
        ]
        if new.get("type") not in ("Normal", "Warning"):
            causes.append(
                Cause(
                    field="type",
                    message=f'Unsupported value: "{new.get("type", "")}": supported values: '
                    '"Normal", "Warning"',
                    reason="FieldValueNotSupported",
                )
            )
    causes += [
        Cause(field=field, message=f"Too long: may not be more than {most} bytes", reason="FieldValueTooLong")
        for field, most in (("reportingInstance", 128), ("action", 128), ("reason", 128), ("note", 1024))
        if len(str(new.get(field, "")).encode()) > most
    ]
    return causes


class _Convert:
    async def convert(self, objects: Sequence[Obj], row: Row, /) -> list[Obj]:
        """Rename the fields that the two groups call differently; never waits."""
        names = _OTHER if row.group else {new: old for old, new in _OTHER.items()}
        return [
            {
                **{names.get(key, key): value for key, value in obj.items()},
                "apiVersion": row.api_version,
                "kind": "Event",
            }
            for obj in objects
        ]


def _row(group: str, schema: dict[str, Any], checks: Shaped, path: dict[str, str]) -> Row:
    regarding = path.get("involvedObject", "involvedObject")
    return Row(
        group=group,
        version="v1",
        kind="Event",
        plural="events",
        singular="event",
        short_names=("ev",),
        generation=False,
        builtin=True,
        stored_as=EVENTS_KEY if group else "",
        columns=(
            Column(
                "Last Seen",
                "date",
                f".{path.get('lastTimestamp', 'lastTimestamp')}|.eventTime|.metadata.creationTimestamp",
            ),
            Column("Type", "string", ".type"),
            Column("Reason", "string", ".reason"),
            Column("Object", "reference", f".{regarding}"),
            Column("Subobject", "string", f".{regarding}.fieldPath", 1),
            Column(
                "Source",
                "string",
                f".{path.get('reportingComponent', 'reportingComponent')}|.source.component",
                1,
            ),
            Column("Message", "string", f".{path.get('message', 'message')}"),
            Column(
                "First Seen",
                "date",
                f".{path.get('firstTimestamp', 'firstTimestamp')}|.eventTime|.metadata.creationTimestamp",
                1,
            ),
            Column("Count", "integer", f".{path.get('count', 'count')}", 1),
            Column("Name", "string", ".metadata.name", 1),
        ),
        name_column=False,
        schema=schema,
        checks=checks,
        conversion=_Convert(),
        selectable={
            **{
                f"{name}.{field}": f".involvedObject.{field}"
                for name in ("involvedObject", "regarding")
                for field in (
                    "kind",
                    "namespace",
                    "name",
                    "uid",
                    "apiVersion",
                    "resourceVersion",
                    "fieldPath",
                )
            },
            "reason": ".reason",
            "type": ".type",
            "source": ".source.component|.reportingComponent",
            "reportingComponent": ".reportingComponent",
            "reportingController": ".reportingComponent",
        },
    )


EVENT = _row("", _CORE_SCHEMA, Shaped("Event", _CORE_SCHEMA, defaults=_defaults, rules=_core_rules), {})
EVENTS = _row(
    "events.k8s.io", _NEW_SCHEMA, Shaped("Event", _NEW_SCHEMA, defaults=_defaults, rules=_new_rules), _OTHER
)


class Expiry:
    """Removes events that were not renewed for an hour, and the oldest when there are too many.

    Args:
        store: Where events are.
        clock: Time; a clock that steps back only keeps events longer.
        most: Events kept.
    """

    def __init__(self, store: ObjectStore, clock: Clock, *, most: int = _MOST) -> None:
        self._store = store
        self._clock = clock
        self._most = most

    async def run(self) -> None:
        """Sweep once a minute until cancelled."""
        while True:
            self.sweep()
            await self._clock.sleep(_SWEEP_S)

    def sweep(self) -> int:
        """Remove what is over; returns how many."""
        entries = self._store.entries(EVENTS_KEY)
        entries.sort(key=lambda entry: entry.version)
        spare = max(0, len(entries) - self._most)
        limit = self._clock.now() - _LIFE
        gone = 0
        for at, entry in enumerate(entries):
            obj = decode(entry.raw)
            if at >= spare and _seen(obj) > limit:
                continue
            try:
                self._store.discard(EVENTS_KEY, entry, obj)
            except NotFoundError:
                continue
            gone += 1
        return gone


def _seen(obj: Obj) -> datetime:
    """Return when an event happened last."""
    series = obj.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        obj.get("lastTimestamp"),
        obj.get("eventTime"),
        obj["metadata"].get("creationTimestamp"),
    )
    return max(datetime.fromisoformat(str(time)) for time in times if time)
