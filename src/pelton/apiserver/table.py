"""Printer columns: the cells that `kubectl get` shows for an object. Pure; called by `forms.py`.

Columns come with the kinds (`registry.Row`), values are found by Kubernetes' JSONPath: `.key`, `['key']`,
`[number]`, `[from:to]`, `[*]`, `..key` and `[?(@.key=="value")]`, of several values the first; `|` between
paths takes the first that has a value. Ages are printed as kubectl prints them. Built-in kinds have columns
that summarise: `count` of entries, `labels`, `ports`, `addresses`, `reference` to an object, `optional`
text, `ready` containers, `phase` of a pod.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

__all__ = ["Column", "age", "cells", "find"]

_STEP = re.compile(
    r"""\.\.(?P<deep>[\w-]+) | (?P<all>\.\*|\[\*\]) |
        \.(?P<key>(?:[\w/-]|\\.)+) | \[["'](?P<quoted>[^"']+)["']\] |
        \[(?P<at>-?\d+)\] | \[(?P<slice>-?\d*:-?\d*(?::-?[1-9]\d*)?)\] |
        \[\?\(\s*@(?P<by>(?:\.[\w-]+|\[["'][^"']+["']\])+)\s*
            (?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>"[^"]*"|'[^']*'|-?\d+(?:\.\d+)?|true|false))?\s*\)\]""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Column(Protocol):
    """A column: heading, type (`string`, `integer`, `boolean`, `date`) and the JSONPath of its value."""

    @property
    def name(self) -> str:
        """Heading."""
        ...

    @property
    def type(self) -> str:
        """`date` values are shown as ages; see above for those that summarise."""
        ...

    @property
    def json_path(self) -> str:
        """JSONPath of Kubernetes, with a leading dot."""
        ...

    @property
    def priority(self) -> int:
        """0 for columns that are always shown, 1 for those of `-o wide`."""
        ...


def find(json_path: str) -> Callable[[Any], Any]:
    """Return a function that finds the value of a JSONPath in an object, None where there is none.

    Raises:
        ValueError: The path has a form that columns do not use.
    """
    if "|" in json_path:
        either = [find(path) for path in json_path.split("|")]
        return lambda obj: next((v for each in either if (v := each(obj)) not in (None, "")), None)
    steps = []
    at = 0
    while at < len(json_path):
        match = _STEP.match(json_path, at)
        if match is None:
            raise ValueError(f"the JSONPath {json_path!r} cannot be read at {json_path[at:]!r}")
        steps.append(_step(match))
        at = match.end()
    return lambda obj: next(iter(_walk([obj], steps)), None)


_Step = Callable[[Any], Iterable[Any]]


def _walk(values: Iterable[Any], steps: Iterable[_Step]) -> Iterable[Any]:
    """Return every value that the steps lead to, in document order."""
    for step in steps:
        values = [found for value in values for found in step(value)]
    return values


def _step(match: re.Match[str]) -> _Step:
    """Return what takes a value one step further: to none, one or several values."""
    if match["deep"]:
        return lambda value: _deep(value, match["deep"])
    if match["all"]:
        return _inside
    if key := (match["key"] or "").replace("\\", "") or match["quoted"]:
        return lambda value: [value[key]] if isinstance(value, dict) and key in value else []
    if match["at"]:
        at = int(match["at"])
        return lambda value: value[at : at + 1 or None] if isinstance(value, list) else []
    if match["slice"]:
        part = slice(*(int(each) if each else None for each in match["slice"].split(":")))
        return lambda value: value[part] if isinstance(value, list) else []
    inner, wanted, compare = find(match["by"]), _literal(match["value"]), match["op"]

    def fits(item: Any) -> bool:
        value = inner(item)
        if compare is None:
            return value is not None
        try:
            return bool(_COMPARE[compare](value, wanted))
        except TypeError:
            return False  # a text is neither more nor less than a number

    return lambda value: [item for item in _inside(value) if fits(item)]


def _literal(text: str | None) -> Any:
    if text is None or text[0] in "\"'":
        return None if text is None else text[1:-1]
    return {"true": True, "false": False}.get(text, float(text) if text[-1].isdigit() else text)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _deep(value: Any, key: str) -> list[Any]:
    own = [value[key]] if isinstance(value, dict) and key in value else []
    return own + [found for item in _inside(value) for found in _deep(item, key)]


def cells(finders: Iterable[tuple[str, Callable[[Any], Any]]], obj: Any, now: datetime) -> list[Any]:
    """Return one object's cells.

    Args:
        finders: (type of the column, what finds its value) per column.
        obj: The object.
        now: For ages.

    Returns:
        Text, or a whole number or truth value where the column has that type; "" where there is no value.
    """
    result: list[Any] = []
    for kind, value_of in finders:
        value = value_of(obj)
        if kind == "date":
            result.append(age(value, now))
        elif kind in _SUMMARIES:
            result.append(_SUMMARIES[kind](value))
        elif value is None or isinstance(value, (str, int)):
            result.append("" if value is None else value)
        else:
            result.append(json.dumps(value, separators=(",", ":")))  # as a Kubernetes server prints maps
    return result


def _labels(value: Any) -> str:
    pairs = value.items() if isinstance(value, dict) else ()
    return ",".join(f"{key}={text}" for key, text in sorted(pairs)) or "<none>"


def _ports(value: Any) -> str:
    ports = [port for port in value if isinstance(port, dict)] if isinstance(value, list) else []
    return ",".join(f"{port.get('port', '*')}/{port.get('protocol', 'TCP')}" for port in ports) or "<none>"


def _addresses(value: Any) -> str:
    ends = value if isinstance(value, list) else []
    found = [address for end in ends if isinstance(end, dict) for address in end.get("addresses") or ()]
    more = f" + {len(found) - 3} more..." if len(found) > 3 else ""
    return ",".join(found[:3]) + more or "<unset>"


def _reference(value: Any) -> str:
    return f"{str(value.get('kind', '')).lower()}/{value.get('name', '')}" if isinstance(value, dict) else ""


_SUMMARIES: dict[str, Callable[[Any], Any]] = {
    "count": lambda value: len(value) if isinstance(value, (dict, list)) else 0,
    "labels": _labels,
    "ports": _ports,
    "addresses": _addresses,
    "optional": lambda value: value or "<none>",
    "reference": _reference,
    "ready": lambda value: f"{sum(bool(one.get('ready')) for one in value or ())}/{len(value or ())}",
    "phase": lambda obj: (
        "Terminating"
        if obj["metadata"].get("deletionTimestamp")
        else (obj.get("status") or {}).get("phase", "")
    ),
}


def age(value: object, now: datetime) -> str:
    """Return the time since an RFC 3339 text in two units at most; `<unknown>` when it is none."""
    try:
        seconds = int((now - datetime.fromisoformat(str(value)).astimezone(UTC)).total_seconds())
    except ValueError:
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
