"""Sets of fields of an object, as managedFields records them, and what server-side apply does with them.

A path is a tuple of the elements that FieldsV1 writes: `f:<name>`, `k:{"<key>":<value>}` for an item of a
keyed list, `v:<value>` for an item of a set. What is one value (scalars, atomic lists and maps) and what has
parts follows from the schema; without one, mappings have parts and lists are one value. Pure; called by
`managed.py`.

Source: contracts operator-webhook.md 5.1 (list and map types) and 6.2; behaviour of Kubernetes' structured
merge.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Changes", "compare", "fields_of", "from_v1", "merge", "named", "shown", "to_v1", "without"]

Path = tuple[str, ...]
Schema = Mapping[str, Any]

_ANY: Schema = {}
_METADATA: Schema = {
    "type": "object",
    "properties": {
        "annotations": {"additionalProperties": {"type": "string"}},
        "labels": {"additionalProperties": {"type": "string"}},
        "finalizers": {"x-kubernetes-list-type": "set"},
        "ownerReferences": {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
            "items": {"x-kubernetes-map-type": "atomic"},
        },
        **{
            name: {"type": "string"}
            for name in ("creationTimestamp", "deletionTimestamp", "generateName", "name", "namespace")
        },
        **{name: {"type": "string"} for name in ("resourceVersion", "selfLink", "uid")},
        **{name: {"type": "integer"} for name in ("deletionGracePeriodSeconds", "generation")},
        "managedFields": {"x-kubernetes-list-type": "atomic"},
    },
}


@dataclass(slots=True)
class Changes:
    """What differs between two objects, as sets of paths."""

    added: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)


# -- the schema ----------------------------------------------------------------------------------------------


def _child(schema: Schema, name: str, depth: int) -> Schema:
    """Return the schema of a field or of a map's value; metadata is the same in every kind."""
    if depth == 0 and name == "metadata":
        return _METADATA
    found = schema.get("properties", {}).get(name)
    if found is None:
        extra = schema.get("additionalProperties")
        found = extra if isinstance(extra, dict) else _ANY
    return found  # type: ignore[no-any-return] # a schema holds schemas


def _is_named(schema: Schema, element: str, depth: int) -> bool:
    """Tell whether an element is a field that the schema names, and not a key of a map or an item."""
    if not element.startswith("f:"):
        return False
    return element[2:] in schema.get("properties", {}) or (depth == 0 and element == "f:metadata")


def _below(schema: Schema, element: str, depth: int) -> Schema:
    if element.startswith("f:"):
        return _child(schema, element[2:], depth)
    items = schema.get("items")
    return items if isinstance(items, dict) else _ANY


def _has_parts(schema: Schema, value: Any) -> bool:
    return isinstance(value, dict) and schema.get("x-kubernetes-map-type") != "atomic"


def _elements(schema: Schema, value: Any) -> list[tuple[str, Any]] | None:
    """Return (element, item) of a list whose items have identities; None when the list is one value."""
    if not isinstance(value, list):
        return None
    kind = schema.get("x-kubernetes-list-type")
    if kind == "set":
        return [(f"v:{_json(item)}", item) for item in value]
    keys = schema.get("x-kubernetes-list-map-keys")
    if kind != "map" or not keys or not all(isinstance(item, dict) for item in value):
        return None
    fields = schema.get("items", {}).get("properties", {})
    found = []
    for item in value:
        key = {name: item.get(name, fields.get(name, {}).get("default")) for name in sorted(keys)}
        found.append((f"k:{_json({n: v for n, v in key.items() if v is not None})}", item))
    return found


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# -- sets ----------------------------------------------------------------------------------------------------


def fields_of(schema: Schema, value: Any) -> set[Path]:
    """Return the paths of all values of an object, and of the items and map entries that hold them."""
    found: set[Path] = set()
    _collect(schema, value, (), found)
    return found


def _collect(schema: Schema, value: Any, path: Path, found: set[Path]) -> None:
    if _has_parts(schema, value):
        for name, entry in value.items():
            at = (*path, f"f:{name}")
            _collect(_child(schema, name, len(path)), entry, at, found)
            if entry is None or entry == {} or not _is_named(schema, at[-1], len(path)):
                found.add(at)
        return
    items = _elements(schema, value)
    if items is None:
        if path:
            found.add(path)
        return
    for element, item in items:
        at = (*path, element)
        _collect(schema.get("items", _ANY), item, at, found)
        found.add(at)


def named(schema: Schema, paths: Iterable[Path]) -> set[Path]:
    """Return the paths and the fields above them that the schema names."""
    result: set[Path] = set()
    for path in paths:
        result.add(path)
        at = schema
        for depth, element in enumerate(path[:-1]):
            if _is_named(at, element, depth):
                result.add(path[: depth + 1])
            at = _below(at, element, depth)
    return result


def to_v1(paths: Iterable[Path]) -> dict[str, Any]:
    """Return the FieldsV1 of a set."""
    root: dict[str, Any] = {}
    members = set(paths)
    for path in sorted(members):
        at = root
        for element in path:
            at = at.setdefault(element, {})
    for path in members:
        at = root
        for element in path:
            at = at[element]
        if at and "." not in at:
            inner = dict(at)
            at.clear()
            at["."] = {}
            at.update(inner)
    return root


def from_v1(tree: Any) -> set[Path]:
    """Return the set of a FieldsV1; what is none of its elements is left out."""
    found: set[Path] = set()

    def walk(at: Any, path: Path) -> None:
        if not isinstance(at, dict):
            return
        if path and (not at or "." in at):
            found.add(path)
        for element, inner in at.items():
            if element[:2] in ("f:", "k:", "v:", "i:"):
                walk(inner, (*path, element))

    walk(tree, ())
    return found


def shown(path: Path) -> str:
    """Return a path as messages have it, e.g. `.spec.ports[port=80,protocol="TCP"].name`."""
    parts = []
    for element in path:
        kind, text = element[:1], element[2:]
        if kind == "f":
            parts.append(f".{text}")
        elif kind == "k":
            keys = json.loads(text)
            parts.append("[" + ",".join(f"{key}={_json(value)}" for key, value in keys.items()) + "]")
        else:
            parts.append(f"[={text}]" if kind == "v" else f"[{text}]")
    return "".join(parts)


# -- two objects ---------------------------------------------------------------------------------------------


def compare(schema: Schema, old: Any, new: Any) -> Changes:
    """Return what differs; a mapping or an item that appears or goes counts together with its contents."""
    changes = Changes()
    _compare(schema, old, new, (), changes)
    return changes


def _compare(schema: Schema, old: Any, new: Any, path: Path, changes: Changes) -> None:
    if old == new and type(old) is type(new) and not isinstance(old, (dict, list)):
        return
    if (_has_parts(schema, old) or old is None) and (_has_parts(schema, new) or new is None) and (old or new):
        before, after = old or {}, new or {}
        for name in before.keys() | after.keys():
            _part(_child(schema, name, len(path)), before, after, name, (*path, f"f:{name}"), changes)
        return
    before_items = _elements(schema, old) if old is not None else []
    after_items = _elements(schema, new) if new is not None else []
    if before_items is not None and after_items is not None and (before_items or after_items):
        items = schema.get("items", _ANY)
        one, other = dict(before_items), dict(after_items)
        for element in one.keys() | other.keys():
            _part(items, one, other, element, (*path, element), changes)
        return
    if old is None:
        changes.added.add(path)
    elif new is None:
        changes.removed.add(path)
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        changes.modified.add(path)


def _part(
    schema: Schema, old: Mapping[str, Any], new: Mapping[str, Any], key: str, path: Path, changes: Changes
) -> None:
    if key not in old:
        changes.added.add(path)
    elif key not in new:
        changes.removed.add(path)
    _compare(schema, old.get(key), new.get(key), path, changes)


def merge(schema: Schema, live: Any, config: Any, depth: int = 0) -> Any:
    """Return `live` with what `config` says: parts are merged, values replaced; neither is changed."""
    if _has_parts(schema, live) and _has_parts(schema, config):
        result = dict(live)
        for name, entry in config.items():
            inner = _child(schema, name, depth)
            result[name] = merge(inner, live[name], entry, depth + 1) if name in live else entry
        return result
    before, wanted = _elements(schema, live), _elements(schema, config)
    if before is None or wanted is None:
        return config
    return _merged_items(schema.get("items", _ANY), before, wanted, depth)


def _merged_items(
    schema: Schema, before: Sequence[tuple[str, Any]], wanted: Sequence[tuple[str, Any]], depth: int
) -> list[Any]:
    """Return the items of both in one order that keeps that of `wanted`, and else that of `before`."""
    live, order = dict(before), [element for element, _ in wanted]
    given = dict(wanted)
    result = []
    pending = list(dict.fromkeys(order))
    for element, item in before:
        if element not in given:
            result.append(item)
            continue
        # Everything that is wanted up to this item comes first.
        while element in pending:
            first = pending.pop(0)
            both = first in live
            result.append(merge(schema, live[first], given[first], depth + 1) if both else given[first])
    result += [given[element] for element in pending]
    return result


def without(schema: Schema, value: Any, paths: set[Path], depth: int = 0) -> Any:
    """Return `value` without the values at `paths`, and without what this left empty."""
    if not paths:
        return value
    below: dict[str, set[Path]] = {}
    gone = set()
    for path in paths:
        if len(path) == 1:
            gone.add(path[0])
        elif path:
            below.setdefault(path[0], set()).add(path[1:])
    if _has_parts(schema, value):
        result = {}
        for name, entry in value.items():
            element = f"f:{name}"
            if element in gone:
                continue
            inner = below.get(element)
            left = without(_child(schema, name, depth), entry, inner, depth + 1) if inner else entry
            if inner and left in ({}, []) and entry not in ({}, []):
                continue
            result[name] = left
        return result
    items = _elements(schema, value)
    if items is None:
        return value
    rows = schema.get("items", _ANY)
    return [
        without(rows, item, below[element], depth + 1) if element in below else item
        for element, item in items
        if element not in gone
    ]
