"""HTTPRoute, Gateway, GatewayClass and ReferenceGrant of gateway.networking.k8s.io: tables and defaults.

Called through `manifest/kinds`; the rules inside a Function are read with HTTP_RULE, too. What values have to
fulfil is in `manifest/gateway_api_rules`. Version v1 is stored; v1beta1 has the same fields.
Source: contracts, gateway-network, section 9. Over 600 lines: they are tables.
"""

from __future__ import annotations

from typing import Any

from pelton.manifest import gateway_api_rules as check
from pelton.manifest.fields import (
    AnyValue,
    Boolean,
    Duration,
    Field,
    Integer,
    Items,
    Path,
    Raw,
    Reading,
    Record,
    Text,
    copy_json,
    describe,
)
from pelton.manifest.verbs import TableVerbs
from pelton.manifest.versions import Older
from pelton.model import gateway_api as model
from pelton.model import routing

__all__ = [
    "API_VERSION",
    "GATEWAY",
    "GATEWAY_CLASS",
    "HTTP_ROUTE",
    "HTTP_RULE",
    "REFERENCE_GRANT",
    "default_rule",
    "inline_rules",
]

API_VERSION = "gateway.networking.k8s.io/v1"
_GROUP = "gateway.networking.k8s.io"


def _beta(spec: Record) -> tuple[Older, ...]:
    """Serve v1beta1 too, which says the same in the same words."""
    return (
        Older(
            version="v1beta1",
            spec=spec,
            up=lambda obj: {**obj, "apiVersion": API_VERSION},
            down=lambda obj: {**obj, "apiVersion": f"{_GROUP}/v1beta1"},
        ),
    )


_TEXT = Text()
_HOST = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_HOSTNAME = Text(rf"(\*\.)?{_HOST}", "a lower-case host name, with *. in front at most", 253)
_PRECISE = Text(_HOST, "a lower-case host name without *", 253)


class _Pairs(AnyValue):
    """A list of {name, value}; (name, value) pairs in the model, the first of a name counts."""

    empty = ()

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        if type(value) is not list:
            reading.problem(path, f"must be a list, found {describe(value)}")
            return ()
        found: dict[str, tuple[str, str]] = {}
        for index, item in enumerate(value):
            here = (*path, index)
            if type(item) is not dict:
                reading.problem(here, f"must be an object, found {describe(item)}")
                continue
            for key in item:
                if key not in ("name", "value"):
                    reading.unknown_field((*here, key), ("name", "value"))
            pair = []
            for key in ("name", "value"):
                if item.get(key) is None:
                    reading.problem((*here, key), "required")
                pair.append(_TEXT.decode(item.get(key) or "", (*here, key), reading))
            found.setdefault(pair[0].lower(), (pair[0], pair[1]))
        return tuple(found.values())

    def encode(self, value: Any) -> Any:
        return [{"name": name, "value": text} for name, text in value]


class _PathChange(AnyValue):
    """`{type, replaceFullPath | replacePrefixMatch}`."""

    fields = {"ReplaceFullPath": "replaceFullPath", "ReplacePrefixMatch": "replacePrefixMatch"}  # noqa: RUF012 -- read only

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        if type(value) is not dict:
            reading.problem(path, f"must be an object, found {describe(value)}")
            return None
        known = ("type", *self.fields.values())
        for key in value:
            if key not in known:
                reading.unknown_field((*path, key), known)
        kind = value.get("type")
        if kind not in self.fields:
            reading.problem(
                (*path, "type"), f"must be ReplaceFullPath or ReplacePrefixMatch, found {describe(kind)}"
            )
            return None
        for other, name in self.fields.items():
            if other != kind and name in value:
                reading.problem((*path, name), f"must not be given with the type {kind}")
        given = value.get(self.fields[kind])
        if given is None:
            reading.problem((*path, self.fields[kind]), "required")
            return None
        text = _TEXT.decode(given, (*path, self.fields[kind]), reading)
        return routing.PathChange(type=kind, value=text)

    def encode(self, value: Any) -> Any:
        return {"type": value.type, self.fields[value.type]: value.value}


class _Percentage(AnyValue):
    """`{numerator, denominator}`, 100 where the denominator is absent; a pair in the model."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        if type(value) is not dict:
            reading.problem(path, f"must be an object, found {describe(value)}")
            return None
        for key in value:
            if key not in ("numerator", "denominator"):
                reading.unknown_field((*path, key), ("numerator", "denominator"))
        if value.get("numerator") is None:
            reading.problem((*path, "numerator"), "required")
            return None
        read = Integer().decode
        return (
            read(value["numerator"], (*path, "numerator"), reading),
            read(value.get("denominator", 100), (*path, "denominator"), reading),
        )

    def encode(self, value: Any) -> Any:
        return {"numerator": value[0], "denominator": value[1]}


# -------------------------------------------------------------------------------------------------- HTTPRoute

_FIELD_MATCH = Record(
    routing.FieldMatch,
    (
        Field("type", "type", _TEXT, doc="Kind of match or filter."),
        Field("name", "name", _TEXT, required=True, doc="Name."),
        Field("value", "value", _TEXT, required=True, keep=True, doc="Value to compare with."),
    ),
)
_MATCH = Record(
    routing.Match,
    (
        Field(
            "path",
            "path",
            Record(
                routing.PathMatch,
                (
                    Field("type", "type", _TEXT, doc="Kind of match or filter."),
                    Field("value", "value", _TEXT, doc="Value to compare with."),
                ),
            ),
            doc="Condition on the path, or its new form.",
        ),
        Field(
            "headers",
            "headers",
            Items(_FIELD_MATCH, max_items=16),
            doc="Conditions on headers, or names of them.",
        ),
        Field(
            "queryParams", "query", Items(_FIELD_MATCH, max_items=16), doc="Conditions on query parameters."
        ),
        Field("method", "method", _TEXT, doc="HTTP method."),
    ),
)
_HEADER_CHANGES = Record(
    routing.HeaderChanges,
    (
        Field("set", "set", _Pairs(), doc="Headers to overwrite."),
        Field("add", "add", _Pairs(), doc="Headers to append."),
        Field("remove", "remove", Items(_TEXT, max_items=16), doc="Headers to remove."),
    ),
)
_REDIRECT = Record(
    routing.Redirect,
    (
        Field("scheme", "scheme", _TEXT, doc="New scheme."),
        Field("hostname", "hostname", _PRECISE, doc="Host name."),
        Field("path", "path", _PathChange(), doc="Condition on the path, or its new form."),
        Field("port", "port", Integer(), doc="Port."),
        Field("statusCode", "status", Integer(), doc="Status of the redirect."),
    ),
)
_REWRITE = Record(
    routing.Rewrite,
    (
        Field("hostname", "hostname", _PRECISE, doc="Host name."),
        Field("path", "path", _PathChange(), doc="Condition on the path, or its new form."),
    ),
)
_CORS = Record(
    routing.Cors,
    (
        Field("allowOrigins", "origins", Items(_TEXT, max_items=64), doc="Origins that may call."),
        Field("allowMethods", "methods", Items(_TEXT, max_items=9), doc="Methods they may use."),
        Field("allowHeaders", "headers", Items(_TEXT, max_items=64), doc="Headers they may send."),
        Field("exposeHeaders", "exposed", Items(_TEXT, max_items=64), doc="Headers they may read."),
        Field("allowCredentials", "credentials", Boolean(), doc="Whether cookies are sent."),
        Field("maxAge", "max_age_s", Integer(), doc="Seconds the answer may be kept."),
    ),
)
_TARGET = (
    Field("group", "group", _TEXT, doc="API group; empty for core."),
    Field("kind", "kind", _TEXT, doc="Kind."),
    Field("name", "name", _TEXT, required=True, doc="Name."),
    Field("namespace", "namespace", _TEXT, doc="Namespace; default that of this object."),
    Field("port", "port", Integer(), doc="Port."),
)


def _mirror(
    *,
    backend: model.BackendRef | None = None,
    percent: int | None = None,
    fraction: tuple[int | None, int | None] | None = None,
) -> model.MirrorTo:
    numerator, denominator = fraction or (None, None)
    return model.MirrorTo(
        backend=backend or model.BackendRef(name=""),
        percent=percent,
        numerator=numerator,
        denominator=denominator,
    )


class _Mirror(Record):
    def encode(self, value: Any) -> Any:
        written = {"backendRef": Record(model.BackendRef, _TARGET).encode(value.backend)}
        if value.percent is not None:
            written["percent"] = value.percent
        if value.numerator is not None:
            written["fraction"] = {"numerator": value.numerator, "denominator": value.denominator}
        return written


_MIRROR = _Mirror(
    _mirror,
    (
        Field(
            "backendRef", "backend", Record(model.BackendRef, _TARGET), required=True, doc="Where copies go."
        ),
        Field("percent", "percent", Integer(), doc="Percent of requests."),
        Field("fraction", "fraction", _Percentage(), doc="Fraction of requests."),
    ),
)
_FILTER = Record(
    model.Filter,
    (
        Field("type", "type", _TEXT, required=True, doc="Kind of match or filter."),
        Field(
            "requestHeaderModifier",
            "request_headers",
            _HEADER_CHANGES,
            doc="Changes to headers of the request.",
        ),
        Field(
            "responseHeaderModifier",
            "response_headers",
            _HEADER_CHANGES,
            doc="Changes to headers of the answer.",
        ),
        Field("requestRedirect", "redirect", _REDIRECT, doc="Answer that sends the client elsewhere."),
        Field("urlRewrite", "rewrite", _REWRITE, doc="Changes to host and path."),
        Field("requestMirror", "mirror", _MIRROR, doc="Copies of requests."),
        Field("cors", "cors", _CORS, doc="Who may call from pages of other origins."),
        Field("extensionRef", "extension", Raw(), doc="A filter of another kind."),
        Field("externalAuth", "external_auth", Raw(), doc="A service that is asked first."),
    ),
)
_FILTERS = Items(_FILTER, max_items=16)
HTTP_RULE = Record(
    model.HttpRouteRule,
    (
        Field("name", "name", _TEXT, doc="Name."),
        Field("matches", "matches", Items(_MATCH, max_items=64), doc="Which requests; any of them."),
        Field("filters", "filters", _FILTERS, doc="What happens to them."),
        Field(
            "backendRefs",
            "backends",
            Items(
                Record(
                    model.BackendRef,
                    (
                        *_TARGET,
                        Field("weight", "weight", Integer(), doc="Share; 0 for none."),
                        Field("filters", "filters", _FILTERS, doc="What happens to them."),
                    ),
                ),
                max_items=16,
            ),
            doc="Where they go, by weight.",
        ),
        Field(
            "timeouts",
            "timeouts",
            Record(
                model.Timeouts,
                (
                    Field("request", "request_s", Duration(), doc="Whole exchange; 0s for no limit."),
                    Field("backendRequest", "backend_request_s", Duration(), doc="One try; 0s for no limit."),
                ),
            ),
            doc="Limits in time.",
        ),
    ),
)
"""One rule, of a HTTPRoute or inside a Function."""

_ROUTE_SPEC = Record(
    model.HttpRouteResource,
    (
        Field(
            "parentRefs",
            "parents",
            Items(
                Record(
                    model.ParentRef,
                    (
                        Field("group", "group", _TEXT, doc="API group; empty for core."),
                        Field("kind", "kind", _TEXT, doc="Kind."),
                        Field("namespace", "namespace", _TEXT, doc="Namespace; default that of this object."),
                        Field("name", "name", _TEXT, required=True, doc="Name."),
                        Field("sectionName", "section", _TEXT, doc="Listener of the Gateway."),
                        Field("port", "port", Integer(), doc="Port."),
                    ),
                ),
                max_items=32,
            ),
            doc="Gateways that serve it.",
        ),
        Field(
            "hostnames",
            "hostnames",
            Items(_HOSTNAME, max_items=16),
            doc="Hosts; default those of the listeners.",
        ),
        Field("rules", "rules", Items(HTTP_RULE, max_items=16), doc="What happens to which requests."),
    ),
)


def _default_route(obj: dict[str, Any]) -> None:
    spec = obj.setdefault("spec", {})
    if type(spec) is not dict:
        return
    for parent in _objects(spec.get("parentRefs")):
        parent.setdefault("group", _GROUP)
        parent.setdefault("kind", "Gateway")
    if spec.get("rules") is None:
        spec["rules"] = [{}]
    for rule in _objects(spec["rules"]):
        default_rule(rule)


def default_rule(rule: dict[str, Any]) -> None:
    """Fill the schema's defaults into one rule, in place; idempotent."""
    if rule.get("matches") is None:
        rule["matches"] = [{}]
    for match in _objects(rule["matches"]):
        path = match.setdefault("path", {})
        if type(path) is dict:
            path.setdefault("type", "PathPrefix")
            path.setdefault("value", "/")
        for name in ("headers", "queryParams"):
            for field in _objects(match.get(name)):
                field.setdefault("type", "Exact")
    _default_filters(rule)
    for backend in _objects(rule.get("backendRefs")):
        _default_backend(backend)
        backend.setdefault("weight", 1)
        _default_filters(backend)


def _default_filters(owner: dict[str, Any]) -> None:
    for item in _objects(owner.get("filters")):
        if type(item.get("requestRedirect")) is dict:
            item["requestRedirect"].setdefault("statusCode", 302)
        mirror = item.get("requestMirror")
        if type(mirror) is dict and type(mirror.get("backendRef")) is dict:
            _default_backend(mirror["backendRef"])


def _default_backend(backend: dict[str, Any]) -> None:
    backend.setdefault("group", "")
    backend.setdefault("kind", "Service")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if type(item) is dict] if type(value) is list else []


def inline_rules(rules: tuple[dict[str, Any], ...]) -> tuple[model.HttpRouteRule, ...]:
    """Read the rules that a Function carries; its admission has reported what is wrong with them."""
    read = []
    for rule in rules:
        filled = copy_json(rule)
        default_rule(filled)
        read.append(HTTP_RULE.decode(filled, (), Reading()))
    return tuple(read)


HTTP_ROUTE: TableVerbs[model.HttpRouteResource] = TableVerbs(
    API_VERSION,
    "HTTPRoute",
    _ROUTE_SPEC,
    default=_default_route,
    rules=check.route_rules,
    older=_beta(_ROUTE_SPEC),
)
"""The verbs of HTTPRoute."""

# ---------------------------------------------------------------------------------------------------- Gateway


def _listener(
    *, tls: dict[str, Any] | None = None, allowed: dict[str, Any] | None = None, **values: Any
) -> model.GatewayListener:
    known = {name: value for name, value in (tls or {}).items() if name != "options"}
    missing = {"name": "", "port": 0, "protocol": ""}  # stand in where they are reported as missing
    return model.GatewayListener(**{**missing, **values}, **known, **(allowed or {}))


def _allowed(
    *, namespaces: dict[str, Any] | None = None, kinds: tuple[model.RouteKind, ...] = ()
) -> dict[str, Any]:
    return {**(namespaces or {}), "kinds": kinds}


class _Listener(Record):
    def encode(self, value: Any) -> Any:
        written: dict[str, Any] = {"name": value.name, "port": value.port, "protocol": value.protocol}
        if value.hostname:
            written["hostname"] = value.hostname
        if value.tls_mode or value.certificates:
            written["tls"] = {
                "mode": value.tls_mode or "Terminate",
                "certificateRefs": Items(_CERTIFICATE).encode(value.certificates),
            }
        namespaces: dict[str, Any] = {"from": value.routes_from}
        if value.selector is not None:
            namespaces["selector"] = value.selector
        written["allowedRoutes"] = {"namespaces": namespaces}
        if value.kinds:
            written["allowedRoutes"]["kinds"] = Items(_KIND).encode(value.kinds)
        return written


_CERTIFICATE = Record(
    model.CertificateRef,
    (
        Field("group", "group", _TEXT, doc="API group; empty for core."),
        Field("kind", "kind", _TEXT, doc="Kind."),
        Field("name", "name", _TEXT, required=True, doc="Name."),
        Field("namespace", "namespace", _TEXT, doc="Namespace; default that of this object."),
    ),
)
_KIND = Record(
    model.RouteKind,
    (
        Field("group", "group", _TEXT, doc="API group; empty for core."),
        Field("kind", "kind", _TEXT, required=True, doc="Kind."),
    ),
)
LISTENER = _Listener(
    _listener,
    (
        Field("name", "name", _TEXT, required=True, doc="Name."),
        Field("hostname", "hostname", _HOSTNAME, doc="Host name."),
        Field("port", "port", Integer(), required=True, doc="Port."),
        Field("protocol", "protocol", _TEXT, required=True, doc="HTTP, HTTPS or another."),
        Field(
            "tls",
            "tls",
            Record(
                dict,
                (
                    Field("mode", "tls_mode", _TEXT, doc="Terminate or Passthrough."),
                    Field(
                        "certificateRefs",
                        "certificates",
                        Items(_CERTIFICATE, max_items=64),
                        doc="Secrets with certificates.",
                    ),
                    Field("options", "options", Raw(), doc="Further settings."),
                ),
            ),
            doc="Settings of TLS.",
        ),
        Field(
            "allowedRoutes",
            "allowed",
            Record(
                _allowed,
                (
                    Field(
                        "namespaces",
                        "namespaces",
                        Record(
                            dict,
                            (
                                Field(
                                    "from",
                                    "routes_from",
                                    _TEXT,
                                    doc="Namespaces whose routes may attach, or who may refer.",
                                ),
                                Field("selector", "selector", Raw(), doc="Namespaces by label."),
                            ),
                        ),
                        doc="Namespaces whose routes may attach.",
                    ),
                    Field("kinds", "kinds", Items(_KIND, max_items=8), doc="Kinds of routes."),
                ),
            ),
            doc="Routes that may attach.",
        ),
    ),
)
"""One listener, of a Gateway of this group or of OpenFunction."""


def default_listener(listener: dict[str, Any]) -> None:
    """Fill the schema's defaults into one listener, in place; idempotent."""
    allowed = listener.setdefault("allowedRoutes", {})
    if type(allowed) is dict:
        namespaces = allowed.setdefault("namespaces", {})
        if type(namespaces) is dict:
            namespaces.setdefault("from", "Same")
        for kind in _objects(allowed.get("kinds")):
            kind.setdefault("group", _GROUP)
    tls = listener.get("tls")
    if type(tls) is dict:
        tls.setdefault("mode", "Terminate")
        for reference in _objects(tls.get("certificateRefs")):
            reference.setdefault("group", "")
            reference.setdefault("kind", "Secret")


def _default_gateway(obj: dict[str, Any]) -> None:
    spec = obj.get("spec")
    if type(spec) is dict:
        for listener in _objects(spec.get("listeners")):
            default_listener(listener)


_GATEWAY_SPEC = Record(
    model.GatewayResource,
    (
        Field("gatewayClassName", "class_name", _TEXT, required=True, doc="Class of the Gateway."),
        Field(
            "listeners", "listeners", Items(LISTENER, max_items=64), required=True, doc="Where it listens."
        ),
        Field("addresses", "addresses", Items(Raw(), max_items=16), doc="Addresses that are asked for."),
    ),
)
GATEWAY: TableVerbs[model.GatewayResource] = TableVerbs(
    API_VERSION,
    "Gateway",
    _GATEWAY_SPEC,
    default=_default_gateway,
    rules=check.gateway_rules,
    required=True,
    older=_beta(_GATEWAY_SPEC),
)
"""The verbs of Gateway."""

_CLASS_SPEC = Record(
    model.GatewayClass,
    (
        Field("controllerName", "controller", _TEXT, required=True, doc="Controller that serves the class."),
        Field("description", "description", _TEXT, doc="What it is for."),
    ),
)
GATEWAY_CLASS: TableVerbs[model.GatewayClass] = TableVerbs(
    API_VERSION,
    "GatewayClass",
    _CLASS_SPEC,
    required=True,
    older=_beta(_CLASS_SPEC),
)
"""The verbs of GatewayClass."""

_GRANT_SPEC = Record(
    model.ReferenceGrant,
    (
        Field(
            "from",
            "sources",
            Items(
                Record(
                    model.GrantFrom,
                    (
                        Field(
                            "group",
                            "group",
                            _TEXT,
                            required=True,
                            keep=True,
                            doc="API group; empty for core.",
                        ),
                        Field("kind", "kind", _TEXT, required=True, doc="Kind."),
                        Field(
                            "namespace",
                            "namespace",
                            _TEXT,
                            required=True,
                            doc="Namespace; default that of this object.",
                        ),
                    ),
                ),
                max_items=16,
            ),
            required=True,
            doc="Namespaces whose routes may attach, or who may refer.",
        ),
        Field(
            "to",
            "targets",
            Items(
                Record(
                    model.GrantTo,
                    (
                        Field("group", "group", _TEXT, keep=True, doc="API group; empty for core."),
                        Field("kind", "kind", _TEXT, required=True, doc="Kind."),
                        Field("name", "name", _TEXT, doc="Name."),
                    ),
                ),
                max_items=16,
            ),
            required=True,
            doc="What may be referred to.",
        ),
    ),
)
REFERENCE_GRANT: TableVerbs[model.ReferenceGrant] = TableVerbs(
    API_VERSION,
    "ReferenceGrant",
    _GRANT_SPEC,
    required=True,
    older=_beta(_GRANT_SPEC),
)
"""The verbs of ReferenceGrant."""
