"""Gateway of networking.openfunction.io/v1alpha1: table, defaults, rules.

Called through `manifest/kinds`; listeners are those of `manifest/gateway_api`. Source: contracts,
OpenFunction, sections 4.3 and 5.
"""

from __future__ import annotations

import json
from typing import Any

from pelton.manifest.fields import Field, Items, Only, Problem, Record, Text
from pelton.manifest.gateway_api import LISTENER, default_listener
from pelton.manifest.gateway_api_rules import listener_rules
from pelton.manifest.verbs import TableVerbs
from pelton.model.function import GatewayRef
from pelton.model.openfunction_gateway import (
    HOST_FIELDS,
    INTERNAL_LISTENER,
    PATH_FIELDS,
    GatewayDefinition,
    OpenFunctionGateway,
    template_problem,
)

__all__ = ["API_VERSION", "GATEWAY", "LAST_APPLIED"]

API_VERSION = "networking.openfunction.io/v1alpha1"
LAST_APPLIED = "networking.openfunction.io/last-applied-configuration"
"""Annotation with the spec as JSON: what is compared with to find listeners that went."""

_TEXT = Text()
_DOMAIN = Text(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "a lower-case host name without *",
    253,
)
_SPEC = Record(
    OpenFunctionGateway,
    (
        Field(
            "domain",
            "domain",
            _DOMAIN,
            doc="Domain of the hosts that are reached from outside.",
            limits={"required": True},
        ),
        Field(
            "clusterDomain",
            "cluster_domain",
            _DOMAIN,
            doc="Domain of the hosts that are reached inside.",
            default="cluster.local",
        ),
        Field(
            "hostTemplate",
            "host_template",
            _TEXT,
            doc="Host of a function whose route names none.",
            default="{{.Name}}.{{.Namespace}}.{{.Domain}}",
        ),
        Field(
            "pathTemplate",
            "path_template",
            _TEXT,
            doc="Path of a function whose route names hosts but no rules.",
            default="{{.Namespace}}/{{.Name}}",
        ),
        Field(
            "httpRouteLabelKey",
            "route_label",
            _TEXT,
            doc="Label by which routes name their Gateway.",
            default="app.kubernetes.io/managed-by",
        ),
        Field(
            "gatewayRef",
            "reference",
            Record(
                GatewayRef,
                (
                    Field("name", "name", _TEXT, required=True, doc="Name of the Gateway."),
                    Field("namespace", "namespace", _TEXT, required=True, doc="Namespace of the Gateway."),
                ),
            ),
            doc="Existing Gateway of the Gateway API; exactly one of gatewayRef and gatewayDef.",
        ),
        Field(
            "gatewayDef",
            "definition",
            Record(
                GatewayDefinition,
                (
                    Field("name", "name", _TEXT, doc="Its name; default that of this object."),
                    Field("namespace", "namespace", _TEXT, required=True, doc="Its namespace."),
                    Field("gatewayClassName", "class_name", _TEXT, required=True, doc="Its class."),
                ),
            ),
            doc="Gateway of the Gateway API that is made.",
        ),
        Field(
            "gatewaySpec",
            "listeners",
            Only("listeners", Items(LISTENER, max_items=64), missing=(), required=True, doc="The listeners."),
            required=True,
            keep=True,
            doc="Listeners; the internal one is added.",
        ),
    ),
)


def _default(filled: dict[str, Any]) -> None:
    """Carry out the webhook's defaulting: names, the internal listener, hosts of the others."""
    spec, metadata = filled.get("spec"), filled.get("metadata")
    if type(spec) is not dict or type(metadata) is not dict:
        return
    definition = spec.get("gatewayDef")
    if type(definition) is dict and not definition.get("name") and type(metadata.get("name")) is str:
        definition["name"] = metadata["name"]
    inner = spec.get("gatewaySpec")
    listeners = inner.get("listeners") if type(inner) is dict else None
    if type(listeners) is not list or not all(type(item) is dict for item in listeners):
        return
    if not any(item.get("name") == INTERNAL_LISTENER for item in listeners):
        listeners.append({"name": INTERNAL_LISTENER})
    for item in listeners:
        if item.get("name") == INTERNAL_LISTENER:
            item.update(hostname=f"*.{spec['clusterDomain']}", port=80, protocol="HTTP")
            item["allowedRoutes"] = {"namespaces": {"from": "All"}}
        elif type(spec.get("domain")) is str and spec["domain"]:
            item["hostname"] = f"*.{spec['domain']}"
        default_listener(item)
    annotations = metadata.setdefault("annotations", {})
    if annotations is None:
        annotations = metadata["annotations"] = {}
    if type(annotations) is dict:
        annotations.setdefault(LAST_APPLIED, json.dumps(spec, separators=(",", ":"), ensure_ascii=False))


def _rules(gateway: OpenFunctionGateway) -> list[Problem]:
    problems = []
    if not gateway.domain:
        problems.append(Problem("spec.domain", "required, for example ofn.io"))
    for name, template, fields in (
        ("hostTemplate", gateway.host_template, HOST_FIELDS),
        ("pathTemplate", gateway.path_template, PATH_FIELDS),
    ):
        if complaint := template_problem(template, fields):
            problems.append(Problem(f"spec.{name}", complaint))
    if (gateway.reference is None) == (gateway.definition is None):
        found = "neither is given" if gateway.reference is None else "both are given"
        problems.append(Problem("spec", f"exactly one of gatewayRef and gatewayDef is required, {found}"))
    if len(gateway.listeners) == 1:
        problems.append(
            Problem(
                "spec.gatewaySpec.listeners", f"needs a listener besides {INTERNAL_LISTENER}, for the domain"
            )
        )
    return [*problems, *listener_rules(gateway.listeners, "spec.gatewaySpec.listeners")]


GATEWAY: TableVerbs[OpenFunctionGateway] = TableVerbs(
    API_VERSION, "Gateway", _SPEC, default=_default, rules=_rules, required=True
)
"""The verbs of Gateway."""
