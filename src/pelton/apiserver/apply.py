"""Server-side apply: what an applier owns, leaves out and contests. Pure; called by `rest.py`.

Mappings merge key by key, everything else (lists too) is one value: that is what Kubernetes does for custom
resources whose schema names no list keys. Ownership is recorded for appliers only; a PUT or a merge patch
changes values without becoming an owner, so it never makes a later apply conflict. Source: contracts
operator-webhook.md 6.2.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pelton.apiserver.patch import merge_patch
from pelton.clock import rfc3339
from pelton.errors import ConflictError

__all__ = ["FieldConflictError", "server_side_apply"]

Obj = dict[str, Any]
Path = tuple[str, ...]

_IDENTITY = {
    ("apiVersion",),
    ("kind",),
    *(("metadata", key) for key in ("name", "namespace", "resourceVersion", "uid", "generation")),
    ("metadata", "creationTimestamp"),
    ("metadata", "managedFields"),
}
_ABSENT = object()


class FieldConflictError(ConflictError):
    """Another applier owns fields that this one sets to something else.

    Args:
        message: Summary.
        causes: (manager, field path) pairs.
        where: The object.
        hint: What to do next.
    """

    code = "PEL-API-006"

    def __init__(
        self, message: str, *, causes: tuple[tuple[str, str], ...], where: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.causes = causes


def server_side_apply(
    old: Obj, config: Obj, *, manager: str, force: bool, subresource: str, now: datetime, where: str
) -> Obj:
    """Return `old` with the applied configuration in it and metadata.managedFields brought up to date.

    Args:
        old: Stored object, or one with only apiVersion, kind and metadata.name for a new object.
        config: What the applier submits: only the fields that it wants to own.
        manager: Name of the applier.
        force: Take contested fields over instead of refusing.
        subresource: "status" when applied to the status, else "".
        now: Recorded in managedFields.
        where: For messages.

    Raises:
        FieldConflictError: A field is owned by another applier, has another value there, and force is off.
    """
    entries = [dict(entry) for entry in old.get("metadata", {}).get("managedFields") or []]
    mine = next((e for e in entries if _is(e, manager, subresource)), None)
    others = [e for e in entries if e is not mine and e.get("operation") == "Apply"]
    wanted = _leaves(config) - _IDENTITY
    contested = [
        (entry, path)
        for entry in others
        for path in sorted(_paths(entry) & wanted)
        if _value(old, path) != _value(config, path)
    ]
    if contested and not force:
        raise FieldConflictError(
            f"Apply failed with {len(contested)} conflict(s): "
            + ", ".join(f"{_dotted(path)} is owned by {e['manager']!r}" for e, path in contested),
            causes=tuple((str(entry["manager"]), _dotted(path)) for entry, path in contested),
            where=where,
            hint="Leave these fields out, or take them over with force (kubectl: --force-conflicts).",
        )
    for entry, path in contested:
        entry["fieldsV1"] = _tree(_paths(entry) - {path})
    kept = set().union(*(_paths(entry) for entry in others)) if others else set()
    base = old
    for path in sorted((_paths(mine) if mine else set()) - wanted - kept):
        if not any(longer[: len(path)] == path for longer in wanted):
            base = _without(base, path)
    applied = {key: value for key, value in config.items() if key != "metadata"}
    metadata = {k: v for k, v in config.get("metadata", {}).items() if ("metadata", k) not in _IDENTITY}
    result: Obj = merge_patch(base, {**applied, "metadata": metadata})
    record = {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": config.get("apiVersion", ""),
        "time": rfc3339(now),
        "fieldsType": "FieldsV1",
        "fieldsV1": _tree(wanted),
        **({"subresource": subresource} if subresource else {}),
    }
    if mine is not None and mine.get("fieldsV1") == record["fieldsV1"]:
        record["time"] = mine.get("time", record["time"])  # so that repeating an apply changes nothing
    result["metadata"]["managedFields"] = [
        *(e for e in entries if e is not mine and e.get("fieldsV1") != {}),
        record,
    ]
    return result


def _is(entry: Obj, manager: str, subresource: str) -> bool:
    return (entry.get("manager"), entry.get("operation"), entry.get("subresource", "")) == (
        manager,
        "Apply",
        subresource,
    )


def _leaves(value: Any, prefix: Path = ()) -> set[Path]:
    if isinstance(value, dict) and value:
        return set().union(*(_leaves(entry, (*prefix, key)) for key, entry in value.items()))
    return {prefix} if prefix else set()


def _paths(entry: Obj) -> set[Path]:
    def walk(tree: Any, prefix: Path) -> set[Path]:
        if not isinstance(tree, dict) or not tree:
            return {prefix} if prefix else set()
        return set().union(*(walk(v, (*prefix, k.removeprefix("f:"))) for k, v in tree.items()))

    return walk(entry.get("fieldsV1"), ())


def _tree(paths: set[Path]) -> Obj:
    root: Obj = {}
    for path in sorted(paths):
        at = root
        for key in path:
            at = at.setdefault(f"f:{key}", {})
    return root


def _value(obj: Any, path: Path) -> Any:
    for key in path:
        if not isinstance(obj, dict) or key not in obj:
            return _ABSENT
        obj = obj[key]
    return obj


def _without(obj: Any, path: Path) -> Any:
    """Return a copy without the value at `path`, and without mappings that this left empty."""
    if not isinstance(obj, dict) or path[0] not in obj:
        return obj
    result = dict(obj)
    if len(path) > 1:
        result[path[0]] = _without(result[path[0]], path[1:])
        if result[path[0]] == {}:
            del result[path[0]]
    else:
        del result[path[0]]
    return result


def _dotted(path: Path) -> str:
    return "." + ".".join(path)
