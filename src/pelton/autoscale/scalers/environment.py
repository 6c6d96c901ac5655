"""Variables of a container, as far as its manifest says them; `<param>FromEnv` keys of triggers name them.

Pure: Secrets and ConfigMaps come in as mappings. Source: KEDA, pkg/scaling/resolver (contracts, autoscaling
section 1.4, last point).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Entries", "container_variables", "referred"]

Entries = Callable[[str, str], Mapping[str, str] | None]
"""(kind Secret or ConfigMap, name) -> entries; None where there is no such object."""
_REFERENCE = re.compile(r"\$\$|\$\(([^()$]+)\)")


def container_variables(pod_spec: Any, entries: Entries, container: str = "") -> dict[str, str]:
    """Return the variables of a container by name: envFrom first, then env in order.

    Args:
        pod_spec: A PodSpec; None or another thing for no variables.
        entries: Looks up Secrets and ConfigMaps of the namespace.
        container: Its name; "" for the first one.
    """
    found: dict[str, str] = {}
    chosen = _container(pod_spec, container)
    for source in chosen.get("envFrom") or ():
        prefix = source.get("prefix") or ""
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            name = (source.get(field) or {}).get("name")
            for key, value in ((entries(kind, name) if name else None) or {}).items():
                found[prefix + key] = value
    for item in chosen.get("env") or ():
        name = item.get("name")
        origin = item.get("valueFrom") or {}
        if not name:
            continue
        if not origin:
            found[name] = _expanded(str(item.get("value") or ""), found)
            continue
        for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            reference = origin.get(field) or {}
            if reference.get("name"):
                listed = entries(kind, reference["name"]) or {}
                if reference.get("key") in listed:
                    found[name] = listed[reference["key"]]
    return found


def referred(pod_spec: Any, container: str = "") -> frozenset[tuple[str, str]]:
    """Return (kind, name) of the Secrets and ConfigMaps that a container takes variables from."""
    found: set[tuple[str, str]] = set()

    def note(kind: str, name: str) -> None:
        found.add((kind, name))

    container_variables(pod_spec, note, container)
    return frozenset(found)


def _container(pod_spec: Any, name: str) -> dict[str, Any]:
    containers = (pod_spec.get("containers") or ()) if isinstance(pod_spec, dict) else ()
    known = [one for one in containers if isinstance(one, dict)]
    return next((one for one in known if not name or one.get("name") == name), {})


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by variables set before; `$$` stands for one sign; what is unknown stays."""
    return _REFERENCE.sub(lambda m: "$" if m[0] == "$$" else known.get(m[1], m[0]), text)
