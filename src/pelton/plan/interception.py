"""From InterceptorRoutes and HTTPScaledObjects to what the interceptor does, and to routes that lead there.

`controlplane/routes` calls this with the objects and what they refer to. Of a route and a scaled object
of one name the route counts. Pure. Source: contracts, autoscaling, sections 5.1 to 5.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pelton.model.interception import Answer, Fixed, Intercept, InterceptRule, InterceptTarget
from pelton.model.keda_http import (
    HttpScaledObjectResource,
    InterceptorRoute,
    RouteRule,
    ServiceTarget,
    StaticResponse,
)
from pelton.model.routing import (
    EXTERNAL,
    INTERNAL,
    Backend,
    Endpoint,
    FieldMatch,
    Match,
    PathMatch,
    Rule,
    StandaloneRoute,
    Upstream,
)
from pelton.plan.attachment import HTTPS
from pelton.plan.upstreams import Services

__all__ = ["CLUSTER", "Written", "intercepts", "leading_routes"]

CLUSTER = "interceptor"
"""Name of the interceptor's cluster; no function or Service can have it."""

RESPONSE_BODY = "http.keda.sh/response-body"
"""Label without which a ConfigMap is not read."""

Obj = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A resource with its time of creation."""

    resource: InterceptorRoute | HttpScaledObjectResource
    created: str = ""


def intercepts(
    written: Iterable[Written], services: Services, config_maps: Mapping[str, Obj]
) -> tuple[Intercept, ...]:
    """Return what is to be intercepted, by key.

    Args:
        written: All resources of both kinds.
        services: What Services lead to.
        config_maps: `namespace/name` -> ConfigMap.
    """
    found: dict[str, Intercept] = {}
    for one in sorted(written, key=lambda each: isinstance(each.resource, InterceptorRoute)):
        resource = one.resource
        planned = (
            _route(resource, services, config_maps)
            if isinstance(resource, InterceptorRoute)
            else _scaled(resource, services)
        )
        found[planned.key] = replace(planned, created=one.created)
    return tuple(found[key] for key in sorted(found))


def _route(route: InterceptorRoute, services: Services, config_maps: Mapping[str, Obj]) -> Intercept:
    timeouts, cold = route.timeouts, route.cold_start
    space = route.namespace
    fallback = _target(cold.fallback, space, services) if cold and cold.fallback else None
    readiness = timeouts.readiness_s if timeouts else None
    return Intercept(
        namespace=space,
        name=route.name,
        rules=_rules(route.rules) or (InterceptRule(),),
        target=_target(route.target, space, services),
        fallback=fallback,
        placeholder=_answer(cold.placeholder, 503, space, config_maps) if cold and cold.placeholder else None,
        fixed=tuple(
            Fixed(
                rules=_rules(each.rules),
                answer=_answer(each.response, 200, space, config_maps),
                always=each.mode == "Always",
            )
            for each in route.static_routes
        ),
        readiness_s=30.0 if fallback is not None and readiness == 0 else readiness,
        request_s=timeouts.request_s if timeouts else None,
        response_header_s=timeouts.response_header_s if timeouts else None,
        max_pending=cold.max_pending if cold else None,
        overflow_placeholder=bool(cold and cold.overflow == "Placeholder"),
    )


def _scaled(scaled: HttpScaledObjectResource, services: Services) -> Intercept:
    rule = RouteRule(hosts=scaled.hosts, paths=scaled.path_prefixes, headers=scaled.headers)
    failover, timeouts = scaled.failover, scaled.timeouts
    waits = timeouts.readiness_s if timeouts else None
    return Intercept(
        namespace=scaled.namespace,
        name=scaled.name,
        rules=_rules((rule,)),
        target=_target(scaled.target, scaled.namespace, services),
        fallback=_target(failover, scaled.namespace, services) if failover else None,
        readiness_s=float(failover.timeout_s) if failover else waits,
        response_header_s=timeouts.response_header_s if timeouts else None,
    )


def _rules(rules: Iterable[RouteRule]) -> tuple[InterceptRule, ...]:
    return tuple(
        InterceptRule(
            host=host.lower(),
            prefix=path,
            headers=tuple((each.name.lower(), each.value) for each in rule.headers),
        )
        for rule in rules
        for host in rule.hosts or ("*",)
        for path in rule.paths or ("/",)
    )


def _target(target: ServiceTarget, namespace: str, services: Services) -> InterceptTarget:
    key = f"{namespace}/{target.service}"
    port = target.port
    if port is None:
        ports = ((services.services.get(key) or {}).get("spec") or {}).get("ports") or ()
        port = next((one.get("port") for one in ports if one.get("name") == target.port_name), None)
        if port is None and key not in services.functions:
            return InterceptTarget(service=key, problem=f"Service {key} has no port named {target.port_name}")
    found = services.find(namespace, target.service, port)
    if isinstance(found, Upstream):
        return InterceptTarget(service=key, endpoints=tuple((one.host, one.port) for one in found.endpoints))
    return InterceptTarget(service=key, function=found.key, problem=found.problem)


def _answer(response: StaticResponse, status: int, namespace: str, config_maps: Mapping[str, Obj]) -> Answer:
    headers = tuple(response.headers.items())
    source = response.body_from
    code = response.status or status
    if source is None:
        return Answer(status=code, body=response.body or "", headers=headers)
    found = config_maps.get(f"{namespace}/{source.name}") or {}
    labels = (found.get("metadata") or {}).get("labels") or {}
    files = {name: str(text) for name, text in (found.get("data") or {}).items()}
    missing = labels.get(RESPONSE_BODY) != "true" or bool(source.key and source.key not in files)
    return Answer(status=code, files=files, key=source.key, missing=missing, headers=headers)


def leading_routes(
    planned: Iterable[Intercept], interceptor: Endpoint
) -> tuple[tuple[StandaloneRoute, ...], tuple[Upstream, ...]]:
    """Return routes of the gateway that lead intercepted requests to the interceptor, and its upstream.

    Args:
        planned: What is to be intercepted.
        interceptor: Where it listens.
    """
    routes = []
    for one in planned:
        hosts: dict[str, list[InterceptRule]] = {}
        for rule in one.rules:
            hosts.setdefault(rule.host, []).append(rule)
        for host, rules in hosts.items():
            matches = tuple(dict.fromkeys(_match(rule) for rule in rules))
            routes.append(
                StandaloneRoute(
                    namespace=one.namespace,
                    # Each host has conditions of its own, so each is a route of its own.
                    name=f"{one.name} ({host})",
                    created=one.created,
                    hosts=tuple((port, (host,)) for port in (EXTERNAL, INTERNAL, HTTPS)),
                    rules=(Rule(matches=matches, backends=(Backend(key=CLUSTER),), timeout_s=0.0),),
                )
            )
    return tuple(routes), ((Upstream(key=CLUSTER, endpoints=(interceptor,)),) if routes else ())


def _match(rule: InterceptRule) -> Match:
    headers = tuple(
        FieldMatch(name=name, value=".*", type="RegularExpression")
        if value is None
        else FieldMatch(name=name, value=value)
        for name, value in rule.headers
    )
    return Match(path=PathMatch(value=rule.prefix), headers=headers)
