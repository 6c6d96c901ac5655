"""Which ways the gateway has between apps of Dapr, so that their calls over HTTP pass no Python. Pure.

The HTTP port of each app is a port of the gateway. A call of another app that shows the caller's token goes
straight to that app's function; everything else, a wrong token included, goes to the runtime. So do calls
that the runtime has to judge or to carry out: of apps that speak gRPC, have a Configuration, a limit of calls
or probes, and all calls where a Resiliency may say something. Used by `cli/node_dapr.py`.
Source: contracts, Dapr runtime, section 6, and Dapr HTTP, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pelton.model.desired import Desired
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

__all__ = ["app_ways"]

_VERSIONS: Final = ("/v1.0", "/v1.0-alpha1", "/v1.0-alpha2", "/v1.0-beta1")
_LOOPBACK: Final = "127.0.0.1"


def app_ways(
    apps: Iterable[Desired], *, held: frozenset[str]
) -> tuple[tuple[StandaloneRoute, ...], tuple[Upstream, ...], tuple[Port, ...]]:
    """Return routes, upstreams and ports of all apps.

    Args:
        apps: Functions that are apps.
        held: Namespaces whose calls all go through the runtime.
    """
    found = sorted((one for one in apps if one.dapr is not None), key=lambda one: one.workload.key)
    targets = [one for one in found if _direct(one) and one.workload.namespace not in held]
    routes, upstreams, ports = [], [], []
    for caller in found:
        app = caller.dapr
        if app is None or not app.ports.inner:
            continue
        namespace, key = caller.workload.namespace, caller.workload.key
        name = f"dapr {key}"
        runtime = Upstream(key=f"Service {name}", endpoints=(Endpoint(host=_LOOPBACK, port=app.ports.inner),))
        rules = [
            Rule(
                matches=tuple(Match(path=PathMatch(value=path)) for path in ("/", *_VERSIONS)),
                backends=(Backend(key=runtime.key),),
                timeout_s=0.0,
                backend_timeout_s=0.0,
            )
        ]
        if namespace not in held:
            for target in targets:
                rules += _calls(caller, target)
        upstreams.append(runtime)
        ports.append(Port(name=name, port=app.ports.http, functions=False, host=_LOOPBACK))
        routes.append(
            StandaloneRoute(namespace=namespace, name=name, hosts=((name, ("*",)),), rules=tuple(rules))
        )
    return tuple(routes), tuple(upstreams), tuple(ports)


def _direct(target: Desired) -> bool:
    """Tell whether calls of an app need nothing of the runtime."""
    app, route = target.dapr, target.route
    if app is None or route is None or route.h2c or app.protocol == "grpc":
        return False
    return not app.configuration and app.max_concurrency <= 0 and not app.health_path


def _calls(caller: Desired, target: Desired) -> list[Rule]:
    """Return how one app calls another: by the path, and by the header `dapr-app-id`."""
    one, other = caller.dapr, target.dapr
    if one is None or other is None:
        return []
    mine, theirs = caller.workload.namespace, target.workload.namespace
    ids = [f"{other.app_id}.{theirs}", *([other.app_id] if mine == theirs else [])]
    token = FieldMatch(name="dapr-api-token", value=one.ports.token)
    told = HeaderChanges(
        set=(
            ("dapr-caller-app-id", one.app_id),
            ("dapr-caller-namespace", mine),
            ("dapr-callee-app-id", other.app_id),
            ("destination-app-id", other.app_id),
        ),
        remove=("dapr-api-token", "dapr-app-id"),
    )
    backends = (Backend(key=target.workload.key),)
    return [
        Rule(
            matches=tuple(
                Match(path=PathMatch(value=f"/v1.0/invoke/{name}/method"), headers=(token,)) for name in ids
            ),
            backends=backends,
            request_headers=told,
            rewrite=Rewrite(path=PathChange(type="ReplacePrefixMatch", value="/")),
            timeout_s=0.0,
        ),
        Rule(
            matches=tuple(Match(headers=(FieldMatch(name="dapr-app-id", value=name), token)) for name in ids),
            backends=backends,
            request_headers=told,
            timeout_s=0.0,
        ),
    ]
