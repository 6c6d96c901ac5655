"""A schema taken apart once: dictionaries of OpenAPI become nodes with attributes.

`structural.py` checks that a schema can be read this way; `fill.py`, `validate.py` and `rules.py` walk the
nodes. Pure. Source: contracts operator-webhook.md 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pelton.cel.regex import Regex, RegexError, compile_regex

__all__ = ["ABSENT", "Node", "Rule", "correlated", "item_key", "parse"]

Doc = Mapping[str, Any]

ABSENT: Any = object()
"""Stands for a value that is not there, since null is a value."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of x-kubernetes-validations."""

    rule: str
    message: str = ""
    message_expression: str = ""
    reason: str = ""
    field_path: str = ""
    optional_old_self: bool = False


@dataclass(slots=True, kw_only=True)
class Node:
    """One level of a schema.

    Attributes:
        type: object, array, string, integer, number, boolean, or "" (int-or-string, preserved, or in a
            junctor).
        properties: Field -> node.
        additional: Node of the values of a mapping; True for any value, False for none, None when not given.
        items: Node of the elements.
        default: Value for an absent field; ABSENT when there is none.
        enum: Allowed values; None for any.
        limits: Keyword -> number, for minimum, maxLength, maxItems and so on.
        exclusive_min, exclusive_max: Whether the bound itself is outside.
        pattern: (source, compiled).
        required: Fields that must be there.
        all_of, any_of, one_of, negated: Value validations.
        preserve, embedded, int_or_string, list_type, list_keys, map_type: The x-kubernetes keywords.
        rules: CEL rules.
    """

    type: str = ""
    format: str = ""
    nullable: bool = False
    properties: dict[str, Node] = field(default_factory=dict)
    additional: Node | bool | None = None
    items: Node | None = None
    default: Any = ABSENT
    enum: list[Any] | None = None
    limits: dict[str, float] = field(default_factory=dict)
    exclusive_min: bool = False
    exclusive_max: bool = False
    pattern: tuple[str, Regex] | None = None
    required: tuple[str, ...] = ()
    all_of: tuple[Node, ...] = ()
    any_of: tuple[Node, ...] = ()
    one_of: tuple[Node, ...] = ()
    negated: Node | None = None
    preserve: bool = False
    embedded: bool = False
    int_or_string: bool = False
    list_type: str = "atomic"
    list_keys: tuple[str, ...] = ()
    map_type: str = "granular"
    rules: tuple[Rule, ...] = ()

    def child(self, key: str) -> Node | None:
        """Return the node of a field of an object, None when the schema says nothing about it."""
        found = self.properties.get(key)
        if found is not None:
            return found
        return self.additional if isinstance(self.additional, Node) else None


_LIMITS = (
    *("minimum", "maximum", "multipleOf", "minLength", "maxLength"),
    *("minItems", "maxItems", "minProperties", "maxProperties"),
)


def parse(schema: Doc) -> Node:
    """Return the node of a schema that `structural.check` found no fault in, or of one that is trusted."""
    additional = schema.get("additionalProperties")
    items = schema.get("items")
    pattern = schema.get("pattern")
    negated = schema.get("not")
    return Node(
        type=str(schema.get("type") or ""),
        format=str(schema.get("format") or ""),
        nullable=schema.get("nullable") is True,
        properties={key: parse(value) for key, value in (schema.get("properties") or {}).items()},
        additional=parse(additional) if isinstance(additional, dict) else additional,
        items=parse(items) if isinstance(items, dict) else None,
        default=schema.get("default", ABSENT),
        enum=list(schema["enum"]) if schema.get("enum") else None,
        limits={key: schema[key] for key in _LIMITS if schema.get(key) is not None},
        exclusive_min=schema.get("exclusiveMinimum") is True,
        exclusive_max=schema.get("exclusiveMaximum") is True,
        pattern=(pattern, _compiled(pattern)) if pattern else None,
        required=tuple(schema.get("required") or ()),
        all_of=tuple(parse(part) for part in schema.get("allOf") or ()),
        any_of=tuple(parse(part) for part in schema.get("anyOf") or ()),
        one_of=tuple(parse(part) for part in schema.get("oneOf") or ()),
        negated=parse(negated) if isinstance(negated, dict) else None,
        preserve=schema.get("x-kubernetes-preserve-unknown-fields") is True,
        embedded=schema.get("x-kubernetes-embedded-resource") is True,
        int_or_string=schema.get("x-kubernetes-int-or-string") is True,
        list_type=schema.get("x-kubernetes-list-type") or "atomic",
        list_keys=tuple(schema.get("x-kubernetes-list-map-keys") or ()),
        map_type=schema.get("x-kubernetes-map-type") or "granular",
        rules=tuple(_rule(entry) for entry in schema.get("x-kubernetes-validations") or ()),
    )


def _compiled(pattern: str) -> Regex:
    try:
        return compile_regex(pattern)
    except RegexError:
        return compile_regex("")  # told by `structural.check`; a schema with it is never served


def _rule(entry: Doc) -> Rule:
    return Rule(
        rule=str(entry.get("rule") or ""),
        message=str(entry.get("message") or ""),
        message_expression=str(entry.get("messageExpression") or ""),
        reason=str(entry.get("reason") or ""),
        field_path=str(entry.get("fieldPath") or ""),
        optional_old_self=entry.get("optionalOldSelf") is True,
    )


def item_key(node: Node, item: Any) -> tuple[Any, ...] | None:
    """Return what identifies an element of a list of type `map`: its keys, or their defaults."""
    if not isinstance(item, dict) or node.items is None:
        return None
    key = []
    for name in node.list_keys:
        value = item.get(name, ABSENT)
        if value is ABSENT:
            prop = node.items.properties.get(name)
            value = None if prop is None or prop.default is ABSENT else prop.default
        # The type keeps 1 apart from true.
        key.append(
            (type(value).__name__, value) if isinstance(value, (str, int, float, bool)) else repr(value)
        )
    return tuple(key)


def correlated(node: Node, old: Any) -> dict[tuple[Any, ...], Any]:
    """Return the elements of an old list by key; empty where elements cannot be told apart."""
    if node.list_type != "map" or not isinstance(old, list):
        return {}
    return {key: item for item in old if (key := item_key(node, item)) is not None}
