"""Printer columns: what `kubectl get` shows for each kind. Pure; called by `forms.py`.

Source: contracts openfunction.md section 1 (columns); ages as kubectl prints them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["Column", "age", "cells", "columns"]

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: Heading.
        path: Keys from the object's root; a number selects from a list, a pair (key, value) the first list
            entry that has it.
        priority: 0 always shown, above 0 only with `-o wide`.
        format: `name` for the object's name, else "".
        show: Makes the cell's text from the value and the time of day.
    """

    name: str
    path: tuple[str | int | tuple[str, str], ...]
    priority: int = 0
    format: str = ""
    show: Callable[[Any, datetime], str] | None = None


def age(value: Any, now: datetime) -> str:
    """Return the time since an RFC 3339 text in two units at most; `<unknown>` when it is none."""
    try:
        seconds = int((now - datetime.fromisoformat(value).astimezone(UTC)).total_seconds())
    except (TypeError, ValueError):
        return "<unknown>"
    seconds = max(0, seconds)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d") if days < 8 * 365 else f"{days // 365}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


_NAME = Column("Name", ("metadata", "name"), format="name")
_AGE = Column("Age", ("metadata", "creationTimestamp"), show=age)
_LAST_TYPE = ("status", "conditions", -1, "type")
_COLUMNS: dict[str, tuple[Column, ...]] = {
    "namespaces": (Column("Status", ("status", "phase")), _AGE),
    "functions.core.openfunction.io": (
        Column("BuildState", ("status", "build", "state")),
        Column("ServingState", ("status", "serving", "state")),
        Column("Builder", ("status", "build", "resourceRef")),
        Column("Serving", ("status", "serving", "resourceRef")),
        Column("Address", ("status", "addresses", ("type", "Internal"), "value")),
        _AGE,
    ),
    "builders.core.openfunction.io": (
        Column("Phase", ("status", "phase")),
        Column("State", ("status", "state")),
        Column("Reason", ("status", "reason")),
        Column("BuildDuration", ("status", "buildDuration")),
        _AGE,
    ),
    "servings.core.openfunction.io": (
        Column("Phase", ("status", "phase")),
        Column("State", ("status", "state")),
        _AGE,
    ),
    "eventsources.events.openfunction.io": (
        Column("EventBus", ("spec", "eventBus")),
        Column("Sink", ("spec", "sink", "uri")),
        Column("Status", _LAST_TYPE),
    ),
    "triggers.events.openfunction.io": (
        Column("EventBus", ("spec", "eventBus")),
        Column("Status", _LAST_TYPE),
    ),
    "gateways.networking.openfunction.io": (
        Column("Address", ("status", "addresses", 0, "value")),
        Column("Ready", ("status", "conditions", ("type", "Ready"), "status")),
        _AGE,
    ),
    "components.dapr.io": (Column("Type", ("spec", "type")), _AGE),
}


def columns(resource: str) -> tuple[Column, ...]:
    """Return the columns of `<plural>.<group>`; name and age for what has no entry."""
    return (_NAME, *_COLUMNS.get(resource, (_AGE,)))


def cells(shown: tuple[Column, ...], obj: Obj, now: datetime) -> list[str]:
    """Return one object's cells, "" where it has no such value."""
    result = []
    for column in shown:
        value = _value(obj, column.path)
        if column.show is not None:
            result.append(column.show(value, now))
        else:
            result.append("" if value is None else str(value))
    return result


def _value(value: Any, path: tuple[str | int | tuple[str, str], ...]) -> Any:
    for step in path:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        elif not isinstance(value, list):
            return None
        elif isinstance(step, int):
            value = value[step] if value and -len(value) <= step < len(value) else None
        else:
            key, wanted = step
            value = next((v for v in value if isinstance(v, dict) and v.get(key) == wanted), None)
    return value
