"""The scale subresource: an object seen as autoscaling/v1 Scale. Pure; called by `verbs.py`.

Source: contracts operator-webhook.md 5 (subresources.scale).
"""

from __future__ import annotations

from typing import Any

from pelton.apiserver.registry import Cause, Row, Scale
from pelton.apiserver.rules import Obj
from pelton.apiserver.status import FieldsInvalidError
from pelton.apiserver.table import find
from pelton.errors import ProtocolError

__all__ = ["API_VERSION", "SCALE_ROW", "scale_of", "scaled"]

API_VERSION = "autoscaling/v1"
"""apiVersion of every Scale."""

SCALE_ROW = Row(group="autoscaling", version="v1", kind="Scale", plural="scales", singular="scale")
"""How a Scale is shown; it is never served by itself."""

_KEPT = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def scale_of(row: Row, obj: Obj) -> Obj:
    """Return the Scale of an object."""
    scale = _scale(row)
    replicas = find(scale.spec_replicas)(obj)
    observed = scale.observed(obj) if scale.observed else find(scale.status_replicas)(obj)
    status: dict[str, Any] = {"replicas": observed if isinstance(observed, int) else 0}
    if scale.label_selector and (selector := find(scale.label_selector)(obj)):
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": API_VERSION,
        "metadata": {key: obj["metadata"][key] for key in _KEPT if key in obj["metadata"]},
        "spec": {"replicas": replicas} if isinstance(replicas, int) and replicas else {},
        "status": status,
    }


def scaled(row: Row, obj: Obj, scale: Any) -> Obj:
    """Return the object with the replicas, and the resourceVersion and uid to compare, of a Scale.

    Raises:
        ProtocolError: It is no Scale of this object.
        FieldsInvalidError: spec.replicas is not a whole number >= 0.
    """
    if not isinstance(scale, dict) or (scale.get("apiVersion"), scale.get("kind")) != (API_VERSION, "Scale"):
        raise ProtocolError(f"the body is not a Scale of {API_VERSION}")
    spec, given = scale.get("spec") or {}, scale.get("metadata") or {}
    replicas = spec.get("replicas", 0) if isinstance(spec, dict) else None
    name = obj["metadata"]["name"]
    if not isinstance(given, dict) or given.get("name", name) != name:
        raise ProtocolError(f"metadata.name is not the name of the path, {name!r}")
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        cause = Cause(field="spec.replicas", message=f"Invalid value: {replicas}: must be a number >= 0")
        raise FieldsInvalidError(SCALE_ROW, name, [cause])
    metadata = {**obj["metadata"], **{k: given[k] for k in ("resourceVersion", "uid") if given.get(k)}}
    path = _scale(row).spec_replicas.lstrip(".").split(".")
    return _with({**obj, "metadata": metadata}, path, replicas)


def _with(obj: Any, path: list[str], value: int) -> Obj:
    inner = obj if isinstance(obj, dict) else {}
    if len(path) == 1:
        return {**inner, path[0]: value}
    return {**inner, path[0]: _with(inner.get(path[0]), path[1:], value)}


def _scale(row: Row) -> Scale:
    if row.scale is None:
        raise ProtocolError(f"{row.name} has no scale subresource")
    return row.scale
