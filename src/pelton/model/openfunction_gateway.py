"""Gateway of networking.openfunction.io in the platform's words: domains of functions, and listeners.

`manifest/openfunction_networking` makes and writes it; `plan/` names the hosts and paths of functions by it.
Source: contracts, OpenFunction, sections 4.3 and 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pelton.model.function import GatewayRef
from pelton.model.gateway_api import GatewayListener

__all__ = [
    "HOST_FIELDS",
    "INTERNAL_LISTENER",
    "PATH_FIELDS",
    "GatewayDefinition",
    "OpenFunctionGateway",
    "template_problem",
]

INTERNAL_LISTENER = "ofn-http-internal"
"""Name of the listener for hosts of the cluster's own domain."""

HOST_FIELDS = ("Name", "Namespace", "Domain")
PATH_FIELDS = ("Name", "Namespace")

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayDefinition:
    """A Gateway of the Gateway API that is to be made; name "" only before defaulting."""

    namespace: str
    class_name: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFunctionGateway:
    """Where functions are reached.

    Attributes:
        name, namespace, labels, annotations: Of the resource itself.
        domain: Of external hosts, e.g. `ofn.io`.
        cluster_domain: Of internal hosts.
        host_template: Host of a function whose route names none, with `{{.Name}}`, `{{.Namespace}}`,
            `{{.Domain}}`.
        path_template: Path of a function whose route names hosts but no rules; no `{{.Domain}}`.
        route_label: Label by which routes name their Gateway.
        reference: Existing Gateway of the Gateway API to use; None when one is to be made.
        definition: The one to be made; None when there is a reference.
        listeners: The internal one among them, once defaults are in.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    domain: str = ""
    cluster_domain: str = "cluster.local"
    host_template: str = "{{.Name}}.{{.Namespace}}.{{.Domain}}"
    path_template: str = "{{.Namespace}}/{{.Name}}"
    route_label: str = "app.kubernetes.io/managed-by"
    reference: GatewayRef | None = None
    definition: GatewayDefinition | None = None
    listeners: tuple[GatewayListener, ...] = ()

    def host(self, namespace: str, name: str) -> str:
        """Return the external host of a function whose route names none."""
        return _filled(self.host_template, {"Name": name, "Namespace": namespace, "Domain": self.domain})

    def path(self, namespace: str, name: str) -> str:
        """Return the path prefix of a function on hosts that its user named, with a leading slash."""
        return "/" + _filled(self.path_template, {"Name": name, "Namespace": namespace}).lstrip("/")

    def internal_host(self, namespace: str, name: str) -> str:
        """Return the host under which a function is reached inside the cluster."""
        return f"{name}.{namespace}.svc.{self.cluster_domain}"


def template_problem(template: str, fields: tuple[str, ...]) -> str:
    """Return what is wrong with a template, or "".

    Go's language has more; Gateways need these fields only.

    Args:
        template: Text with `{{.Field}}` in it.
        fields: Names that it may use.
    """
    known = ", ".join(f"{{{{.{name}}}}}" for name in fields)
    for action in _ACTION.findall(template):
        if action.removeprefix(".") not in fields or not action.startswith("."):
            return f"may use {known} only, found {{{{{action}}}}}"
    rest = _ACTION.sub("", template)
    return "has a {{ or }} without its other half" if "{{" in rest or "}}" in rest else ""


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _ACTION.sub(lambda found: values.get(found[1].removeprefix("."), ""), template)
