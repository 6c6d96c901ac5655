"""OpenAPI documents of what the API serves: v3 per group and version, and the little of v2 that is asked for.

`kubectl explain` reads the schemas, `kubectl apply` the merge keys of lists and whether the server validates
fields itself. Pure; called by `rest.py`, which keeps the bytes until the registry changes.

Source: contracts operator-webhook.md 6.1; the paths and extensions that kubectl looks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pelton.apiserver.builtin.shapes import METADATA
from pelton.apiserver.registry import Row

__all__ = ["V2", "document", "index", "v2"]

Doc = dict[str, Any]

V2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""Media type of the v2 document."""

_BODIES = ("application/json", "application/yaml")
_PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
)
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def v2(*, version: str) -> bytes:
    """Return an empty OpenAPI v2 document as Protobuf.

    kubectl turns to it when a manifest has an unserved version, reads no other encoding, and only with this
    answer goes on to its own message, "no matches for kind".
    """
    info = _text(1, "Pelton") + _text(2, version)
    return _text(1, "2.0") + b"\x12" + bytes([len(info)]) + info


def _text(field: int, text: str) -> bytes:
    """Encode a Protobuf string field of at most 100 bytes (so that its length is one byte)."""
    data = text.encode()[:100]
    return bytes([field << 3 | 2, len(data)]) + data


def index(rows: Iterable[Row]) -> Doc:
    """Return `/openapi/v3`: where the document of each group and version is."""
    paths = sorted({row.prefix for row in rows})
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def document(rows: Iterable[Row], path: str, *, version: str) -> Doc | None:
    """Return the v3 document of `apis/<group>/<version>` or `api/v1`; None when nothing is served there."""
    served = [row for row in rows if row.prefix == path]
    if not served:
        return None
    paths: Doc = {}
    schemas: Doc = {_META: METADATA}
    for row in served:
        name = ".".join([*reversed(row.group.split(".")), row.version, row.kind]).lstrip(".")
        schemas[name] = _schema(row)
        schemas[f"{name}List"] = _list_schema(row, name)
        paths |= _paths(row, name)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Pelton", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _identity(row: Row) -> Doc:
    return {"group": row.group, "version": row.version, "kind": row.kind}


def _schema(row: Row) -> Doc:
    """Return the schema of a kind; one without a schema takes anything."""
    given: Mapping[str, Any] = row.schema or {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    properties = {
        "apiVersion": {"type": "string", "description": "Group and version of the object."},
        "kind": {"type": "string", "description": "Kind of the object."},
        **given.get("properties", {}),
        "metadata": {
            "description": METADATA["description"],
            "allOf": [{"$ref": f"#/components/schemas/{_META}"}],
            "default": {},
        },
    }
    return {**given, "properties": properties, "x-kubernetes-group-version-kind": [_identity(row)]}


def _list_schema(row: Row, name: str) -> Doc:
    identity = {**_identity(row), "kind": row.list_kind or f"{row.kind}List"}
    return {
        "type": "object",
        "description": f"A list of {row.plural}.",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "items": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}},
        },
        "x-kubernetes-group-version-kind": [identity],
    }


def _paths(row: Row, name: str) -> Doc:
    """Return the paths of a resource; only their existence, kinds and parameters are looked at."""
    scope = "namespaces/{namespace}/" if row.namespaced else ""
    collection = f"/{row.prefix}/{scope}{row.plural}"
    shown = {"$ref": f"#/components/schemas/{name}"}

    def operation(action: str, media: Iterable[str] = (), *parameters: str) -> Doc:
        content = {each: {"schema": shown if each in _BODIES else {"type": "object"}} for each in media}
        answer = f"{name}List" if action == "list" else name
        return {
            "operationId": f"{action}{row.kind}",
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": _identity(row),
            "parameters": [
                {"name": parameter, "in": "query", "schema": {"type": "string"}} for parameter in parameters
            ],
            **({"requestBody": {"content": content}} if content else {}),
            "responses": {
                "200": {
                    "description": "OK",
                    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}},
                }
            },
        }

    writing = ("dryRun", "fieldManager", "fieldValidation")
    patches = (*_PATCHES, "application/strategic-merge-patch+json") if row.builtin else _PATCHES
    found = {
        collection: {
            "get": operation("list", (), "labelSelector", "fieldSelector", "limit", "continue", "watch"),
            "post": operation("post", _BODIES, *writing),
        },
        f"{collection}/{{name}}": {
            "get": operation("get"),
            "put": operation("put", _BODIES, *writing),
            "patch": operation("patch", patches, *writing, "force"),
            "delete": operation("delete", (), "dryRun", "gracePeriodSeconds", "propagationPolicy"),
        },
    }
    wanted = {"get": "list", "post": "create", "put": "update", "patch": "patch", "delete": "delete"}
    served: Doc = {}
    for path, methods in found.items():
        kept = {
            method: value
            for method, value in methods.items()
            if ("get" if path != collection and method == "get" else wanted[method]) in row.verbs
        }
        if kept:
            served[path] = kept
    return served
