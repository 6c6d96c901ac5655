"""Resources of gateway.networking.k8s.io as their users wrote them: HTTPRoute, Gateway, class, grant.

`manifest/gateway_api` reads and writes them, `plan/attachment` decides what becomes of them. Conditions and
changes are those of `model/routing`; references are not looked up here.
Source: contracts, gateway-network, section 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pelton.model.routing import Cors, HeaderChanges, Match, Redirect, Rewrite

__all__ = [
    "BackendRef",
    "CertificateRef",
    "Filter",
    "GatewayClass",
    "GatewayListener",
    "GatewayResource",
    "GrantFrom",
    "GrantTo",
    "HttpRouteResource",
    "HttpRouteRule",
    "MirrorTo",
    "ParentRef",
    "ReferenceGrant",
    "RouteKind",
    "Timeouts",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRef:
    """Where requests go; group and kind "" of a Service are the core group's.

    Attributes:
        name, namespace, kind, group: Which object; namespace "" is the route's.
        port: The Service's; None when absent.
        weight: 0 to 1000000; None means 1.
        filters: For this share only.
    """

    name: str
    namespace: str = ""
    kind: str = "Service"
    group: str = ""
    port: int | None = None
    weight: int | None = None
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorTo:
    """A copy of requests: to whom, and of how many: percent, or numerator of denominator, else all."""

    backend: BackendRef
    percent: int | None = None
    numerator: int | None = None
    denominator: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One step of changing a request or its answer; exactly the attribute that `type` names is given.

    Attributes:
        type: `RequestHeaderModifier`, `ResponseHeaderModifier`, `RequestRedirect`, `URLRewrite`,
            `RequestMirror`, `CORS`, `ExternalAuth` or `ExtensionRef`.
        extension: An ExtensionRef or ExternalAuth, as written.
    """

    type: str
    request_headers: HeaderChanges | None = None
    response_headers: HeaderChanges | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    mirror: MirrorTo | None = None
    cors: Cors | None = None
    extension: dict[str, Any] | None = None
    external_auth: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Limits in seconds: of the whole exchange, of one try; 0 disables, None leaves it to the gateway."""

    request_s: float | None = None
    backend_request_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRouteRule:
    """A rule as written; no matches mean everything."""

    name: str = ""
    matches: tuple[Match, ...] = ()
    filters: tuple[Filter, ...] = ()
    backends: tuple[BackendRef, ...] = ()
    timeouts: Timeouts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRef:
    """A Gateway, or one of its listeners by name or port, that a route wants to be served by."""

    name: str
    namespace: str = ""
    kind: str = "Gateway"
    group: str = "gateway.networking.k8s.io"
    section: str = ""
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRouteResource:
    """A HTTPRoute.

    Attributes:
        name, namespace, labels, annotations: Of the resource.
        parents: Who is to serve it; empty: nobody.
        hostnames: Lower case, `*.` in front at most; empty: those of the listeners.
        rules: At most 16; never empty once defaults are in.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    parents: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HttpRouteRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRef:
    """A Secret with a certificate; namespace "" is the Gateway's."""

    name: str
    namespace: str = ""
    kind: str = "Secret"
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteKind:
    """A kind of route that a listener takes."""

    kind: str
    group: str = "gateway.networking.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayListener:
    """One door of a Gateway.

    Attributes:
        name: Unique in the Gateway.
        port: 1 to 65535.
        protocol: `HTTP` or `HTTPS`; `TLS`, `TCP` and `UDP` are not served.
        hostname: What it is for, `*.` in front at most; "" for any.
        tls_mode: `Terminate` or `Passthrough`; "" means `Terminate`.
        certificates: For HTTPS.
        routes_from: Whose routes may attach: `Same`, `All`, `Selector` (namespaces by label) or `None`.
        selector: Label selector as written, for `Selector`.
        kinds: Kinds of routes; empty for those of the protocol.
    """

    name: str
    port: int
    protocol: str
    hostname: str = ""
    tls_mode: str = ""
    certificates: tuple[CertificateRef, ...] = ()
    routes_from: str = "Same"
    selector: dict[str, Any] | None = None
    kinds: tuple[RouteKind, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayResource:
    """A Gateway: class and listeners; `addresses` are accepted as written and not honoured."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    class_name: str = ""
    listeners: tuple[GatewayListener, ...] = ()
    addresses: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayClass:
    """A class of Gateways and the name of the controller that serves them."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    controller: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFrom:
    """Objects that may refer."""

    group: str
    kind: str
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTo:
    """Objects that may be referred to; name "" for all of the kind."""

    group: str
    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGrant:
    """Permission for references from other namespaces into this one."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    sources: tuple[GrantFrom, ...] = ()
    targets: tuple[GrantTo, ...] = ()
