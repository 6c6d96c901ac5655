"""Names that are derived, never chosen: revisions, instances, hosts, paths, subjects, content hashes.

Every part that needs such a name calls this file, so that they agree. Pure. `plan/function` names revisions,
the node names instances, the runtime names log subjects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = [
    "FINALIZER",
    "app_id",
    "content_hash",
    "deferred_topic",
    "host",
    "instance_name",
    "log_subject",
    "path",
    "revision_name",
]

FINALIZER = "pelton.dev/workload"
"""Finalizer that keeps a Function until its workload, route and subscriptions are gone."""


def content_hash(content: Any) -> str:
    """Return 64 hex digits that name plain data by value; mappings in any order give the same."""
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _canonical(content: Any) -> str:
    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            # One level: the encoder comes back for what is inside. `asdict` would copy all of it first.
            return {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"{type(value).__name__} has no canonical form")

    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=plain)


def revision_name(function: str, content: Any) -> str:
    """Return `<function>-<10 hex>`: the same content gives the same name, on every machine and start."""
    return f"{function}-{content_hash(content)[:10]}"


def instance_name(revision: str, suffix: str) -> str:
    """Return `<revision>-<suffix>`; the suffix is 5 characters made by whoever starts the instance."""
    return f"{revision}-{suffix}"


def host(namespace: str, name: str) -> str:
    """Return the host name that reaches a function on this machine, without port."""
    return f"{name}.{namespace}.localhost"


def path(namespace: str, name: str) -> str:
    """Return the path prefix that reaches a function on any other host."""
    return f"/{namespace}/{name}"


def log_subject(namespace: str, name: str) -> str:
    """Return the bus subject of a function's log records."""
    return f"logs.{namespace}.{name}"


def deferred_topic(namespace: str, name: str) -> str:
    """Return the bus subject of what a function accepted to do later."""
    return f"deferred.{namespace}.{name}"


def app_id(namespace: str, name: str) -> str:
    """Return the Dapr app id of a function."""
    return f"{name}-{namespace}"
