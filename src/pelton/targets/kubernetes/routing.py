"""How requests reach a function: its HTTPRoute, the Service of its internal name, what KEDA's add-on needs.

Called by `targets/kubernetes/render`. Gateways of networking.openfunction.io become a Gateway of the Gateway
API and the Service `gateway` that internal names lead to. Pure.

Source: contracts, OpenFunction, sections 5 and 6 (HTTPRoute), and gateway, section 9. Decided where these are
silent or cannot be done as they say: see docs/reference/kubernetes.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pelton.manifest.fields import copy_json
from pelton.model.function import Function, GatewayRef, HttpRoute
from pelton.model.openfunction_gateway import INTERNAL_LISTENER, OpenFunctionGateway
from pelton.plan import traffic
from pelton.targets.kubernetes.cluster import DEFAULT_GATEWAY, INTERNAL_PORT, Cluster
from pelton.targets.kubernetes.identity import Identity, label_value, metadata
from pelton.targets.kubernetes.notes import Notes

__all__ = [
    "Backend",
    "gateway_objects",
    "gateway_of",
    "hostnames",
    "http_route",
    "internal_service",
    "parent",
    "reference_grant",
]

GROUP = "gateway.networking.k8s.io"
_ROUTE = "spec.serving.triggers.http.route"
_INTERCEPTOR = "keda-add-ons-http-interceptor-proxy"
_INTERCEPTOR_PORT = 8080
_MOST_HOSTNAMES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where requests go.

    Attributes:
        service, port: A Service.
        namespace: Of the Service; "" for the route's own.
        host: What the host name of requests is set to; "" leaves it.
    """

    service: str
    port: int
    namespace: str = ""
    host: str = ""

    @classmethod
    def interceptor(cls, cluster: Cluster, namespace: str) -> Backend:
        """Return the interceptor of KEDA's HTTP add-on, for routes of a namespace."""
        place = cluster.http_add_on_namespace
        return cls(
            service=_INTERCEPTOR, port=_INTERCEPTOR_PORT, namespace="" if place == namespace else place
        )


def gateway_of(function: Function, cluster: Cluster, notes: Notes) -> OpenFunctionGateway:
    """Return the Gateway that a function's route names; an unknown one is given the usual settings."""
    reference = _route(function).gateway
    if reference is None:
        return DEFAULT_GATEWAY
    known = {(DEFAULT_GATEWAY.namespace, DEFAULT_GATEWAY.name): DEFAULT_GATEWAY, **cluster.gateways}
    if (reference.namespace, reference.name) in known:
        return known[reference.namespace, reference.name]
    notes.add(
        f"{_ROUTE}.gatewayRef",
        f'Gateway "{reference.namespace}/{reference.name}" is not in these files: its domain is taken to be '
        f"{DEFAULT_GATEWAY.domain}, and routes to attach to a Gateway of the same name",
    )
    return replace(DEFAULT_GATEWAY, namespace=reference.namespace, name=reference.name, reference=reference)


def parent(gateway: OpenFunctionGateway) -> GatewayRef:
    """Return the Gateway of the Gateway API behind a Gateway: the one it refers to, else the one it makes."""
    if gateway.reference is not None:
        return gateway.reference
    made = gateway.definition
    return GatewayRef(
        namespace=(made.namespace if made is not None else "") or gateway.namespace,
        name=(made.name if made is not None else "") or gateway.name,
    )


def _route(function: Function) -> HttpRoute:
    http = function.serving.triggers.http if function.serving and function.serving.triggers else None
    return (http.route if http is not None else None) or HttpRoute()


def hostnames(
    function: Function, identity: Identity, gateway: OpenFunctionGateway, notes: Notes
) -> tuple[str, ...]:
    """Return the host names of a function: the user's, else the Gateway's template, and the internal one.

    A function that is cluster-local has the internal one only.
    """
    given = _route(function).hostnames or (gateway.host(identity.namespace, identity.function),)
    internal = identity.inside(identity.function)
    if traffic.internal(function):
        if _route(function).hostnames:
            notes.add(f"{_ROUTE}.hostnames", f"left out: {traffic.VISIBILITY} is cluster-local")
        return (internal,)
    if len(given) >= _MOST_HOSTNAMES and internal not in given:
        notes.add(
            f"{_ROUTE}.hostnames",
            f"an HTTPRoute has {_MOST_HOSTNAMES} host names at most, so {internal} is not among them",
        )
        return tuple(given)
    return tuple(dict.fromkeys((*given, internal)))


def http_route(
    function: Function,
    identity: Identity,
    gateway: OpenFunctionGateway,
    hosts: tuple[str, ...],
    backend: Backend,
    *,
    request_timeout_s: float | None,
) -> dict[str, Any]:
    """Return the HTTPRoute of a function; it has the function's name.

    Args:
        function: With an HTTP trigger.
        identity: Of the revision.
        gateway: That it attaches to.
        hosts: From `hostnames`.
        backend: Where requests go.
        request_timeout_s: Seconds per request; None where nothing says it, 0 for none.
    """
    route = _route(function)
    rules: list[dict[str, Any]] = [copy_json(rule) for rule in route.rules]
    if not rules:
        shared = bool(route.hostnames) and not traffic.internal(function)
        path = gateway.path(identity.namespace, identity.function) if shared else "/"
        rules = [{"matches": [{"path": {"type": "PathPrefix", "value": path}}]}]
    for rule in rules:
        _finish(rule, backend, request_timeout_s)
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(
            identity.function,
            identity.namespace,
            {**identity.labels, gateway.route_label: label_value(f"{gateway.namespace}.{gateway.name}")},
        ),
        "spec": {
            "parentRefs": [
                {
                    "group": GROUP,
                    "kind": "Gateway",
                    "namespace": parent(gateway).namespace,
                    "name": parent(gateway).name,
                }
            ],
            "hostnames": list(hosts),
            "rules": rules,
        },
    }


def _finish(rule: dict[str, Any], backend: Backend, request_timeout_s: float | None) -> None:
    """Give a rule its backend; one that redirects has none, since the Gateway API refuses both together."""
    filters = [item for item in rule.get("filters") or () if isinstance(item, dict)]
    rule.pop("backendRefs", None)
    if any(item.get("type") == "RequestRedirect" for item in filters):
        return
    if backend.host:
        filters = _with_host(filters, backend.host)
    if filters:
        rule["filters"] = filters
    if request_timeout_s is not None and "timeouts" not in rule:
        rule["timeouts"] = {"request": _gateway_duration(request_timeout_s)}
    reference: dict[str, Any] = {
        "group": "",
        "kind": "Service",
        "name": backend.service,
        "port": backend.port,
    }
    if backend.namespace:
        reference["namespace"] = backend.namespace
    rule["backendRefs"] = [{**reference, "weight": 1}]


def _with_host(filters: list[dict[str, Any]], host: str) -> list[dict[str, Any]]:
    """Set the host in the rule's own header filter, if it has one: each type may stand there once."""
    own = next((item for item in filters if item.get("type") == "RequestHeaderModifier"), None)
    if own is None:
        modifier: dict[str, Any] = {}
        filters = [*filters, {"type": "RequestHeaderModifier", "requestHeaderModifier": modifier}]
    else:
        modifier = own.setdefault("requestHeaderModifier", {})
    for key in ("set", "add"):
        kept = [item for item in modifier.get(key) or () if str(item.get("name", "")).lower() != "host"]
        if kept:
            modifier[key] = kept
        else:
            modifier.pop(key, None)
    modifier["set"] = [*modifier.get("set", ()), {"name": "Host", "value": host}]
    return filters


def _gateway_duration(seconds: float) -> str:
    """Write a duration as the Gateway API has it: whole numbers with h, m, s and ms, five digits at most."""
    rest = round(seconds * 1000)
    found = ""
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            found += f"{count}{unit}"
    return found or "0s"


def internal_service(identity: Identity, gateway: OpenFunctionGateway) -> dict[str, Any]:
    """Return the Service by which other pods call a function by its name: it leads to the gateway."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(identity.function, identity.namespace, identity.labels),
        "spec": {
            "type": "ExternalName",
            "externalName": f"gateway.{gateway.namespace}.svc.{gateway.cluster_domain}",
            "ports": _ports([(INTERNAL_LISTENER, INTERNAL_PORT)]),
        },
    }


def _ports(ports: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"name": name, "port": port, "protocol": "TCP"} for name, port in ports]


def reference_grant(identity: Identity, cluster: Cluster) -> dict[str, Any]:
    """Return the leave for routes of a namespace to send requests to the add-on in another one."""
    return {
        "apiVersion": f"{GROUP}/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": metadata(f"openfunction-{identity.namespace}", cluster.http_add_on_namespace),
        "spec": {
            "from": [{"group": GROUP, "kind": "HTTPRoute", "namespace": identity.namespace}],
            "to": [{"group": "", "kind": "Service", "name": _INTERCEPTOR}],
        },
    }


# ------------------------------------------------------------------------------------------------- Gateways


def gateway_objects(
    obj: Mapping[str, Any], gateway: OpenFunctionGateway, notes: Notes
) -> list[dict[str, Any]]:
    """Return what a Gateway of networking.openfunction.io becomes.

    Args:
        obj: With defaults filled in.
        gateway: The same, decoded.
        notes: Takes what someone has to do by hand.
    """
    listeners = copy_json(obj["spec"]["gatewaySpec"]["listeners"])
    external = [
        (str(item["name"]), int(item["port"])) for item in listeners if item["name"] != INTERNAL_LISTENER
    ]
    behind = parent(gateway)
    made: list[dict[str, Any]] = []
    if gateway.definition is not None:
        made.append(
            {
                "apiVersion": f"{GROUP}/v1",
                "kind": "Gateway",
                "metadata": metadata(behind.name, behind.namespace),
                "spec": {
                    "gatewayClassName": gateway.definition.class_name,
                    "listeners": listeners,
                },
            }
        )
    else:
        names = ", ".join(f"{item['name']} ({item['hostname']}, port {item['port']})" for item in listeners)
        notes.add(
            "spec.gatewayRef",
            f'Gateway "{behind.namespace}/{behind.name}" is not made here: it has to have '
            f"the listeners {names}, open for routes of all namespaces",
        )
    # OpenFunction looks for the gateway's Service under three names; without a cluster there is no looking.
    made.append(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata("gateway", gateway.namespace),
            "spec": {
                "type": "ExternalName",
                "externalName": f"envoy.{behind.namespace}.svc.{gateway.cluster_domain}",
                "ports": _ports(external or [(INTERNAL_LISTENER, INTERNAL_PORT)]),
            },
        }
    )
    notes.add(
        "metadata.name",
        f'Service "{gateway.namespace}/gateway" leads to the Service envoy in {behind.namespace}; '
        "change externalName where the gateway's own Service has another name",
    )
    return made
