"""Service (core v1) and EndpointSlice (discovery.k8s.io/v1). Pure; rows for `builtin/table.py`.

A Service has no virtual address here: on one machine the gateway is what answers. `clusterIP` is `None` for
all of them, and that is said instead of an invented address; type LoadBalancer stays pending.

Source: behaviour of Kubernetes; contracts operator-webhook.md 1.2 (service targets of webhooks).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from pelton.apiserver.builtin.core import AGE
from pelton.apiserver.builtin.shapes import (
    INT_OR_STRING,
    Shaped,
    array,
    boolean,
    integer,
    keyed,
    kind,
    mapping,
    strings,
    struct,
    text,
)
from pelton.apiserver.registry import Cause, Row
from pelton.apiserver.rules import Obj
from pelton.manifest.kinds import Column

__all__ = ["ENDPOINT_SLICE", "SERVICE", "SERVICE_NAME"]

SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice: the Service that it belongs to."""

_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\.?")
_PROTOCOLS = ("TCP", "UDP", "SCTP")

_PORT = struct(
    "One port.",
    {
        "appProtocol": text("What is spoken there, e.g. kubernetes.io/h2c."),
        "name": text("Unique in the Service; needed when there are several."),
        "nodePort": integer("Port on every node."),
        "port": integer("Port of the Service."),
        "protocol": text("TCP, UDP or SCTP.", default="TCP"),
        "targetPort": INT_OR_STRING,
    },
    required=("port",),
)
_CONDITION = struct(
    "One observation.",
    {
        "lastTransitionTime": text("When status changed last.", form="date-time"),
        "message": text("For people."),
        "observedGeneration": {"type": "integer", "format": "int64", "description": "Of what."},
        "reason": text("In one word."),
        "status": text("True, False or Unknown."),
        "type": text("Which observation."),
    },
    required=("lastTransitionTime", "message", "reason", "status", "type"),
)
_SERVICE_SCHEMA = kind(
    "A name under which something answers.",
    {
        "spec": struct(
            "Who answers, and where.",
            {
                "allocateLoadBalancerNodePorts": boolean("For type LoadBalancer."),
                "clusterIP": text("`None`: clients go to the endpoints themselves."),
                "clusterIPs": strings("clusterIP as a list."),
                "externalIPs": strings("Further addresses of it."),
                "externalName": text("For type ExternalName: the DNS name."),
                "externalTrafficPolicy": text("Cluster or Local.", one_of=("Cluster", "Local")),
                "healthCheckNodePort": integer("For type LoadBalancer."),
                "internalTrafficPolicy": text("Cluster or Local.", one_of=("Cluster", "Local")),
                "ipFamilies": strings("IPv4, IPv6."),
                "ipFamilyPolicy": text(
                    "One family or two.", one_of=("SingleStack", "PreferDualStack", "RequireDualStack")
                ),
                "loadBalancerClass": text("For type LoadBalancer."),
                "loadBalancerIP": text("For type LoadBalancer."),
                "loadBalancerSourceRanges": strings("Who may come."),
                "ports": keyed("Its ports.", _PORT, "port", "protocol", merge="port"),
                "publishNotReadyAddresses": boolean("Whether endpoints count before they are ready."),
                "selector": mapping(
                    "Labels of the pods that answer; none when endpoints are user-made.", atomic=True
                ),
                "sessionAffinity": text("None or ClientIP.", one_of=("None", "ClientIP"), default="None"),
                "sessionAffinityConfig": struct(
                    "For ClientIP.",
                    {
                        "clientIP": struct(
                            "How long.", {"timeoutSeconds": integer("Seconds.", low=1, high=86400)}
                        )
                    },
                ),
                "trafficDistribution": text("Preferred endpoints."),
                "type": text(
                    "How it is reached.",
                    one_of=("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
                    default="ClusterIP",
                ),
            },
        ),
        "status": struct(
            "What is observed.",
            {
                "conditions": keyed("Observations.", _CONDITION, "type"),
                "loadBalancer": struct(
                    "For type LoadBalancer.",
                    {"ingress": array("Where it answers.", {"type": "object", "description": "An address."})},
                ),
            },
        ),
    },
)
_ENDPOINT = struct(
    "One place that answers.",
    {
        "addresses": {**strings("Addresses of it; the first one is used.", merged=True)},
        "conditions": struct(
            "Its state.",
            {
                "ready": boolean("Whether it answers now; unknown counts as yes."),
                "serving": boolean("Whether it answers, even while it ends."),
                "terminating": boolean("Whether it is ending."),
            },
        ),
        "deprecatedTopology": mapping("No longer used."),
        "hints": {"type": "object", "description": "Who should use it."},
        "hostname": text("Its own name."),
        "nodeName": text("The machine."),
        "targetRef": struct(
            "The object behind it.",
            {
                key: text("Of the object.")
                for key in ("apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid")
            },
            atomic=True,
        ),
        "zone": text("Where the machine is."),
    },
    required=("addresses",),
)
_SLICE_SCHEMA = kind(
    "Some of the places that answer for a Service.",
    {
        "addressType": text("IPv4, IPv6 or FQDN; never changes.", one_of=("IPv4", "IPv6", "FQDN")),
        "endpoints": array("The places, at most 1,000.", _ENDPOINT),
        "ports": array(
            "Ports of every endpoint.",
            struct(
                "One port.",
                {
                    "appProtocol": text("What is spoken there."),
                    "name": text("As in the Service.", default=""),
                    "port": integer("The port; none means all."),
                    "protocol": text("TCP, UDP or SCTP.", default="TCP"),
                },
                atomic=True,
            ),
        ),
    },
    required=("addressType",),
)


def _service_defaults(obj: Obj) -> Obj:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        spec = {}
    result = dict(spec)
    result.setdefault("type", "ClusterIP")
    result.setdefault("sessionAffinity", "None")
    if result["type"] != "ExternalName":
        if result.get("clusterIP") in (None, ""):
            result["clusterIP"] = "None"
        result["clusterIPs"] = [result["clusterIP"]]
        result.setdefault("internalTrafficPolicy", "Cluster")
        result.setdefault("ipFamilies", ["IPv4"])
        result.setdefault("ipFamilyPolicy", "SingleStack")
    if result["type"] in ("NodePort", "LoadBalancer"):
        result.setdefault("externalTrafficPolicy", "Cluster")
    if isinstance(result.get("ports"), list):
        result["ports"] = [
            {"targetPort": port["port"], **port} if isinstance(port, dict) and "port" in port else port
            for port in result["ports"]
        ]
    return {**obj, "spec": result, "status": obj.get("status") or {"loadBalancer": {}}}


def _service(new: Obj, old: Obj | None) -> list[Cause]:
    spec = new["spec"]
    causes = []
    if not _LABEL.fullmatch(str(new["metadata"].get("name", "x"))):
        causes.append(
            Cause(
                field="metadata.name",
                message=f'Invalid value: "{new["metadata"].get("name")}": must be a DNS label that begins '
                "with a letter, at most 63 characters",
            )
        )
    ports = spec.get("ports") or []
    external = spec["type"] == "ExternalName"
    if external and not _HOST.fullmatch(spec.get("externalName", "")):
        message = "Required value" if not spec.get("externalName") else "Invalid value: must be a DNS name"
        reason = "FieldValueRequired" if not spec.get("externalName") else "FieldValueInvalid"
        causes.append(Cause(field="spec.externalName", message=message, reason=reason))
    if not external and not ports and spec.get("clusterIP") != "None":
        causes.append(Cause(field="spec.ports", message="Required value", reason="FieldValueRequired"))
    names: set[str] = set()
    for at, port in enumerate(ports):
        causes += _port(port, f"spec.ports[{at}]", needs_name=len(ports) > 1)
        if port.get("name") in names:
            causes.append(
                Cause(
                    field=f"spec.ports[{at}].name",
                    message=f'Duplicate value: "{port["name"]}"',
                    reason="FieldValueDuplicate",
                )
            )
        names |= {port["name"]} if port.get("name") else set()
    return causes


def _port(port: Obj, path: str, *, needs_name: bool) -> list[Cause]:
    causes = []
    number, target = port.get("port"), port.get("targetPort")
    span = "must be between 1 and 65535, inclusive"
    if isinstance(number, int) and not 1 <= number <= 65535:
        causes.append(Cause(field=f"{path}.port", message=f"Invalid value: {number}: {span}"))
    if isinstance(target, int) and not 1 <= target <= 65535:
        causes.append(Cause(field=f"{path}.targetPort", message=f"Invalid value: {target}: {span}"))
    if isinstance(target, str) and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?", target):
        causes.append(
            Cause(field=f"{path}.targetPort", message=f'Invalid value: "{target}": must be a port name')
        )
    if port.get("protocol") not in _PROTOCOLS:
        listed = ", ".join(f'"{each}"' for each in _PROTOCOLS)
        causes.append(
            Cause(
                field=f"{path}.protocol",
                message=f'Unsupported value: "{port.get("protocol")}": supported values: {listed}',
                reason="FieldValueNotSupported",
            )
        )
    if needs_name and not port.get("name"):
        causes.append(Cause(field=f"{path}.name", message="Required value", reason="FieldValueRequired"))
    return causes


def _slice(new: Obj, old: Obj | None) -> list[Cause]:
    causes = []
    form = new.get("addressType")
    if old is not None and old.get("addressType") != form:
        causes.append(Cause(field="addressType", message=f'Invalid value: "{form}": field is immutable'))
    for at, endpoint in enumerate(new.get("endpoints") or []):
        addresses = endpoint.get("addresses") or []
        path = f"endpoints[{at}].addresses"
        if not addresses:
            causes.append(Cause(field=path, message="Required value", reason="FieldValueRequired"))
        causes += [
            Cause(field=f"{path}[{number}]", message=f'Invalid value: "{address}": must be {_called(form)}')
            for number, address in enumerate(addresses)
            if not _fits(form, address)
        ]
    names = [port.get("name", "") for port in new.get("ports") or []]
    if len(set(names)) != len(names):
        causes.append(Cause(field="ports", message="Duplicate value: name", reason="FieldValueDuplicate"))
    return causes


def _called(form: Any) -> str:
    return "a DNS name" if form == "FQDN" else f"an {form} address"


def _fits(form: Any, address: str) -> bool:
    if form == "FQDN":
        return bool(_HOST.fullmatch(address))
    try:
        return ipaddress.ip_address(address).version == (6 if form == "IPv6" else 4)
    except ValueError:
        return False


SERVICE = Row(
    group="",
    version="v1",
    kind="Service",
    plural="services",
    singular="service",
    short_names=("svc",),
    categories=("all",),
    status=True,
    generation=False,
    builtin=True,
    columns=(
        Column("Type", "string", ".spec.type"),
        Column("Cluster-IP", "string", ".spec.clusterIP"),
        Column("External-IP", "optional", ".spec.externalName"),
        Column("Port(s)", "ports", ".spec.ports"),
        AGE,
        Column("Selector", "labels", ".spec.selector", 1),
    ),
    schema=_SERVICE_SCHEMA,
    checks=Shaped("Service", _SERVICE_SCHEMA, defaults=_service_defaults, rules=_service),
    selectable={"spec.clusterIP": ".spec.clusterIP", "spec.type": ".spec.type"},
)
ENDPOINT_SLICE = Row(
    group="discovery.k8s.io",
    version="v1",
    kind="EndpointSlice",
    plural="endpointslices",
    singular="endpointslice",
    builtin=True,
    columns=(
        Column("AddressType", "string", ".addressType"),
        Column("Ports", "ports", ".ports"),
        Column("Endpoints", "addresses", ".endpoints"),
        AGE,
    ),
    schema=_SLICE_SCHEMA,
    checks=Shaped("EndpointSlice", _SLICE_SCHEMA, rules=_slice),
)
