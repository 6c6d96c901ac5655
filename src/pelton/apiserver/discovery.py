"""What the API serves: discovery, legacy and aggregated. Pure; called by `rest.py`.

Source: contracts operator-webhook.md 6.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pelton.apiserver.registry import Row, version_priority

__all__ = [
    "AGGREGATED",
    "aggregated",
    "group_list",
    "group_of",
    "resource_list",
]

Doc = dict[str, Any]

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""Media type of the aggregated form."""

_STATUS_VERBS = ["get", "patch", "update"]


def group_list(resources: Iterable[Row]) -> Doc:
    """Return the APIGroupList of `/apis`."""
    served = list(resources)
    groups = sorted({resource.group for resource in served if resource.group})
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(served, group) for group in groups],
    }


def group_of(resources: Iterable[Row], group: str) -> Doc | None:
    """Return the APIGroup of `/apis/<group>`; None when nothing of that group is served."""
    served = [resource for resource in resources if resource.group == group]
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(served, group)} if served else None


def _group(served: Sequence[Row], group: str) -> Doc:
    versions = [
        {"groupVersion": f"{group}/{version}", "version": version} for version in _versions(served, group)
    ]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def _versions(served: Iterable[Row], group: str) -> list[str]:
    """Return the versions of a group, preferred first."""
    return sorted({r.version for r in served if r.group == group}, key=version_priority)


def resource_list(resources: Iterable[Row], group: str, version: str) -> Doc | None:
    """Return the APIResourceList of a group and version; None when nothing is served there."""
    served = [r for r in resources if (r.group, r.version) == (group, version)]
    if not served:
        return None
    entries: list[Doc] = []
    for resource in served:
        entry = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
            "shortNames": list(resource.short_names),
            "categories": list(resource.categories),
        }
        entries.append({k: v for k, v in entry.items() if v != []})
        for name, kind, verbs in _subresources(resource):
            other = kind if (kind["group"], kind["version"]) != (group, version) else {}
            entries.append(
                {
                    "name": f"{resource.plural}/{name}",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    **other,
                    "kind": kind["kind"],
                    "verbs": verbs,
                }
            )
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": entries,
    }


def aggregated(resources: Iterable[Row], *, core: bool) -> Doc:
    """Return the APIGroupDiscoveryList of `/api` (core) or `/apis`."""
    served = list(resources)
    groups = [""] if core else sorted({r.group for r in served if r.group})
    items = []
    for group in groups:
        versions = _versions(served, group)
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


def _aggregated_resources(served: Iterable[Row], group: str, version: str) -> list[Doc]:
    entries: list[Doc] = []
    for resource in served:
        if (resource.group, resource.version) != (group, version):
            continue
        entry = {
            "resource": resource.plural,
            "responseKind": {"group": group, "version": version, "kind": resource.kind},
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "singularResource": resource.singular,
            "verbs": list(resource.verbs),
            "shortNames": list(resource.short_names),
            "categories": list(resource.categories),
            "subresources": [
                {"subresource": name, "responseKind": kind, "verbs": verbs}
                for name, kind, verbs in _subresources(resource)
            ],
        }
        entries.append({k: v for k, v in entry.items() if v != []})
    return entries


def _subresources(row: Row) -> list[tuple[str, Doc, list[str]]]:
    """Return (name, group/version/kind of the answer, verbs) per subresource."""
    found: list[tuple[str, Doc, list[str]]] = []
    if row.status:
        own = {"group": row.group, "version": row.version, "kind": row.kind}
        found.append(("status", own, _STATUS_VERBS))
    if row.scale is not None:
        found.append(("scale", {"group": "autoscaling", "version": "v1", "kind": "Scale"}, _STATUS_VERBS))
    for sub in row.subresources:
        kind = {"group": sub.group, "version": sub.version, "kind": sub.kind}
        found.append((sub.name, kind, list(sub.verbs)))
    return found
