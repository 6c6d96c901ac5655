"""Ways between apps: which calls pass the runtime by, and that nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from pelton.model.dapr_app import DaprApp, DaprPorts
from pelton.model.desired import Desired, Route, Scaling, Workload
from pelton.plan.dapr_routing import app_ways
from pelton.plan.routing import Request, entries_of
from pelton.targets.local.route_config import RouteTable

NONE: frozenset[str] = frozenset()


def app(name: str, number: int, *, namespace: str = "default", h2c: bool = False, **changes: Any) -> Desired:
    ports = DaprPorts(http=number, grpc=number + 1, inner=number + 2, token=f"token-{name}")
    return Desired(
        workload=Workload(namespace=namespace, name=name, revision=f"{name}-1", bundle="/b"),
        scaling=Scaling(),
        route=Route(namespace=namespace, name=name, h2c=h2c),
        dapr=DaprApp(app_id=f"{name}-app", ports=ports, **changes),
    )


def way(
    apps: list[Desired], path: str, *, held: frozenset[str] = NONE, caller: str = "a", **headers: str
) -> tuple[str, Any]:
    """Return the cluster that a request at the caller's port goes to, and the rule."""
    routes, _, _ = app_ways(apps, held=held)
    port = f"dapr default/{caller}"
    table = RouteTable(port, listed=False)
    for route in routes:
        table.set(f"HTTPRoute {route.key}", entries_of(route, port))
    request = Request(
        host="127.0.0.1", path=path, method="POST",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )  # fmt: skip
    entry = table.decide(request)
    assert entry is not None
    return entry.rule.backends[0].key, entry.rule


RUNTIME = "Service dapr default/a"
PAIR = [app("a", 100), app("b", 200)]


@pytest.mark.parametrize("name", ["b-app", "b-app.default"])
def test_app_ways_call_with_the_callers_token_goes_straight_to_the_function(name: str) -> None:
    found, rule = way(PAIR, f"/v1.0/invoke/{name}/method/x/y", dapr_api_token="token-a")

    assert found == "default/b"
    assert dict(rule.request_headers.set)["dapr-caller-app-id"] == "a-app"
    assert "dapr-api-token" in rule.request_headers.remove


def test_app_ways_call_by_header_goes_straight_and_keeps_its_path() -> None:
    found, rule = way(PAIR, "/x/y", dapr_api_token="token-a", dapr_app_id="b-app")

    assert (found, rule.rewrite) == ("default/b", None)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1.0/invoke/b-app/method/x", {}),
        ("/v1.0/invoke/b-app/method/x", {"dapr_api_token": "token-b"}),
        ("/v1.0/invoke/nobody/method/x", {"dapr_api_token": "token-a"}),
        ("/v1.0/invoke/b-app.other/method/x", {"dapr_api_token": "token-a"}),
        ("/v1.0/invoke/b-app/methods", {"dapr_api_token": "token-a"}),
        ("/v1.0/state/s/k", {"dapr_api_token": "token-a", "dapr_app_id": "b-app"}),
        ("/v1.0-alpha1/lock/s", {"dapr_api_token": "token-a", "dapr_app_id": "b-app"}),
        ("/x", {"dapr_api_token": "token-b", "dapr_app_id": "b-app"}),
        ("/", {}),
    ],
)
def test_app_ways_everything_else_goes_to_the_runtime(path: str, headers: dict[str, Any]) -> None:
    assert way(PAIR, path, **headers)[0] == RUNTIME


@pytest.mark.parametrize(
    "target",
    [
        app("b", 200, protocol="grpc", h2c=True),
        app("b", 200, configuration="strict"),
        app("b", 200, max_concurrency=1),
        app("b", 200, health_path="/healthz"),
    ],
)
def test_app_ways_what_the_runtime_judges_goes_to_the_runtime(target: Desired) -> None:
    apps = [app("a", 100), target]

    assert way(apps, "/v1.0/invoke/b-app/method/x", dapr_api_token="token-a")[0] == RUNTIME


def test_app_ways_namespace_with_policies_is_held() -> None:
    held = frozenset({"default"})

    assert way(PAIR, "/v1.0/invoke/b-app/method/x", held=held, dapr_api_token="token-a")[0] == RUNTIME


def test_app_ways_app_of_another_namespace_needs_its_namespace() -> None:
    apps = [app("a", 100), app("b", 200, namespace="other")]

    assert way(apps, "/v1.0/invoke/b-app/method/x", dapr_api_token="token-a")[0] == RUNTIME
    assert way(apps, "/v1.0/invoke/b-app.other/method/x", dapr_api_token="token-a")[0] == "other/b"


def test_app_ways_ports_are_loopback_and_serve_no_functions() -> None:
    _, upstreams, ports = app_ways(PAIR, held=NONE)

    assert [(one.name, one.port, one.functions, one.host) for one in ports] == [
        ("dapr default/a", 100, False, "127.0.0.1"),
        ("dapr default/b", 200, False, "127.0.0.1"),
    ]
    assert [one.endpoints[0].port for one in upstreams] == [102, 202]
