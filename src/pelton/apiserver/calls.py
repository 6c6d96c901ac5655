"""One request on a resource: which resource, which object, which parameters.

`rest.py` makes a `Call` from the path and its verbs read from it. The namespaces are a resource without
storage: they exist as soon as an object is in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from pelton.apiserver import forms
from pelton.apiserver.discovery import Resource, key_of
from pelton.errors import ProtocolError

__all__ = ["NAMESPACES", "Call", "namespace_object"]

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    json_path: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces as a resource; they exist as soon as an object is in them, so none is ever created."""

    group: str = ""
    version: str = "v1"
    kind: str = "Namespace"
    plural: str = "namespaces"
    singular: str = "namespace"
    short_names: tuple[str, ...] = ("ns",)
    namespaced: bool = False
    categories: tuple[str, ...] = ()
    status: bool = False
    columns: tuple[_Column, ...] = (
        _Column("Status", "string", ".status.phase"),
        _Column("Age", "date", ".metadata.creationTimestamp"),
    )


NAMESPACES = Namespaces()


@dataclass(slots=True)
class Call:
    """One request on a resource, its path taken apart; "" for what the path does not name."""

    request: Request
    resource: Resource
    namespace: str
    name: str
    subresource: str
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The store's name of the resource."""
        return key_of(self.resource)

    @property
    def where(self) -> str:
        """Which object, for messages."""
        return "/".join(part for part in (self.key, self.namespace, self.name) if part)

    @property
    def scope(self) -> str | None:
        """Namespace to list, None for all."""
        return self.namespace or None

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be stored; raises ProtocolError for an unknown value."""
        value = self.query("dryRun")
        if value not in ("", "All"):
            raise ProtocolError(f"dryRun={value} is not known", hint="Use dryRun=All.")
        return value == "All"

    @property
    def api_version(self) -> str:
        """ApiVersion of the objects on this path."""
        group = self.resource.group
        return f"{group}/{self.resource.version}" if group else self.resource.version

    def query(self, key: str) -> str:
        """Return a query parameter, "" when it is absent."""
        value: str = self.request.query_params.get(key, "")
        return value

    def flag(self, key: str) -> bool:
        """Return whether a query parameter is true."""
        return self.query(key).lower() in ("true", "1")

    def number(self, key: str) -> int:
        """Return a query parameter as an integer >= 0; 0 when it is absent."""
        value = self.query(key)
        if value and not (value.isascii() and value.isdigit() and len(value) < 19):
            raise ProtocolError(f"{key}={value} is not a whole number")
        return int(value or 0)


def namespace_object(name: str) -> bytes:
    """Return the JSON of a namespace."""
    metadata = {"name": name, "labels": {"kubernetes.io/metadata.name": name}}
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    return forms.encode({**document, "spec": {}, "status": {"phase": "Active"}})
