"""The types of CEL as the checker sees them, with the sizes that cost estimates need.

Whoever offers variables (schemas, admission, routing rules) builds these; `checker.py` compares them. Pure.
Source: the CEL language definition, Kubernetes' mapping of OpenAPI types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = [
    "BOOL",
    "BYTES",
    "DOUBLE",
    "DURATION",
    "DYN",
    "ERROR",
    "INT",
    "NULL",
    "STRING",
    "TIMESTAMP",
    "UINT",
    "Field",
    "Type",
    "is_sized",
    "list_of",
    "map_of",
    "object_of",
    "opaque",
    "optional_of",
    "param",
    "type_of",
]


@dataclass(frozen=True, slots=True)
class Type:
    """A type.

    Attributes:
        kind: bool, int, uint, double, string, bytes, null_type, timestamp, duration, dyn, error, type,
            list, map, optional, opaque, object or param.
        name: Of an object, opaque type or type parameter; "" otherwise.
        params: Element types: one of a list, optional or type; key and value of a map.
        fields: Of an object: name in expressions -> field. Not compared: objects are the same by name.
        max_size: Most elements (list, map), code points (string) or bytes; None when unknown.
        nullable: Whether `null` is a value of it.
        list_type: `set` or `map` for lists that compare without order, "" otherwise.
        list_keys: Keys of a list of type `map`.
    """

    kind: str
    name: str = ""
    params: tuple[Type, ...] = ()
    fields: Mapping[str, Field] | None = field(default=None, compare=False, repr=False)
    max_size: int | None = field(default=None, compare=False)
    nullable: bool = field(default=False, compare=False)
    list_type: str = field(default="", compare=False)
    list_keys: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        if self.kind in ("opaque", "object", "param"):
            return self.name
        if self.kind == "timestamp":
            return "timestamp"
        shown = {"optional": "optional_type", "error": "*error*"}.get(self.kind, self.kind)
        return f"{shown}({', '.join(map(str, self.params))})" if self.params else shown

    def sized(self, size: int | None) -> Type:
        """Return the same type with another largest size."""
        return replace(self, max_size=size)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an object.

    Attributes:
        type: Its type.
        key: Its name in the data.
    """

    type: Type
    key: str


BOOL = Type("bool")
INT = Type("int")
UINT = Type("uint")
DOUBLE = Type("double")
STRING = Type("string")
BYTES = Type("bytes")
NULL = Type("null_type")
TIMESTAMP = Type("timestamp")
DURATION = Type("duration")
DYN = Type("dyn")
ERROR = Type("error")


def list_of(
    element: Type, max_size: int | None = None, *, list_type: str = "", list_keys: tuple[str, ...] = ()
) -> Type:
    """Return `list(element)`."""
    return Type("list", params=(element,), max_size=max_size, list_type=list_type, list_keys=list_keys)


def map_of(key: Type, value: Type, max_size: int | None = None) -> Type:
    """Return `map(key, value)`."""
    return Type("map", params=(key, value), max_size=max_size)


def object_of(name: str, fields: Mapping[str, Field]) -> Type:
    """Return an object type; two of the same name are the same type."""
    return Type("object", name=name, fields=fields)


def optional_of(value: Type) -> Type:
    """Return `optional_type(value)`."""
    return Type("optional", params=(value,))


def opaque(name: str) -> Type:
    """Return a type that only functions look into."""
    return Type("opaque", name=name)


def param(name: str) -> Type:
    """Return a type parameter of an overload."""
    return Type("param", name=name)


def type_of(value: Type) -> Type:
    """Return the type of a type."""
    return Type("type", params=(value,))


def is_sized(kind: Type) -> bool:
    """Return whether values have a size."""
    return kind.kind in ("list", "map", "string", "bytes")
