"""What a write does to an object: the generic Kubernetes rules, without storage.

Pure functions from (stored object, submitted object) to the object to store. `store.py` calls them inside
one turn of the event loop and assigns the resourceVersion. Rules that belong to a kind (defaults,
validation) live in `pelton.manifest`; the REST layer applies those before.

Source: contracts operator-webhook.md 6.1, 6.4 and 6.5.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec

from pelton.clock import rfc3339
from pelton.errors import ConflictError, InvalidError

__all__ = [
    "Obj",
    "FOREGROUND",
    "ORPHAN",
    "being_deleted",
    "check_metadata",
    "created",
    "deleted",
    "finalizers",
    "locate",
    "marked_for_deletion",
    "metadata_of",
    "replaced",
    "same",
    "with_status",
]

Obj = dict[str, Any]
"""A Kubernetes object as JSON dictionaries."""

FOREGROUND = "foregroundDeletion"
"""Finalizer of an object that waits for its dependents to go first."""

ORPHAN = "orphan"
"""Finalizer of an object whose dependents are to be released, not deleted."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_STANDARD_FINALIZERS = ("kubernetes", "foregroundDeletion", "orphan")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_ordered = msgspec.json.Encoder(order="deterministic")
_ANNOTATIONS_BYTES = 262_144
_KEPT = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")


def metadata_of(obj: Obj) -> Obj:
    """Return the metadata mapping, {} when it is absent; raises InvalidError when it is something else."""
    metadata = obj.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InvalidError("metadata is not a mapping", causes=(("metadata", "must be a mapping"),))
    return metadata


def same(one: Obj, other: Obj) -> bool:
    """Return whether both are the same JSON, whatever the order of keys; unlike `==` it tells 1 from true."""
    return one == other and _ordered.encode(one) == _ordered.encode(other)


def locate(obj: Obj) -> tuple[str, str]:
    """Return (namespace, name); "" for what is absent."""
    metadata = metadata_of(obj)
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def finalizers(obj: Obj) -> list[str]:
    """Return metadata.finalizers, [] when absent."""
    return list(metadata_of(obj).get("finalizers") or [])


def being_deleted(obj: Obj) -> bool:
    """Return whether deletionTimestamp is set."""
    return bool(metadata_of(obj).get("deletionTimestamp"))


def check_metadata(obj: Obj, *, where: str) -> None:
    """Check names, labels, annotations and finalizers; raises InvalidError listing every problem."""
    metadata = metadata_of(obj)
    causes: list[tuple[str, str]] = []
    name = metadata.get("name")
    if not isinstance(name, str) or len(name) > 253 or not _NAME.fullmatch(name):
        causes.append(
            (
                "metadata.name",
                f"{name!r} is not lowercase letters, digits, '-' and '.', at most 253 characters",
            )
        )
    namespace = metadata.get("namespace", "")
    if namespace and (
        not isinstance(namespace, str) or len(namespace) > 63 or not _NAME.fullmatch(namespace)
    ):
        causes.append(
            ("metadata.namespace", f"{namespace!r} is not lowercase letters, digits and '-', at most 63")
        )
    causes += _map_causes("labels", metadata.get("labels"))
    causes += _map_causes("annotations", metadata.get("annotations"))
    marks = metadata.get("finalizers")
    if marks is not None and not (isinstance(marks, list) and all(_is_finalizer(mark) for mark in marks)):
        causes.append(("metadata.finalizers", "must be a list of names such as example.com/cleanup"))
    causes += _owner_causes(metadata.get("ownerReferences"))
    if causes:
        raise InvalidError(f"{name or 'the object'} has invalid metadata", causes=tuple(causes), where=where)


def _is_finalizer(mark: object) -> bool:
    # KEDA's own, `finalizer.keda.sh`, is a domain without a path: custom resources may have such ones.
    return isinstance(mark, str) and (
        mark in _STANDARD_FINALIZERS or (("/" in mark or "." in mark) and _KEY.fullmatch(mark) is not None)
    )


def _owner_causes(owners: object) -> list[tuple[str, str]]:
    if owners is None:
        return []
    field = "metadata.ownerReferences"
    if not isinstance(owners, list) or not all(isinstance(owner, dict) for owner in owners):
        return [(field, "must be a list of mappings")]
    causes = [
        (f"{field}[{at}].{key}", "must not be empty")
        for at, owner in enumerate(owners)
        for key in ("apiVersion", "kind", "name", "uid")
        if not isinstance(owner.get(key), str) or not owner[key]
    ]
    if sum(owner.get("controller") is True for owner in owners) > 1:
        causes.append((field, "only one reference can have controller set to true"))
    return causes


def _map_causes(field: str, value: object) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, dict):
        return [(f"metadata.{field}", "must be a mapping of strings")]
    causes = []
    size = 0
    for key, entry in value.items():
        prefix, slash, _ = key.rpartition("/")
        # The keys of annotations may have capitals, as their owners write them.
        if not _KEY.fullmatch(key.lower() if field == "annotations" else key) or (
            slash and len(prefix) > 253
        ):
            causes.append(
                (f"metadata.{field}", f"{key!r} is not a name of at most 63 characters, prefix/name")
            )
        if not isinstance(entry, str):
            causes.append(
                (f"metadata.{field}.{key}", f"must be a string, not {type(entry).__name__}; quote it in YAML")
            )
            continue
        size += len(key.encode()) + len(entry.encode())
        if field == "labels" and (len(entry) > 63 or not _LABEL_VALUE.fullmatch(entry)):
            causes.append(
                (f"metadata.labels.{key}", f"{entry!r} is not a label value of at most 63 characters")
            )
    if field == "annotations" and size > _ANNOTATIONS_BYTES:
        causes.append(("metadata.annotations", f"{size} bytes exceed the limit of {_ANNOTATIONS_BYTES}"))
    return causes


def created(
    obj: Obj,
    *,
    uid: str,
    now: datetime,
    suffix: str,
    where: str,
    keep_status: bool = False,
    generation: bool = True,
) -> Obj:
    """Return the object to store for a create request.

    Server-set metadata of the submitted object is ignored, so that exported manifests can be applied again;
    so is its status.

    Args:
        obj: Submitted object; not changed.
        uid: uid to give it.
        now: Time of creation.
        suffix: Appended to metadata.generateName when there is no name.
        where: For messages.
        keep_status: Whether status is an ordinary field, as in kinds without a status subresource.
        generation: Whether the kind counts generations.
    """
    given = metadata_of(obj)
    metadata = {k: v for k, v in given.items() if k not in _KEPT and k not in ("resourceVersion", "selfLink")}
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = f"{metadata['generateName']}{suffix}"
    metadata["uid"] = uid
    metadata["creationTimestamp"] = rfc3339(now)
    if generation:
        metadata["generation"] = 1
    result = {**obj, "metadata": metadata}
    if not keep_status:
        result.pop("status", None)
    check_metadata(result, where=where)
    return result


def replaced(old: Obj, obj: Obj, *, where: str, keep_status: bool = False, generation: bool = True) -> Obj:
    """Return the object to store when `obj` replaces `old`; status and server-set metadata stay as they are.

    Args:
        old: The stored object.
        obj: The submitted one; neither is changed.
        where: For messages.
        keep_status: Whether status is an ordinary field, as in kinds without a status subresource.
        generation: Whether the kind counts generations.

    Raises:
        ConflictError: resourceVersion or uid are given and differ from the stored ones.
        InvalidError: Bad metadata, or a new finalizer on an object that is being deleted.
    """
    _check_version(old, obj, where)
    before = metadata_of(old)
    metadata = {k: v for k, v in metadata_of(obj).items() if k not in _KEPT and k != "selfLink"}
    metadata["resourceVersion"] = before["resourceVersion"]
    for key in _KEPT:
        if key in before:
            metadata[key] = before[key]
    if before.get("managedFields") and "managedFields" not in metadata:
        metadata["managedFields"] = before["managedFields"]
    result = {**obj, "metadata": metadata}
    if not keep_status:
        result.pop("status", None)
        if "status" in old:
            result["status"] = old["status"]
    check_metadata(result, where=where)
    if being_deleted(old):
        added = sorted(set(finalizers(result)) - set(finalizers(old)))
        if added:
            raise InvalidError(
                "finalizers cannot be added to an object that is being deleted",
                causes=(("metadata.finalizers", f"new: {', '.join(added)}"),),
                where=where,
            )
    if generation and not same(_content(result, keep_status), _content(old, keep_status)):
        metadata["generation"] = int(before.get("generation", 0)) + 1
    return result


def with_status(old: Obj, obj: Obj, *, where: str) -> Obj:
    """Return `old` with the status and the managedFields of `obj`, which are all that a status write changes.

    Raises:
        ConflictError: resourceVersion or uid are given and differ from the stored ones.
        InvalidError: The status is not a mapping.
    """
    _check_version(old, obj, where)
    status = obj.get("status")
    if status is not None and not isinstance(status, dict):
        raise InvalidError("status is not a mapping", causes=(("status", "must be a mapping"),), where=where)
    result = {k: v for k, v in old.items() if k != "status"}
    if status is not None:
        result["status"] = status
    if "managedFields" in metadata_of(obj):
        result["metadata"] = {**metadata_of(old), "managedFields": metadata_of(obj)["managedFields"]}
    return result


def deleted(old: Obj, *, now: datetime, propagation: str = "") -> Obj | None:
    """Return what a delete request leaves of an object; None when it goes at once.

    Args:
        old: The stored object.
        now: Time of the request.
        propagation: `Foreground` waits for dependents, `Orphan` releases them, `Background` lets them go
            after it; "" keeps what an earlier request asked for.
    """
    marks = finalizers(old)
    if propagation:
        asked = {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(propagation, [])
        marks = [mark for mark in marks if mark not in (FOREGROUND, ORPHAN)] + asked
    if not marks:
        return None
    if marks != finalizers(old):
        old = {**old, "metadata": {**metadata_of(old), "finalizers": marks}}
    return marked_for_deletion(old, now=now)


def marked_for_deletion(old: Obj, *, now: datetime) -> Obj:
    """Return `old` with deletionTimestamp set; unchanged when it was set before."""
    if being_deleted(old):
        return old
    metadata = {
        **metadata_of(old),
        "deletionTimestamp": rfc3339(now),
        "deletionGracePeriodSeconds": 0,
    }
    return {**old, "metadata": metadata}


def _content(obj: Obj, keep_status: bool) -> Obj:
    left_out = ("metadata", "apiVersion", "kind") + (() if keep_status else ("status",))
    return {k: v for k, v in obj.items() if k not in left_out}


def _check_version(old: Obj, obj: Obj, where: str) -> None:
    """Compare resourceVersion and uid where the submitted object names them; both are optional on a PUT."""
    before, given = metadata_of(old), metadata_of(obj)
    for key in ("resourceVersion", "uid"):
        value = given.get(key)
        if value and str(value) != str(before.get(key)):
            raise ConflictError(
                f"the object changed since it was read: {key} {value} is not {before.get(key)}",
                where=where,
                hint="Read it again, repeat the change on the fresh object, and send that.",
            )
