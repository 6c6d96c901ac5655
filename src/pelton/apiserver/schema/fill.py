"""What a schema does to an object before it is validated: unknown fields go, nulls go, defaults come.

Called by the package's front on requests, on reads from the store and after mutating webhooks. Objects are
changed in place; the caller passes its own copy. Pure. Source: contracts operator-webhook.md 5.1.
"""

from __future__ import annotations

import copy
from typing import Any

from pelton.apiserver.schema.node import ABSENT, Node

__all__ = ["default", "drop_nulls", "prune"]

_IDENTITY = ("apiVersion", "kind", "metadata")


def prune(value: Any, node: Node, *, root: bool = True, path: str = "") -> list[str]:
    """Remove fields that the schema does not know.

    Args:
        value: Changed in place.
        node: Its schema.
        root: Whether it is a whole object, whose apiVersion, kind and metadata always stay.
        path: Where it is.

    Returns:
        Paths of what was removed, e.g. `spec.items[0].colour`.
    """
    removed: list[str] = []
    _prune(value, node, root, path, removed)
    return removed


def _prune(value: Any, node: Node, root: bool, path: str, removed: list[str]) -> None:
    if isinstance(value, list):
        if node.items is not None:
            for at, item in enumerate(value):
                _prune(item, node.items, False, f"{path}[{at}]", removed)
        elif not node.preserve:
            for at, item in enumerate(value):
                _prune(item, Node(), False, f"{path}[{at}]", removed)
        return
    if not isinstance(value, dict):
        return
    whole = root or node.embedded
    for key in list(value):
        if whole and key in _IDENTITY:
            continue
        known = node.properties.get(key)
        inside = f"{path}.{key}" if path else key
        if known is not None:
            _prune(value[key], known, False, inside, removed)
        elif isinstance(node.additional, Node):
            _prune(value[key], node.additional, False, inside, removed)
        elif node.additional is not True and not node.preserve:
            del value[key]
            removed.append(inside)


def drop_nulls(value: Any, node: Node) -> None:
    """Remove nulls of fields that are not nullable; those that have a default get it from `default`."""
    if isinstance(value, list):
        if node.items is not None:
            for item in value:
                drop_nulls(item, node.items)
        return
    if not isinstance(value, dict):
        return
    for key in list(value):
        child = node.child(key)
        if child is None:
            continue
        if value[key] is None and not child.nullable and child.default is ABSENT and not child.preserve:
            del value[key]
        else:
            drop_nulls(value[key], child)


def default(value: Any, node: Node) -> None:
    """Fill in defaults, inside of what is there and of what was just filled in."""
    if isinstance(value, list):
        if node.items is not None:
            for item in value:
                default(item, node.items)
        return
    if not isinstance(value, dict):
        return
    for key, child in node.properties.items():
        had = value.get(key, ABSENT)
        if (had is ABSENT or (had is None and not child.nullable)) and child.default is not ABSENT:
            value[key] = copy.deepcopy(child.default)
        if key in value:
            default(value[key], child)
    if isinstance(node.additional, Node):
        extra = node.additional
        for key in value:
            if key in node.properties:
                continue
            if value[key] is None and not extra.nullable and extra.default is not ABSENT:
                value[key] = copy.deepcopy(extra.default)
            default(value[key], extra)
