"""A schema as the registry's `Checks`: defaults, pruning and validation of custom resources.

The controller of definitions makes one per served version. Everything is compiled once; a write walks the
nodes. Pure. Source: contracts operator-webhook.md 5.1, 5.2.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pelton.apiserver.registry import Cause, Checked
from pelton.apiserver.schema import fill
from pelton.apiserver.schema.node import ABSENT, Node, parse
from pelton.apiserver.schema.problems import invalid_value
from pelton.apiserver.schema.rules import Rules
from pelton.apiserver.schema.validate import validate

__all__ = ["SchemaChecks"]

Obj = dict[str, Any]

_IDENTITY = ("apiVersion", "kind", "metadata")
_BLOCKING = ("FieldValueRequired", "FieldValueTypeInvalid", "FieldValueTooLong", "FieldValueTooMany")
_UNCHECKED = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


class SchemaChecks:
    """Checks by a structural schema.

    Args:
        schema: openAPIV3Schema, found structural; None for a kind that accepts anything.
        status: Whether status is a subresource, so that each path judges its own part only.
        preserve: Whether unknown fields stay (an old definition's preserveUnknownFields).
    """

    def __init__(self, schema: Mapping[str, Any] | None, *, status: bool, preserve: bool = False) -> None:
        self.node: Node = parse(schema) if schema else Node(type="object", preserve=True)
        # The identity of an object is checked by the generic rules; a schema may only restrict its name.
        self._names = self.node.properties.get("metadata")
        self._body = _without_identity(self.node)
        self._rules = Rules(self.node)
        self._status = status
        self._preserve = preserve or not schema

    def default(self, obj: Obj, /) -> Obj:
        """Return a copy with nulls dropped and defaults filled in."""
        result = copy.deepcopy(obj)
        fill.drop_nulls(result, self._body)
        fill.default(result, self._body)
        return result

    def check(self, obj: Obj, old: Obj | None, /, *, subresource: str) -> Checked:
        """Prune and validate; see `pelton.apiserver.registry.Checks`."""
        result, unknown = self.prune(obj)
        causes = self._causes(result, ABSENT if old is None else old, subresource)
        return Checked(obj=result, causes=causes, unknown=unknown)

    def prune(self, obj: Obj, /) -> tuple[Obj, Sequence[str]]:
        """Return a copy without unknown fields, and their paths."""
        result = copy.deepcopy(obj)
        return result, [] if self._preserve else fill.prune(result, self.node)

    def read(self, obj: Obj, /) -> Obj:
        """Return a stored object with what the schema says today: pruned, with defaults."""
        if not self._preserve:
            fill.prune(obj, self.node)
        fill.drop_nulls(obj, self._body)
        fill.default(obj, self._body)
        return obj

    def _causes(self, obj: Obj, old: Any, subresource: str) -> list[Cause]:
        node = self._body
        causes = validate(_content(obj), node, old=_content(old))
        if self._names is not None:
            before = old.get("metadata", ABSENT) if isinstance(old, dict) else ABSENT
            causes += validate(obj.get("metadata"), _names_only(self._names), old=before, path="metadata")
        if self._status:
            # A write of one part is not refused for the other: status controllers and users do not wait for
            # each other.
            inside = [c for c in causes if c.field == "status" or c.field.startswith(("status.", "status["))]
            causes = inside if subresource == "status" else [c for c in causes if c not in inside]
        if not self._rules:
            return causes
        if any(cause.reason in _BLOCKING for cause in causes):
            return [*causes, invalid_value("", None, _UNCHECKED)]
        return causes + self._rules.evaluate(obj, old)


def _content(obj: Any) -> Any:
    return (
        {key: value for key, value in obj.items() if key not in _IDENTITY} if isinstance(obj, dict) else obj
    )


def _without_identity(node: Node) -> Node:
    body = copy.copy(node)
    body.properties = {key: value for key, value in node.properties.items() if key not in _IDENTITY}
    body.required = tuple(key for key in node.required if key not in _IDENTITY)
    return body


def _names_only(node: Node) -> Node:
    names = copy.copy(node)
    names.preserve = True
    return names
