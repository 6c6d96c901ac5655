"""Which ways the gateway has between apps of Dapr, so that their calls over HTTP pass no Python. Pure.

The HTTP port of each app is a port of the gateway, which refuses calls of other apps without the caller's
token. Such a call goes straight to the other app; everything else goes to the runtime. So do calls that the
runtime has to judge or to carry out: to apps that speak gRPC, have a limit of calls or probes, or access
rules about paths; under retries or a circuit breaker; and requests that only it answers as Dapr does
(`_special`). Used by `cli/node_dapr.py`.
Source: contracts, Dapr runtime, sections 6 and 8, and Dapr HTTP, sections 1 and 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Final

from pelton.model.dapr import DaprConfiguration
from pelton.model.dapr_call import CalledApp, CallingApp, CallRules
from pelton.model.desired import Desired
from pelton.model.resiliency import Resiliency
from pelton.model.routing import (
    Backend,
    Endpoint,
    FieldMatch,
    HeaderChanges,
    Match,
    PathChange,
    PathMatch,
    Port,
    Rewrite,
    Rule,
    StandaloneRoute,
    Upstream,
)
from pelton.plan.dapr_access import allows_all
from pelton.plan.resiliency import Policies

__all__ = ["app_ways", "function_apps"]

_VERSIONS: Final = ("/v1.0", "/v1.0-alpha1", "/v1.0-alpha2", "/v1.0-beta1")
_LOOPBACK: Final = "127.0.0.1"
_HOST: Final = "localhost"
"""The host that apps see, as from the runtime."""
_CALLEE: Final = "dapr-callee-app-id"
_RUNTIME: Final = "x-pelton-runtime"
"""Header by which a port says which cluster is the runtime's port for its app; nobody behind it sees it."""
_HOP_BY_HOP: Final = ("http2-settings", "proxy-authenticate", "proxy-authorization")
"""Headers of one connection that Envoy would pass on."""
_UNCLEAN: Final = r".*(?://|/\.\.?/|%2[eEfF]).*|.*/\.\.?"
"""Paths whose segments the runtime puts in order before it passes a call on."""


def function_apps(
    functions: Iterable[Desired], rules: CallRules
) -> tuple[tuple[CallingApp, ...], tuple[CalledApp, ...]]:
    """Return the Functions that are apps, as those who call and as those who can be called past the runtime.

    Args:
        functions: Those that are no apps are left out.
        rules: Resources of all namespaces.
    """
    callers, called = [], []
    configurations = {(one.namespace, one.name): one for one in rules.configurations}
    functions = list(functions)
    # Of several with one app id the runtime serves one, and knows which.
    holders = Counter((one.workload.namespace, one.dapr.app_id) for one in functions if one.dapr is not None)
    for function in functions:
        app, route, key = function.dapr, function.route, function.workload.key
        if app is None:
            continue
        namespace = function.workload.namespace
        alone = holders[namespace, app.app_id] == 1
        # Without the Configuration that it names an app is not served, and nobody may call it.
        configuration = (
            configurations.get((namespace, app.configuration)) if app.configuration else DaprConfiguration()
        )
        if app.ports.inner:
            callers.append(
                CallingApp(
                    name=f"dapr {key}",
                    app_id=app.app_id,
                    namespace=namespace,
                    port=app.ports.http,
                    inner=app.ports.inner,
                    token=app.ports.token,
                    body_limit_bytes=app.body_limit_bytes,
                    direct=alone and configuration is not None and configuration.serves("invoke", "http"),
                    rules=rules.of_calls(namespace),
                )
            )
        if not alone or configuration is None or app.max_concurrency > 0 or app.health_path:
            continue
        if route is None or route.h2c or app.protocol == "grpc":
            continue
        access = configuration.access_control
        called.append(CalledApp(key=key, app_id=app.app_id, namespace=namespace, access=access))
    return tuple(callers), tuple(called)


def app_ways(
    callers: Iterable[CallingApp], called: Iterable[CalledApp]
) -> tuple[tuple[StandaloneRoute, ...], tuple[Upstream, ...], tuple[Port, ...]]:
    """Return routes, upstreams and ports of all apps.

    Args:
        callers: Who gets a port.
        called: Who can be called; of two with the same name the first one counts.
    """
    targets = {(one.namespace, one.app_id): one for one in reversed(list(called))}
    ordered = [one for _, one in sorted(targets.items())]
    upstreams = [
        Upstream(key=one.key, endpoints=one.endpoints, fallback=one.fallback)
        for one in ordered
        if one.endpoints
    ]
    ports: list[Port] = []
    tables: dict[str, list[CallingApp]] = {}
    for caller in sorted(callers, key=lambda one: one.name):
        runtime = Upstream(
            key=f"Service {caller.name}", endpoints=(Endpoint(host=_LOOPBACK, port=caller.inner),)
        )
        upstreams.append(runtime)
        tables.setdefault(_table(caller), []).append(caller)
        ports.append(
            Port(
                name=caller.name,
                port=caller.port,
                functions=False,
                host=caller.host,
                dapr=True,
                table=_table(caller),
                token=caller.token,
                headers=(
                    (_RUNTIME, runtime.key),
                    ("dapr-caller-app-id", caller.app_id),
                    ("dapr-caller-namespace", caller.namespace),
                ),
            )
        )
    routes = tuple(
        StandaloneRoute(
            namespace=sharing[0].namespace,
            name=table,
            hosts=((table, ("*",)),),
            rules=tuple(_rules(sharing, ordered)),
        )
        for table, sharing in tables.items()
    )
    return routes, tuple(upstreams), tuple(ports)


def _table(caller: CallingApp) -> str:
    """Return the name of an app's route table, which it has in common with all that have the same ways.

    Tables of their own would grow with the square of the number of apps. What a request has to tell of its
    caller it has from the port, which sees to the token as well.
    """
    name = f"dapr calls of {caller.namespace}"
    if not caller.direct:
        return f"{name} by the runtime"
    held = (_policies_of(caller), _outside(caller))
    rules = f" by {blake2b(repr(held).encode(), digest_size=8).hexdigest()}" if any(held) else ""
    return f"{name} up to {caller.body_limit_bytes} bytes{rules}"


def _policies_of(caller: CallingApp) -> tuple[Resiliency, ...]:
    """Return what holds for an app; the same for all of which the same holds."""
    held = (one for one in caller.rules.resiliencies if not one.scopes or caller.app_id in one.scopes)
    return tuple(replace(one, scopes=()) for one in held)


def _outside(caller: CallingApp) -> tuple[str, ...]:
    """Return names that are addresses outside before they are apps."""
    return tuple(sorted({endpoint.name for endpoint in caller.rules.endpoints}))


def _rules(sharing: Sequence[CallingApp], targets: Sequence[CalledApp]) -> list[Rule]:
    """Return what happens at the ports of apps that share a table, the ways to the runtime first."""
    ways: list[Rule] = []
    one = sharing[0]
    if one.direct:
        policies, outside = Policies(_policies_of(one), one.app_id), _outside(one)
        for target in targets:
            policy = policies.app(target.app_id)
            if policy.retry is not None or policy.breaker is not None:
                continue
            ways += _calls(sharing, target, timeout_s=policy.timeout_s, outside=outside)
    matches = [Match(path=PathMatch(value=path)) for path in ("/", *_VERSIONS)]
    to_runtime = Rule(
        matches=(*matches, *(_special(one) if ways else ())),
        backend_header=_RUNTIME,
        request_headers=HeaderChanges(remove=(_CALLEE, _RUNTIME)),
        timeout_s=0.0,
        backend_timeout_s=0.0,
    )
    return [to_runtime, *ways]


def _special(caller: CallingApp) -> list[Match]:
    """Return which requests go to the runtime though they could be calls of another app.

    Paths that are to be put in order, bodies that are too long, requests of browsers, which are answered by
    the rules of CORS, and calls of which `pelton trace` wants to see every hop.
    """
    every = PathMatch(type="RegularExpression", value="/.*")
    headers = [("origin", ".*"), ("tracestate", ".*pelton=hops.*")]
    if caller.body_limit_bytes > 0:
        headers.append(("content-length", _long(caller.body_limit_bytes)))
    return [
        Match(path=PathMatch(type="RegularExpression", value=_UNCLEAN)),
        *(
            Match(path=every, headers=(FieldMatch(name=name, value=value, type="RegularExpression"),))
            for name, value in headers
        ),
    ]


def _long(limit: int) -> str:
    """Return an expression for all decimal numbers above a limit, and for some below, which do no harm."""
    first, rest = str(limit)[0], len(str(limit)) - 1
    return f"[{first}-9][0-9]{{{rest}}}|[1-9][0-9]{{{rest + 1},}}"


def _calls(
    sharing: Sequence[CallingApp], target: CalledApp, *, timeout_s: float | None, outside: Sequence[str]
) -> list[Rule]:
    """Return how apps call another one: by the path, and by the header `dapr-app-id`."""
    mine, theirs = sharing[0].namespace, target.namespace
    names = [f"{target.app_id}.{theirs}", *([target.app_id] if mine == theirs else [])]
    names = [name for name in names if name not in outside]
    conditions: list[tuple[FieldMatch, ...]] = [()]
    if target.access is not None:
        conditions = [
            (FieldMatch(name="dapr-caller-app-id", value=app_id),)
            for app_id in sorted({caller.app_id for caller in sharing})
            if allows_all(target.access, caller=app_id, namespace=mine)
        ]
    if not names or not conditions:
        return []
    told = HeaderChanges(
        set=(
            (_CALLEE, target.app_id),
            ("destination-app-id", target.app_id),
            *((("dapr-api-token", target.token),) if target.token else ()),
        ),
        remove=("dapr-app-id", _RUNTIME, *_HOP_BY_HOP, *(() if target.token else ("dapr-api-token",))),
    )
    common = Rule(
        backends=(Backend(key=target.key),),
        request_headers=told,
        response_headers=HeaderChanges(remove=_HOP_BY_HOP),
        timeout_s=0.0,
        backend_timeout_s=timeout_s,
        forwarded=True,
    )
    paths = {name: PathMatch(value=f"/v1.0/invoke/{name}/method") for name in names}
    return [
        replace(
            common,
            matches=tuple(
                Match(path=paths[name], headers=headers) for name in names for headers in conditions
            ),
            rewrite=Rewrite(hostname=_HOST, path=PathChange(type="ReplacePrefixMatch", value="/")),
        ),
        replace(
            common,
            matches=tuple(
                Match(headers=(FieldMatch(name="dapr-app-id", value=name), *headers))
                for name in names
                for headers in conditions
            ),
            rewrite=Rewrite(hostname=_HOST),
        ),
    ]
