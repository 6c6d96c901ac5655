"""OpenAPI schemas and CustomResourceDefinitions of Pelton's kinds, from the tables that admission uses.

`schema_of` goes to the API server (OpenAPI, `kubectl explain`), `definition_of` to `scripts/gen-crds`, which
writes deploy/crds. Structural in the sense of Kubernetes. Pure.
"""

from __future__ import annotations

from typing import Any

from pelton.manifest.fields import Record
from pelton.manifest.kinds import Column, Kind
from pelton.manifest.verbs import TableVerbs

__all__ = ["definition_of", "schema_of", "spec_of"]

Doc = dict[str, Any]

_CONVERSION = {
    "strategy": "Webhook",
    "webhook": {
        "conversionReviewVersions": ["v1"],
        "clientConfig": {
            "service": {"namespace": "openfunction", "name": "webhook-service", "path": "/convert"}
        },
    },
}
"""Versions with different fields cannot be converted by the API server itself."""


def spec_of(kind: Kind, version: str) -> Record | None:
    """Return the table of a kind's spec in a served version; None when its fields are not tabled.

    Raises:
        KeyError: The version is not served.
    """
    for older in kind.older:
        if older.version == version:
            return older.spec
    if version != kind.version:
        raise KeyError(version)
    return kind.verbs.spec if isinstance(kind.verbs, TableVerbs) else kind.spec


def schema_of(kind: Kind, version: str = "") -> Doc:
    """Return the structural schema of whole objects of a kind, a new one at each call.

    Args:
        kind: Its row.
        version: A served version; "" for the storage version.

    Raises:
        KeyError: The version is not served.
    """
    table = spec_of(kind, version or kind.version)
    properties: Doc = {
        "apiVersion": {"type": "string", "description": "Group and version of this form of the object."},
        "kind": {"type": "string", "description": f"{kind.kind}."},
        "metadata": {"type": "object"},
    }
    spec = (
        table.schema()
        if table is not None
        else {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    )
    properties["spec"] = {"description": "What is wanted.", **spec}
    if kind.beside:
        properties |= Record(dict, kind.beside).schema()["properties"]
    if kind.status or kind.observed:
        status = Record(dict, kind.observed).schema()
        properties["status"] = {
            "description": "What was found; written by the platform.",
            **status,
            "x-kubernetes-preserve-unknown-fields": True,
        }
    written: Doc = {"type": "object", "properties": properties}
    if kind.spec_required:
        written["required"] = ["spec"]
    return {"description": kind.doc, **written} if kind.doc else written


def definition_of(kind: Kind) -> Doc:
    """Return the CustomResourceDefinition of a kind, with all served versions."""
    spec: Doc = {
        "group": kind.group,
        "names": {
            "kind": kind.kind,
            "listKind": kind.list_kind,
            "plural": kind.plural,
            "singular": kind.singular,
        },
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "versions": [_version(kind, version) for version in sorted(kind.versions)],
    }
    if kind.short_names:
        spec["names"]["shortNames"] = list(kind.short_names)
    if kind.categories:
        spec["names"]["categories"] = list(kind.categories)
    if len(kind.versions) > 1:
        spec["conversion"] = _CONVERSION
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.resource},
        "spec": spec,
    }


def _version(kind: Kind, version: str) -> Doc:
    written: Doc = {"name": version, "served": True, "storage": version == kind.version}
    if columns := kind.columns_of(version):
        written["additionalPrinterColumns"] = [_column(column) for column in columns]
    if kind.status:
        written["subresources"] = {"status": {}}
    return {**written, "schema": {"openAPIV3Schema": schema_of(kind, version)}}


def _column(column: Column) -> Doc:
    written: Doc = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    return {**written, "priority": column.priority} if column.priority else written
