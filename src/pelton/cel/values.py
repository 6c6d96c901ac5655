"""Run-time values of CEL that Python lacks, equality and order between values, and data made fit for a type.

bool, int, float, str, bytes, list, dict and None stand for themselves. `evaluator.py` and the function
tables use this; nothing here knows of expressions. Pure. Source: the CEL language definition (values,
equality).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pelton.cel.types import Type
from pelton.errors import CelEvaluateError

__all__ = [
    "NOTHING",
    "Duration",
    "MapList",
    "OptionalValue",
    "SetList",
    "Timestamp",
    "UInt",
    "adapt",
    "contains_key",
    "equal",
    "finite_int",
    "less",
    "needs_adapting",
    "parse_duration_ns",
    "type_name",
]

_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:([Zz])|([+-])(\d\d):(\d\d))"
)
_UNIT_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": _NS,
    "m": 60 * _NS,
    "h": 3600 * _NS,
}
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?([a-zµμ]+)")
_FIRST = int((datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds()) * _NS
_LAST = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds()) * _NS + _NS - 1


class UInt(int):
    """An unsigned 64-bit number; CEL keeps it apart from int."""

    __slots__ = ()


class Duration:
    """A span of time in nanoseconds."""

    __slots__ = ("ns",)

    def __init__(self, ns: int) -> None:
        if not -(2**63) <= ns < 2**63:
            raise CelEvaluateError("duration out of range")
        self.ns = ns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self.ns == other.ns

    def __hash__(self) -> int:
        return hash(self.ns)

    def __str__(self) -> str:
        seconds, rest = divmod(abs(self.ns), _NS)
        fraction = f".{rest:09d}".rstrip("0") if rest else ""
        return f"{'-' if self.ns < 0 else ''}{seconds}{fraction}s"


class Timestamp:
    """A point in time in nanoseconds since 1970, between the years 1 and 9999."""

    __slots__ = ("ns",)

    def __init__(self, ns: int) -> None:
        if not _FIRST <= ns <= _LAST:
            raise CelEvaluateError("timestamp out of range")
        self.ns = ns

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Read RFC 3339; raises CelEvaluateError."""
        match = _RFC3339.fullmatch(text)
        try:
            if match is None:
                raise ValueError("not RFC 3339")
            moment = datetime(*(int(part) for part in match.groups()[:6]), tzinfo=UTC)  # type: ignore[misc, arg-type] # six numbers
        except ValueError as error:
            raise CelEvaluateError(f"cannot read {text!r} as a timestamp") from error
        ns = int((moment - _EPOCH) // timedelta(seconds=1)) * _NS + int((match[7] or "").ljust(9, "0"))
        if match[9]:
            shift = (int(match[10]) * 60 + int(match[11])) * 60 * _NS
            ns += shift if match[9] == "-" else -shift
        return cls(ns)

    def local(self, zone: str = "") -> datetime:
        """Return the calendar time, without nanoseconds, in a zone such as `Europe/Berlin` or `+02:00`."""
        moment = _EPOCH + timedelta(microseconds=self.ns // 1000)
        if not zone or zone == "UTC":
            return moment
        offset = re.fullmatch(r"([+-]?)(\d\d):(\d\d)", zone)
        if offset:
            shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
            return moment.astimezone(timezone(-shift if offset[1] == "-" else shift))
        try:
            return moment.astimezone(ZoneInfo(zone))
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise CelEvaluateError(f"unknown time zone {zone}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Timestamp) and self.ns == other.ns

    def __hash__(self) -> int:
        return hash(self.ns)

    def __str__(self) -> str:
        text = self.local().strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
        rest = self.ns % _NS
        return text + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"


class OptionalValue:
    """A value that may be absent."""

    __slots__ = ("has", "value")

    def __init__(self, value: Any = None, *, has: bool = True) -> None:
        self.value = value
        self.has: bool = has


NOTHING = OptionalValue(has=False)
"""The absent optional."""


class SetList(list[Any]):
    """A list of type `set`: compared without order; adding keeps each element once."""


class MapList(list[Any]):
    """A list of type `map`: compared without order; adding merges by keys."""

    keys: tuple[str, ...] = ()

    def key(self, item: Any) -> tuple[str, ...]:
        """Return what identifies an item."""
        return tuple(repr(item.get(name)) if isinstance(item, dict) else "" for name in self.keys)


def parse_duration_ns(text: str) -> int:
    """Read a Go duration such as `1h30m`, as nanoseconds; raises CelEvaluateError."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    total, at = 0, 0
    while at < len(rest):
        match = _PART.match(rest, at)
        if match is None or not (match[1] or match[2]) or match[3] not in _UNIT_NS:
            raise CelEvaluateError(f"cannot read {text!r} as a duration")
        unit = _UNIT_NS[match[3]]
        total += int(match[1] or 0) * unit
        if match[2]:
            total += int(match[2]) * unit // 10 ** len(match[2])
        at = match.end()
    if not at:
        raise CelEvaluateError(f"cannot read {text!r} as a duration")
    return -total if text[0] == "-" else total


_NAMES = {
    bool: "bool",
    int: "int",
    UInt: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    list: "list",
    SetList: "list",
    MapList: "list",
    dict: "map",
    type(None): "null_type",
    Timestamp: "google.protobuf.Timestamp",
    Duration: "google.protobuf.Duration",
    OptionalValue: "optional_type",
    Type: "type",
}


def type_name(value: Any) -> str:
    """Return the CEL name of a value's type."""
    return _NAMES.get(type(value)) or str(getattr(value, "cel_type", type(value).__name__))


_NUMBERS = (int, UInt, float)


def equal(one: Any, other: Any) -> bool:
    """Compare as CEL does: numbers across types, booleans only with booleans, lists and maps by content."""
    first, second = type(one), type(other)
    if first is second and first in (str, int, bool):
        return bool(one == other)
    if first in _NUMBERS and second in _NUMBERS:
        return bool(one == other)
    if isinstance(one, list) and isinstance(other, list):
        return _equal_lists(one, other)
    if first is dict and second is dict:
        if len(one) != len(other):
            return False
        return all(contains_key(other, key) and equal(value, other[key]) for key, value in one.items())
    if first is OptionalValue and second is OptionalValue:
        return one.has == other.has and (not one.has or equal(one.value, other.value))
    return first is second and bool(one == other)


def _equal_lists(one: list[Any], other: list[Any]) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, SetList):
        return all(any(equal(a, b) for b in other) for a in one)
    if isinstance(one, MapList):
        found = {one.key(item): item for item in other}
        return all(one.key(item) in found and equal(item, found[one.key(item)]) for item in one)
    return all(equal(a, b) for a, b in zip(one, other, strict=True))


def contains_key(mapping: dict[Any, Any], key: Any) -> bool:
    """Return whether a map has a key; Python alone would take True for 1."""
    try:
        if key not in mapping:
            return False
    except TypeError:
        return False
    if type(key) in (str, bytes):
        return True
    boolean = type(key) is bool
    return key not in (0, 1) or any(key == k and (type(k) is bool) == boolean for k in mapping)


def less(one: Any, other: Any) -> bool:
    """Order two values; raises CelEvaluateError when their types have no common order."""
    first, second = type(one), type(other)
    if first in _NUMBERS and second in _NUMBERS:
        return bool(one < other)
    if first is second:
        if first in (str, bytes, bool):
            return bool(one < other)
        if first in (Timestamp, Duration):
            return bool(one.ns < other.ns)
    raise CelEvaluateError("no such overload")


def needs_adapting(kind: Type) -> bool:
    """Return whether JSON data of this type differs from its CEL value anywhere."""
    if kind.kind in ("double", "bytes", "timestamp", "duration") or kind.list_type in ("set", "map"):
        return True
    inner: Iterable[Type] = kind.params
    if kind.fields:
        inner = (field.type for field in kind.fields.values())
    return any(needs_adapting(part) for part in inner)


def adapt(value: Any, kind: Type) -> Any:
    """Return JSON data as CEL sees it: numbers as doubles, texts with a format as times or bytes.

    What does not fit the type stays as it is; validation has told about it already.
    """
    match kind.kind:
        case "double":
            return float(value) if type(value) is int else value
        case "bytes" | "timestamp" | "duration":
            return _from_text(value, kind.kind) if isinstance(value, str) else value
        case "list" if isinstance(value, list):
            element = kind.params[0]
            items = [adapt(item, element) for item in value] if needs_adapting(element) else value
            if kind.list_type == "set":
                return SetList(items)
            if kind.list_type == "map":
                merged = MapList(items)
                merged.keys = kind.list_keys
                return merged
            return items
        case "map" if isinstance(value, dict) and needs_adapting(kind.params[1]):
            return {key: adapt(item, kind.params[1]) for key, item in value.items()}
        case "object" if isinstance(value, dict) and needs_adapting(kind):
            result = dict(value)
            for field in (kind.fields or {}).values():
                if field.key in result:
                    result[field.key] = adapt(result[field.key], field.type)
            return result
        case "optional" if isinstance(value, OptionalValue) and value.has:
            return OptionalValue(adapt(value.value, kind.params[0]))
    return value


def _from_text(text: str, kind: str) -> Any:
    try:
        if kind == "duration":
            return Duration(parse_duration_ns(text))
        if kind == "timestamp":
            return Timestamp.parse(text if len(text) > 10 else f"{text}T00:00:00Z")
        return base64.b64decode(text, validate=True)
    except (CelEvaluateError, binascii.Error, ValueError):
        return text


def finite_int(number: float) -> int:
    """Return a double without its fraction as an int; raises CelEvaluateError outside int64."""
    if not math.isfinite(number) or not -(2.0**63) <= number < 2.0**63:
        raise CelEvaluateError("integer overflow")
    return int(number)
