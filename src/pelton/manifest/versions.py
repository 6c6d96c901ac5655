"""Older versions of a kind: conversion to the storage version and back that loses nothing.

What one version cannot say travels in an annotation of the other, as differences that are taken up again on
the way back, each only where the value is still what the conversion gave: an edit made in between wins.
Called by `manifest/verbs`; the conversions themselves are in the module of their kind. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pelton.manifest.fields import (
    Field,
    Path,
    Problem,
    Reading,
    Record,
    copy_json,
    describe,
    raise_invalid,
    read_metadata,
)

__all__ = ["ANNOTATION", "Older", "differences", "restored", "twin"]

Obj = dict[str, Any]
Entry = dict[str, Any]

ANNOTATION = "pelton.dev/fields-of-"
"""With the name of the other version behind it: what that version said and this one cannot."""

_ABSENT: Any = object()


def _none(obj: Obj) -> list[Problem]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Older:
    """A served version that is not stored.

    Attributes:
        version: E.g. `v1beta1`.
        spec: Table of its spec, read into dictionaries: type checks and the schema.
        up: Object of this version -> object of the storage version. Both directions get a copy that they may
            change, set apiVersion, can rely on types, and may drop what the other version cannot say.
        down: The way back.
        problems: What else is wrong with an object of this version, whose types are right.
        losses: Where an object of this version says what will not take effect, or not as it reads, in the
            fields of this version.
        beside: Fields beside the spec, the same in both versions.
    """

    version: str
    spec: Record
    up: Callable[[Obj], Obj]
    down: Callable[[Obj], Obj]
    problems: Callable[[Obj], list[Problem]] = _none
    losses: Callable[[Obj], list[Problem]] = _none
    beside: tuple[Field, ...] = ()

    def read(self, obj: Obj) -> Reading:
        """Check the types of an object of this version; unknown fields are warnings."""
        reading = Reading()
        read_metadata(obj, reading, beside=tuple(row.json for row in self.beside))
        for row in self.beside:
            if obj.get(row.json) is not None:
                row.shape.decode(obj[row.json], (row.json,), reading)
        spec = obj.get("spec")
        if type(spec) is dict:
            self.spec.values(spec, ("spec",), reading)
        else:
            reading.problem(
                ("spec",), "required" if spec is None else f"must be an object, found {describe(spec)}"
            )
        if not reading.problems:
            reading.problems += self.problems(obj)
        return reading

    def to_storage(self, obj: Obj, storage: str) -> Obj:
        """Return an object of this version in the storage version.

        Raises:
            InvalidError: With every wrong type; rules about values are checked in the storage version.
        """
        metadata = obj.get("metadata")
        name = str(metadata.get("name") or "") if type(metadata) is dict else ""
        raise_invalid(str(obj.get("kind")), name, self.read(obj).problems)
        return _converted(obj, self.up, self.down, source=self.version, result=storage)

    def from_storage(self, obj: Obj, storage: str) -> Obj:
        """Return an object of the storage version in this version; `obj` has been admitted."""
        return _converted(obj, self.down, self.up, source=storage, result=self.version)


def twin(group: str, version: str, storage: str, spec: Record) -> Older:
    """Return an older version whose fields are those of the storage version.

    Args:
        group: API group of the kind.
        version: The older version, e.g. `v1beta1`.
        storage: The storage version, e.g. `v1`.
        spec: Table of the spec.
    """
    return Older(
        version=version,
        spec=spec,
        up=lambda obj: {**obj, "apiVersion": f"{group}/{storage}"},
        down=lambda obj: {**obj, "apiVersion": f"{group}/{version}"},
    )


def _converted(
    obj: Obj, there: Callable[[Obj], Obj], back: Callable[[Obj], Obj], *, source: str, result: str
) -> Obj:
    given: Obj = copy_json(obj)
    kept = _take(given, ANNOTATION + result)
    _take(given, ANNOTATION + source)
    converted = restored(there(copy_json(given)), kept)
    returned = back(copy_json(converted))
    returned["apiVersion"] = given["apiVersion"]
    lost = list(differences(returned, given))
    if lost:
        text = json.dumps(lost, separators=(",", ":"), ensure_ascii=False)
        converted["metadata"].setdefault("annotations", {})[ANNOTATION + source] = text
    return converted


def _take(obj: Obj, key: str) -> list[Entry]:
    """Take an annotation with differences off an object; what is no such text counts as none."""
    metadata = obj["metadata"]
    annotations = metadata.get("annotations")
    if not annotations:
        metadata.pop("annotations", None)
        return []
    text = annotations.pop(key, None)
    if not annotations:
        del metadata["annotations"]
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def differences(old: Any, new: Any, path: Path = ()) -> Iterator[Entry]:
    """Yield what turns `old` into `new`: {path, was, is}, with `was` or `is` left out where there is nothing.

    Objects are compared key by key, lists of the same length entry by entry; everything else is one value.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, (*path, index))
    elif not _same(old, new):
        entry: Entry = {"path": list(path)}
        if old is not _ABSENT:
            entry["was"] = old
        if new is not _ABSENT:
            entry["is"] = new
        yield entry


def restored(obj: Obj, entries: list[Entry]) -> Obj:
    """Carry out those differences whose `was` still holds; changes and returns `obj`."""
    for entry in entries:
        path, was, now = entry.get("path"), entry.get("was", _ABSENT), entry.get("is", _ABSENT)
        if not isinstance(path, list) or not path:
            continue
        target: Any = obj
        for part in path[:-1]:
            target = _inside(target, part)
        if not _same(_inside(target, path[-1]), was):
            continue
        if isinstance(target, dict) and isinstance(path[-1], str):
            if now is not _ABSENT:
                target[path[-1]] = now
            elif was is not _ABSENT:
                del target[path[-1]]
        elif isinstance(target, list) and was is not _ABSENT and now is not _ABSENT:
            target[path[-1]] = now
    return obj


def _inside(value: Any, part: Any) -> Any:
    if isinstance(value, dict):
        return value.get(part, _ABSENT) if isinstance(part, str) else _ABSENT
    if isinstance(value, list) and type(part) is int and 0 <= part < len(value):
        return value[part]
    return _ABSENT


def _same(left: Any, right: Any) -> bool:
    """Compare JSON values; `1` and `true` are two values, which Python's == does not see."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(item, right[key]) for key, item in left.items())
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left is right or bool(left == right)
