"""The CEL type of every part of a schema, with the sizes that cost estimates need.

`rules.py` declares `self` and `oldSelf` with these. Pure. Source: Kubernetes' mapping of OpenAPI types to
CEL; contracts operator-webhook.md 5.2 (escapes, sizes).
"""

from __future__ import annotations

import re

from pelton.apiserver.schema.node import ABSENT, Node
from pelton.cel import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    MAX_REQUEST_BYTES,
    RESERVED,
    STRING,
    TIMESTAMP,
    Field,
    Type,
    list_of,
    map_of,
    object_of,
)

__all__ = ["cel_type", "escape", "least_bytes"]

_WORDS = RESERVED | {"true", "false", "null", "in"}
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_IDENTIFIER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def escape(name: str) -> str | None:
    """Return a field's name in expressions, None when it cannot be written there."""
    if name in _WORDS:
        return f"__{name}__"
    text = re.sub(r"__|[.\-/]", lambda found: _ESCAPES[found[0]], name)
    return text if _IDENTIFIER.fullmatch(text) else None


def cel_type(node: Node, name: str, *, root: bool = False) -> Type | None:
    """Return the type of a schema.

    Args:
        node: The schema.
        name: Name for object types inside, unique in the schema.
        root: Whether it is a whole object.

    Returns:
        None for parts that expressions cannot see: those without a type.
    """
    found = _bare(node, name, root)
    return found if found is None or not node.nullable else _nullable(found)


def _nullable(kind: Type) -> Type:
    return Type(
        kind.kind, kind.name, kind.params, kind.fields, kind.max_size, True, kind.list_type, kind.list_keys
    )


def _bare(node: Node, name: str, root: bool) -> Type | None:
    if node.int_or_string:
        return DYN.sized(_text_size(node))
    match node.type:
        case "boolean":
            return BOOL
        case "integer":
            return INT
        case "number":
            return DOUBLE
        case "string":
            return _text(node)
        case "array" if node.items is not None:
            element = cel_type(node.items, f"{name}.@item")
            if element is None:
                return None
            size = int(node.limits.get("maxItems", (MAX_REQUEST_BYTES - 2) // (least_bytes(node.items) + 1)))
            kind = node.list_type if node.list_type in ("set", "map") else ""
            return list_of(element, size, list_type=kind, list_keys=node.list_keys)
        case "object":
            return _object(node, name, root)
    return None


def _object(node: Node, name: str, root: bool) -> Type | None:
    if isinstance(node.additional, Node):
        value = cel_type(node.additional, f"{name}.@value")
        if value is None:
            return None
        size = node.limits.get("maxProperties", (MAX_REQUEST_BYTES - 2) // (least_bytes(node.additional) + 6))
        return map_of(STRING, value, int(size))
    fields: dict[str, Field] = {}
    for key, child in node.properties.items():
        known = escape(key)
        kind = cel_type(child, f"{name}.{key}")
        if known is not None and kind is not None:
            fields[known] = Field(kind, key)
    if root or node.embedded:
        fields["apiVersion"] = Field(STRING.sized(300), "apiVersion")
        fields["kind"] = Field(STRING.sized(100), "kind")
        names = {key: Field(STRING.sized(253), key) for key in ("name", "generateName")}
        fields["metadata"] = Field(object_of(f"{name}.metadata", names), "metadata")
    return object_of(name, fields)


def _text(node: Node) -> Type:
    match node.format:
        case "byte":
            return BYTES.sized(int(node.limits.get("maxLength", MAX_REQUEST_BYTES - 2)))
        case "duration":
            return DURATION
        case "date" | "date-time":
            return TIMESTAMP
    return STRING.sized(_text_size(node))


def _text_size(node: Node) -> int:
    if "maxLength" in node.limits:
        # A limit counts code points, a request bytes: up to four each.
        return min(int(node.limits["maxLength"]) * 4, MAX_REQUEST_BYTES - 2)
    if node.enum:
        return (
            max(len(item) for item in node.enum if isinstance(item, str))
            if any(isinstance(item, str) for item in node.enum)
            else 1
        )
    return MAX_REQUEST_BYTES - 2


def least_bytes(node: Node) -> int:
    """Return the fewest bytes that a value takes as JSON."""
    match node.type:
        case "boolean":
            return 4
        case "array" | "string":
            return 2
        case "object":
            demanded = (
                len(key) + 4 + least_bytes(node.properties[key])
                for key in node.required
                if key in node.properties and node.properties[key].default is ABSENT
            )
            return 2 + sum(demanded)
    return 1
