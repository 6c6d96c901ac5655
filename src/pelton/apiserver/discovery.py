"""What the API serves: discovery, aggregated discovery, OpenAPI v3 documents.

Pure; called by `rest.py`. Schemas in OpenAPI are open mappings: validation happens on the server, and kubectl
only needs to learn there that the server does it (the `fieldValidation` parameter of PATCH).
Source: contracts operator-webhook.md 6.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from pelton.apiserver.table import Column

__all__ = [
    "AGGREGATED",
    "OPENAPI_V2",
    "Resource",
    "aggregated",
    "group_list",
    "group_of",
    "key_of",
    "openapi",
    "openapi_index",
    "openapi_v2",
    "resource_list",
]

Doc = dict[str, Any]

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""Media type of the aggregated form."""

OPENAPI_V2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""Media type of the OpenAPI v2 document."""

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_STATUS_VERBS = ["get", "patch", "update"]
_NAMESPACE_VERBS = ["get", "list"]


class Resource(Protocol):
    """A kind that is served; `pelton.manifest.kinds` has the table."""

    @property
    def group(self) -> str:
        """API group, "" for core."""
        ...

    @property
    def version(self) -> str:
        """The served version."""
        ...

    @property
    def kind(self) -> str:
        """Kind, e.g. `Function`."""
        ...

    @property
    def plural(self) -> str:
        """Plural in paths, e.g. `functions`."""
        ...

    @property
    def singular(self) -> str:
        """Singular, e.g. `function`."""
        ...

    @property
    def short_names(self) -> Sequence[str]:
        """Short names for kubectl, may be empty."""
        ...

    @property
    def namespaced(self) -> bool:
        """Whether objects live in a namespace."""
        ...

    @property
    def categories(self) -> Sequence[str]:
        """Names that stand for several kinds, may be empty."""
        ...

    @property
    def status(self) -> bool:
        """Whether it has a status subresource."""
        ...

    @property
    def columns(self) -> Sequence[Column]:
        """Columns of `kubectl get` after the name."""
        ...


def key_of(resource: Resource) -> str:
    """Return the store's name of a resource: `<plural>.<group>`."""
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def group_list(resources: Iterable[Resource]) -> Doc:
    """Return the APIGroupList of `/apis`."""
    served = list(resources)
    groups = sorted({resource.group for resource in served if resource.group})
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(served, group) for group in groups],
    }


def group_of(resources: Iterable[Resource], group: str) -> Doc | None:
    """Return the APIGroup of `/apis/<group>`; None when nothing of that group is served."""
    served = [resource for resource in resources if resource.group == group]
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(served, group)} if served else None


def _group(served: Sequence[Resource], group: str) -> Doc:
    versions = [
        {"groupVersion": f"{group}/{version}", "version": version} for version in _versions(served, group)
    ]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def _versions(served: Iterable[Resource], group: str) -> list[str]:
    """Newest first, by text: v1beta2 before v1beta1, v1beta1 before v1alpha1."""
    return sorted({r.version for r in served if r.group == group}, reverse=True)


def resource_list(resources: Iterable[Resource], group: str, version: str) -> Doc | None:
    """Return the APIResourceList of a group and version; None when nothing is served there."""
    served = [r for r in resources if (r.group, r.version) == (group, version)]
    core = (group, version) == ("", "v1")
    if not served and not core:
        return None
    entries: list[Doc] = []
    if core:
        entries.append(
            {
                "name": "namespaces",
                "singularName": "namespace",
                "namespaced": False,
                "kind": "Namespace",
                "verbs": _NAMESPACE_VERBS,
                "shortNames": ["ns"],
            }
        )
    for resource in served:
        entry = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": _VERBS,
            "shortNames": list(resource.short_names),
            "categories": list(resource.categories),
        }
        entries.append({k: v for k, v in entry.items() if v != []})
        if resource.status:
            entries.append(
                {
                    "name": f"{resource.plural}/status",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": resource.kind,
                    "verbs": _STATUS_VERBS,
                }
            )
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": entries,
    }


def aggregated(resources: Iterable[Resource], *, core: bool) -> Doc:
    """Return the APIGroupDiscoveryList of `/api` (core) or `/apis`."""
    served = list(resources)
    groups = [""] if core else sorted({r.group for r in served if r.group})
    items = []
    for group in groups:
        versions = sorted({"v1", *_versions(served, "")}) if core else _versions(served, group)
        items.append(
            {
                "metadata": {"name": group, "creationTimestamp": None} if group else {},
                "versions": [
                    {
                        "version": version,
                        "freshness": "Current",
                        "resources": _aggregated_resources(served, group, version),
                    }
                    for version in versions
                ],
            }
        )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def _aggregated_resources(served: Iterable[Resource], group: str, version: str) -> list[Doc]:
    def kind(name: str) -> Doc:
        return {"group": group, "version": version, "kind": name}

    entries: list[Doc] = []
    if (group, version) == ("", "v1"):
        entries.append(
            {
                "resource": "namespaces",
                "responseKind": kind("Namespace"),
                "scope": "Cluster",
                "singularResource": "namespace",
                "verbs": _NAMESPACE_VERBS,
                "shortNames": ["ns"],
            }
        )
    for resource in served:
        if (resource.group, resource.version) != (group, version):
            continue
        status = {"subresource": "status", "responseKind": kind(resource.kind), "verbs": _STATUS_VERBS}
        entries.append(
            {
                "resource": resource.plural,
                "responseKind": kind(resource.kind),
                "scope": "Namespaced" if resource.namespaced else "Cluster",
                "singularResource": resource.singular,
                "verbs": _VERBS,
                "shortNames": list(resource.short_names),
                "categories": list(resource.categories),
                "subresources": [status] if resource.status else [],
            }
        )
    return entries


def openapi_v2(*, version: str) -> bytes:
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


def openapi_index(resources: Iterable[Resource]) -> Doc:
    """Return `/openapi/v3`: where the document of each group and version is."""
    paths = sorted({_prefix(r) for r in resources} | {"api/v1"})
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def openapi(resources: Iterable[Resource], path: str, *, version: str) -> Doc | None:
    """Return the OpenAPI v3 document of `apis/<group>/<version>` or `api/v1`; None when not served."""
    served = [r for r in resources if _prefix(r) == path]
    if not served and path != "api/v1":
        return None
    paths: Doc = {}
    schemas: Doc = {}
    for resource in served:
        identity = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        name = ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])
        schemas[name] = {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "x-kubernetes-group-version-kind": [identity],
        }
        scope = "namespaces/{namespace}/" if resource.namespaced else ""
        operation = {
            "x-kubernetes-group-version-kind": identity,
            "parameters": [_parameter("dryRun"), _parameter("fieldManager"), _parameter("fieldValidation")],
            "requestBody": {
                "content": {
                    "application/merge-patch+json": {"schema": {"type": "object"}},
                    "application/json-patch+json": {"schema": {"type": "array", "items": {}}},
                    "application/apply-patch+yaml": {"schema": {"type": "object"}},
                }
            },
            "responses": {"200": {"description": "OK"}},
        }
        paths[f"/{path}/{scope}{resource.plural}/{{name}}"] = {
            "patch": {**operation, "x-kubernetes-action": "patch"}
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Pelton", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _parameter(name: str) -> Doc:
    return {"name": name, "in": "query", "schema": {"type": "string"}}


def _prefix(resource: Resource) -> str:
    return f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"
