"""metadata.managedFields: who owns which field, after an update and after a server-side apply.

Pure; called by `pipeline.py` and `verbs.py`; the sets of fields are in `fields.py`. Paths of entries that
were written in another version of the kind are taken as they are.

Source: contracts operator-webhook.md 6.2; behaviour of Kubernetes' field manager.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pelton.apiserver import fields
from pelton.apiserver.fields import Path
from pelton.apiserver.registry import Row
from pelton.apiserver.rules import same
from pelton.clock import rfc3339
from pelton.errors import ConflictError

__all__ = ["FieldConflictError", "applied", "updated"]

Obj = dict[str, Any]

_MOST_UPDATERS = 10  # older ones become one entry
_ANCIENT = "ancient-changes"
_BEFORE = "before-first-apply"
_KUBECTL = "kubectl"
_LAST = "kubectl.kubernetes.io/last-applied-configuration"
_IGNORED: frozenset[Path] = frozenset(
    {
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(
            ("f:metadata", f"f:{name}")
            for name in (
                "creationTimestamp",
                "generation",
                "managedFields",
                "name",
                "namespace",
                "resourceVersion",
                "selfLink",
                "uid",
            )
        ),
    }
)


class FieldConflictError(ConflictError):
    """Others own fields that an apply sets to something else.

    Args:
        causes: (who, field path) of each.
        where: The object.
    """

    code = "PEL-API-006"

    def __init__(self, causes: Sequence[tuple[str, str]], *, where: str = "") -> None:
        by_owner: dict[str, list[str]] = {}
        for owner, path in causes:
            by_owner.setdefault(owner, []).append(path)
        if len(causes) == 1:
            told = f"Apply failed with 1 conflict: conflict with {causes[0][0]}: {causes[0][1]}"
        else:
            lines = [f"conflicts with {owner}:\n- " + "\n- ".join(by_owner[owner]) for owner in by_owner]
            told = f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines)
        super().__init__(told, where=where)
        self.causes = tuple(causes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manager:
    name: str
    operation: str
    api_version: str
    subresource: str
    time: str
    paths: frozenset[Path]

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """An applier is the same in every version, an updater is not."""
        return (
            self.name,
            self.operation,
            self.subresource,
            "" if self.operation == "Apply" else self.api_version,
        )

    @property
    def called(self) -> str:
        text = f'"{self.name}"' + (f' with subresource "{self.subresource}"' if self.subresource else "")
        return text if self.operation == "Apply" else f"{text} using {self.api_version} at {self.time}"

    def entry(self) -> Obj:
        return {
            "manager": self.name,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields.to_v1(self.paths),
            **({"subresource": self.subresource} if self.subresource else {}),
        }


def updated(row: Row, old: Obj | None, new: Obj, *, manager: str, subresource: str, now: datetime) -> Obj:
    """Return `new` with managedFields after a create, a PUT or a patch.

    Args:
        row: Version of the kind.
        old: What is stored, None for a new object.
        new: What is to be stored; its managedFields, if any, are those to go on from.
        manager: Who writes.
        subresource: Which part was written, "" for the main one.
        now: Recorded.
    """
    given = new["metadata"].get("managedFields")
    if given is not None and not any(given):  # [] or [{}]: a client asks to begin anew
        return _with(new, [])
    managers = _read(given)
    if old is not None and not managers:
        return new  # nobody was noted before; only an apply begins with that
    schema = row.schema or {}
    changes = fields.compare(schema, _bare(old or {}), _bare(new))
    touched = _kept(changes.added | changes.modified, row, subresource)
    me = _Manager(
        name=manager,
        operation="Update",
        api_version=row.api_version,
        subresource=subresource,
        time=rfc3339(now),
        paths=frozenset(),
    )
    result = []
    mine: frozenset[Path] = frozenset()
    for each in managers:
        if each.identity == me.identity:
            mine = each.paths
            me = replace(me, time=each.time)
        else:
            result.append(replace(each, paths=each.paths - touched - changes.removed))
    paths = (mine - changes.removed) | touched
    if paths != mine:
        me = replace(me, time=rfc3339(now))
    return _with(new, [*result, replace(me, paths=frozenset(paths))])


def applied(
    row: Row,
    live: Obj | None,
    config: Obj,
    *,
    manager: str,
    force: bool,
    subresource: str,
    now: datetime,
    where: str,
) -> Obj:
    """Return the object after a server-side apply, managedFields included.

    Args:
        row: Version of the kind.
        live: What is stored, in that version; None for a new object.
        config: What the applier submits: only the fields that it wants to own.
        manager: Name of the applier.
        force: Take contested fields over instead of refusing.
        subresource: "status" when applied to the status, else "".
        now: Recorded.
        where: For messages.

    Returns:
        `live` itself when nothing changes.

    Raises:
        FieldConflictError: A field that would change is owned by another, and force is off.
    """
    schema = row.schema or {}
    wanted = _restricted(_no_nulls(_bare(config)), row, subresource)
    base = _bare(live or {})
    managers = _read((live or {}).get("metadata", {}).get("managedFields"))
    if live is not None and not managers:
        managers = [
            _Manager(
                name=_BEFORE,
                operation="Update",
                api_version=row.api_version,
                subresource="",
                time=rfc3339(now),
                paths=_kept(fields.fields_of(schema, base), row, ""),
            )
        ]
    me = _Manager(
        name=manager,
        operation="Apply",
        api_version=row.api_version,
        subresource=subresource,
        time=rfc3339(now),
        paths=_kept(fields.fields_of(schema, wanted), row, subresource),
    )
    last = next((each for each in managers if each.identity == me.identity), None)
    others = [each for each in managers if each.identity != me.identity]
    merged = fields.merge(schema, base, wanted)
    if last is not None:
        owned = fields.named(schema, me.paths.union(*(each.paths for each in others)))
        merged = fields.without(schema, merged, fields.named(schema, last.paths) - owned - _IGNORED)
        if last.paths == me.paths and last.api_version == me.api_version:
            me = replace(me, time=last.time)
    changes = fields.compare(schema, base, merged)
    touched = changes.added | changes.modified
    contested = [(each, path) for each in others for path in sorted(each.paths & touched)]
    if contested and manager == _KUBECTL and _was_applied(schema, base, {path for _, path in contested}):
        contested = []  # its own fields, from before it applied on the server
    if contested and not force:
        raise FieldConflictError([(each.called, fields.shown(path)) for each, path in contested], where=where)
    left = [replace(each, paths=each.paths - touched - changes.removed) for each in others]
    result = {**merged, "apiVersion": row.api_version, "kind": row.kind}
    if live is not None:
        result["metadata"] = {**live["metadata"], **result.get("metadata", {})}
        for name in live["metadata"].keys() - merged.get("metadata", {}).keys() - {"managedFields"}:
            del result["metadata"][name]
    if manager == _KUBECTL and _LAST in (result["metadata"].get("annotations") or {}):
        noted = {
            **config,
            "metadata": {k: v for k, v in config["metadata"].items() if k != "resourceVersion"},
        }
        text = json.dumps(noted, separators=(",", ":"), ensure_ascii=False) + "\n"
        annotations = {**result["metadata"]["annotations"], _LAST: text}
        result = {**result, "metadata": {**result["metadata"], "annotations": annotations}}
    result = _with(result, [*left, me])
    return live if live is not None and same(result, live) else result


def _was_applied(schema: Any, live: Obj, contested: set[Path]) -> bool:
    """Tell whether kubectl wrote all these fields by its client-side apply, and nobody changed them since."""
    try:
        last = json.loads(live["metadata"]["annotations"][_LAST])
        said = fields.fields_of(schema, _bare(last))
        changed = fields.compare(schema, _bare(last), live)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return contested <= said - changed.modified - changed.removed


def _read(entries: Any) -> list[_Manager]:
    """Return what managedFields records; entries that are none are dropped."""
    return [
        _Manager(
            name=str(entry.get("manager", "")),
            operation=str(entry.get("operation", "")),
            api_version=str(entry.get("apiVersion", "")),
            subresource=str(entry.get("subresource", "")),
            time=str(entry.get("time", "")),
            paths=frozenset(fields.from_v1(entry.get("fieldsV1"))),
        )
        for entry in entries or ()
        if isinstance(entry, dict) and entry.get("operation") in ("Apply", "Update")
    ]


def _with(obj: Obj, managers: Iterable[_Manager]) -> Obj:
    """Return the object with these managers, in Kubernetes' order, without those that own nothing."""
    owning = [each for each in managers if each.paths]
    owning.sort(key=lambda each: (each.operation, each.time, each.name))
    updaters = [each for each in owning if each.operation == "Update"]
    if len(updaters) > _MOST_UPDATERS:
        old = updaters[: len(updaters) - _MOST_UPDATERS + 1]
        ancient = replace(
            old[-1], name=_ANCIENT, subresource="", paths=frozenset().union(*(each.paths for each in old))
        )
        owning = [each for each in owning if each not in old]
        owning.append(ancient)
        owning.sort(key=lambda each: (each.operation, each.time, each.name))
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    if owning:
        metadata["managedFields"] = [each.entry() for each in owning]
    return {**obj, "metadata": metadata}


def _bare(obj: Obj) -> Obj:
    """Return the object without managedFields."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def _kept(paths: Iterable[Path], row: Row, subresource: str) -> frozenset[Path]:
    """Return the paths that are recorded for a write of that part."""
    if subresource == "status":
        return frozenset(path for path in paths if path[0] == "f:status")
    hidden = "f:status" if row.status else ""
    return frozenset(path for path in paths if path not in _IGNORED and path[0] != hidden)


def _restricted(config: Obj, row: Row, subresource: str) -> Obj:
    """Return what of a configuration a write of that part can set."""
    identity = {"name": config.get("metadata", {}).get("name")}
    if subresource == "status":
        kept = {key: value for key, value in config.items() if key in ("apiVersion", "kind", "status")}
        return {**kept, "metadata": identity}
    return {key: value for key, value in config.items() if key != "status" or not row.status}


def _no_nulls(value: Any) -> Any:
    """Return the value without fields that are null: to an applier they are left out."""
    if isinstance(value, Mapping):
        return {key: _no_nulls(entry) for key, entry in value.items() if entry is not None}
    return [_no_nulls(entry) for entry in value] if isinstance(value, list) else value
