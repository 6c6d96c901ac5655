"""Ways between apps: which calls pass the runtime by, and that nothing else does."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.dapr import (
    AccessControl,
    AccessOperation,
    AccessPolicy,
    ApiRule,
    DaprConfiguration,
    HttpEndpoint,
)
from pelton.model.dapr_app import DaprApp, DaprPorts
from pelton.model.dapr_call import CalledApp, CallingApp, CallRules
from pelton.model.desired import Desired, Route, Scaling, Workload
from pelton.model.resiliency import BreakerPolicy, Resiliency, ResiliencyTarget, RetryPolicy
from pelton.model.routing import Endpoint, Rewrite
from pelton.plan.dapr_routing import app_ways, function_apps
from pelton.plan.routing import Request, entries_of
from pelton.targets.local.route_config import RouteTable

NONE = CallRules()
PROGRAM = CalledApp(
    key="Service dapr app default/p",
    app_id="p",
    namespace="default",
    endpoints=(Endpoint(host="127.0.0.1", port=300),),
    fallback="/run/p.sock",
)
CALLER = CallingApp(name="dapr run default/a 100", app_id="a", namespace="default", port=100, inner=102)


def app(name: str, number: int, *, namespace: str = "default", h2c: bool = False, **changes: Any) -> Desired:
    ports = DaprPorts(http=number, grpc=number + 1, inner=number + 2, token=f"token-{name}")
    return Desired(
        workload=Workload(namespace=namespace, name=name, revision=f"{name}-1", bundle="/b"),
        scaling=Scaling(),
        route=Route(namespace=namespace, name=name, h2c=h2c),
        dapr=DaprApp(app_id=f"{name}-app", ports=ports, **changes),
    )


def decided(port: str, ways: Any, path: str, headers: dict[str, str]) -> tuple[str, Any]:
    """Return the cluster that a request at a port goes to, and the rule; "" where the port refuses it."""
    routes, _, ports = ways
    (listens,) = (one for one in ports if one.name == port)
    is_call = path.startswith("/v1.0/invoke/") or "dapr_app_id" in headers
    shown = headers.get("dapr_api_token") == listens.token or "origin" in headers
    if listens.token and is_call and not shown:
        return "", None
    table = RouteTable(listens.table, listed=False)
    for route in routes:
        table.set(f"HTTPRoute {route.key}", entries_of(route, listens.table))
    seen = {name.replace("_", "-"): value for name, value in headers.items()} | dict(listens.headers)
    entry = table.decide(Request(host="127.0.0.1", path=path, method="POST", headers=seen))
    assert entry is not None
    rule = entry.rule
    return seen[rule.backend_header] if rule.backend_header else rule.backends[0].key, rule


def way(
    apps: list[Desired], path: str, *, rules: CallRules = NONE, caller: str = "a", **headers: str
) -> tuple[str, Any]:
    ways = app_ways(*function_apps(apps, rules))
    return decided(f"dapr default/{caller}", ways, path, headers)


def call(path: str, caller: CallingApp = CALLER, called: CalledApp = PROGRAM, **headers: str) -> str:
    """Return where a program's request goes."""
    return decided(caller.name, app_ways([caller], [called]), path, headers)[0]


RUNTIME = "Service dapr default/a"
OF_PROGRAM = f"Service {CALLER.name}"
PAIR = [app("a", 100), app("b", 200)]
CALL = "/v1.0/invoke/b-app/method/x"


@pytest.mark.parametrize("name", ["b-app", "b-app.default"])
def test_app_ways_call_with_the_callers_token_goes_straight_to_the_function(name: str) -> None:
    found, rule = way(PAIR, f"/v1.0/invoke/{name}/method/x/y", dapr_api_token="token-a")

    assert found == "default/b"
    assert dict(rule.request_headers.set)["dapr-callee-app-id"] == "b-app"
    assert {"dapr-api-token", "proxy-authorization"} <= set(rule.request_headers.remove)
    assert "proxy-authenticate" in rule.response_headers.remove


def test_app_ways_call_by_header_goes_straight_and_keeps_its_path() -> None:
    found, rule = way(PAIR, "/x/y", dapr_api_token="token-a", dapr_app_id="b-app")

    assert (found, rule.rewrite) == ("default/b", Rewrite(hostname="localhost"))


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1.0/invoke/b-app/method/x", {}),
        ("/v1.0/invoke/b-app/method/x", {"dapr_api_token": "token-b"}),
        ("/x", {"dapr_api_token": "token-b", "dapr_app_id": "b-app"}),
    ],
)
def test_app_ways_call_without_the_token_is_refused_at_the_port(path: str, headers: dict[str, Any]) -> None:
    assert way(PAIR, path, **headers)[0] == ""


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1.0/invoke/nobody/method/x", {"dapr_api_token": "token-a"}),
        ("/v1.0/invoke/b-app.other/method/x", {"dapr_api_token": "token-a"}),
        ("/v1.0/invoke/b-app/methods", {"dapr_api_token": "token-a"}),
        ("/v1.0/state/s/k", {"dapr_api_token": "token-a", "dapr_app_id": "b-app"}),
        ("/v1.0-alpha1/lock/s", {"dapr_api_token": "token-a", "dapr_app_id": "b-app"}),
        ("/v1.0/state/s/k", {"dapr_api_token": "token-b"}),
        ("/", {}),
    ],
)
def test_app_ways_everything_else_goes_to_the_runtime(path: str, headers: dict[str, Any]) -> None:
    assert way(PAIR, path, **headers)[0] == RUNTIME


def test_app_ways_app_of_another_namespace_needs_its_namespace() -> None:
    apps = [app("a", 100), app("b", 200, namespace="other")]

    assert way(apps, "/v1.0/invoke/b-app/method/x", dapr_api_token="token-a")[0] == RUNTIME
    assert way(apps, "/v1.0/invoke/b-app.other/method/x", dapr_api_token="token-a")[0] == "other/b"


def test_app_ways_ports_are_loopback_and_serve_no_functions() -> None:
    _, upstreams, ports = app_ways(*function_apps(PAIR, NONE))

    assert [(one.name, one.port, one.functions, one.host, one.dapr) for one in ports] == [
        ("dapr default/a", 100, False, "127.0.0.1", True),
        ("dapr default/b", 200, False, "127.0.0.1", True),
    ]
    assert [one.endpoints[0].port for one in upstreams] == [102, 202]


# -- what the runtime judges ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        app("b", 200, protocol="grpc", h2c=True),
        app("b", 200, configuration="missing"),
        app("b", 200, max_concurrency=1),
        app("b", 200, health_path="/healthz"),
    ],
)
def test_app_ways_what_the_runtime_carries_out_goes_to_the_runtime(target: Desired) -> None:
    assert way([app("a", 100), target], CALL, dapr_api_token="token-a")[0] == RUNTIME


POLICY = AccessPolicy(app_id="a-app", default_action="allow")
SOME = AccessPolicy(app_id="a-app", default_action="allow", operations=(AccessOperation(name="/y"),))


@pytest.mark.parametrize(
    ("configuration", "direct"),
    [
        (DaprConfiguration(rest={"tracing": {}}), True),
        (DaprConfiguration(access_control=AccessControl(default_action="deny")), False),
        (DaprConfiguration(access_control=AccessControl(default_action="deny", policies=(POLICY,))), True),
        (DaprConfiguration(access_control=AccessControl(default_action="allow", policies=(SOME,))), False),
    ],
)
def test_app_ways_rules_of_the_called_app_are_the_gateways_where_they_know_no_path(
    configuration: DaprConfiguration, direct: bool
) -> None:
    rules = CallRules(configurations=(replace(configuration, name="rules", namespace="default"),))
    apps = [app("a", 100), app("b", 200, configuration="rules")]

    assert way(apps, CALL, rules=rules, dapr_api_token="token-a")[0] == ("default/b" if direct else RUNTIME)


def test_app_ways_caller_that_may_not_invoke_is_refused_by_the_runtime() -> None:
    denied = DaprConfiguration(name="rules", namespace="default", api_denied=(ApiRule(name="invoke"),))
    apps = [app("a", 100, configuration="rules"), app("b", 200)]

    found = way(apps, CALL, rules=CallRules(configurations=(denied,)), dapr_api_token="token-a")

    assert found[0] == RUNTIME


@pytest.mark.parametrize(
    ("changes", "limit_s"),
    [
        ({"retries": {"DefaultAppRetryPolicy": RetryPolicy()}}, None),
        ({"breakers": {"DefaultAppCircuitBreakerPolicy": BreakerPolicy()}}, None),
        (
            {
                "apps": {"b-app": ResiliencyTarget(timeout="short", retry="r")},
                "retries": {"r": RetryPolicy()},
            },
            None,
        ),
        ({"apps": {"b-app": ResiliencyTarget(timeout="short")}}, 0.5),
        ({"apps": {"c-app": ResiliencyTarget(retry="r")}, "retries": {"r": RetryPolicy()}}, 0.0),
        ({"retries": {"DefaultAppRetryPolicy": RetryPolicy()}, "scopes": ("c-app",)}, 0.0),
    ],
)
def test_app_ways_policies_but_for_a_timeout_are_carried_out_by_the_runtime(
    changes: dict[str, Any], limit_s: float | None
) -> None:
    policies = Resiliency(name="r", namespace="default", timeouts={"short": 0.5}, **changes)

    found, rule = way(PAIR, CALL, rules=CallRules(resiliencies=(policies,)), dapr_api_token="token-a")

    assert found == (RUNTIME if limit_s is None else "default/b")
    if limit_s is not None:
        assert (rule.backend_timeout_s or 0.0) == limit_s


def test_app_ways_policies_of_another_namespace_say_nothing() -> None:
    policies = Resiliency(name="r", namespace="other", retries={"DefaultAppRetryPolicy": RetryPolicy()})

    found, _ = way(PAIR, CALL, rules=CallRules(resiliencies=(policies,)), dapr_api_token="token-a")

    assert found == "default/b"


def test_app_ways_address_outside_goes_before_an_app_of_its_name() -> None:
    outside = HttpEndpoint(name="b-app", namespace="default", base_url="http://example.com")

    found = way(PAIR, CALL, rules=CallRules(endpoints=(outside,)), dapr_api_token="token-a")

    assert found[0] == RUNTIME


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"{CALL}/../y", {}),
        (f"{CALL}/..", {}),
        (f"{CALL}/%2E%2e/y", {}),
        (f"{CALL}/a%2Fy", {}),
        (f"{CALL}//y", {}),
        (CALL, {"origin": "http://page.example"}),
        (CALL, {"tracestate": "a=b,pelton=hops"}),
        (CALL, {"content_length": "4194305"}),
        (CALL, {"content_length": "40000000000"}),
        ("/x/../y", {"dapr_app_id": "b-app"}),
    ],
)
def test_app_ways_requests_that_only_the_runtime_answers_as_dapr_go_there(
    path: str, headers: dict[str, Any]
) -> None:
    assert way(PAIR, path, dapr_api_token="token-a", **headers)[0] == RUNTIME


@pytest.mark.parametrize(
    "path", [f"{CALL}/..y", f"{CALL}/.well-known/a", f"{CALL}/", "/v1.0/invoke/b-app/method"]
)
def test_app_ways_clean_paths_go_straight(path: str) -> None:
    assert way(PAIR, path, dapr_api_token="token-a", content_length="1024")[0] == "default/b"


@given(limit=st.integers(1, 10**12), length=st.integers(1, 10**14))
def test_app_ways_no_body_above_the_limit_passes_the_runtime_by(limit: int, length: int) -> None:
    routes, _, _ = app_ways([replace(CALLER, body_limit_bytes=limit)], [PROGRAM])
    (expression,) = [
        header.value
        for match in routes[0].rules[0].matches
        for header in match.headers
        if header.name == "content-length"
    ]

    if length > limit:
        assert re.fullmatch(expression, str(length))
    if length * 10 < limit:
        assert not re.fullmatch(expression, str(length))


# -- programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p", "p.default"])
def test_app_ways_program_without_a_token_calls_straight(name: str) -> None:
    assert call(f"/v1.0/invoke/{name}/method/x") == PROGRAM.key
    assert call("/x", dapr_app_id=name) == PROGRAM.key


def test_app_ways_program_with_a_token_has_to_show_it() -> None:
    caller = replace(CALLER, token="secret")

    assert call("/v1.0/invoke/p/method/x", caller) == ""
    assert call("/v1.0/invoke/p/method/x", caller, dapr_api_token="secret") == PROGRAM.key


def test_app_ways_program_that_may_not_call_has_no_ways() -> None:
    assert call("/v1.0/invoke/p/method/x", replace(CALLER, direct=False)) == OF_PROGRAM


def test_app_ways_program_is_shown_its_own_token_and_never_the_callers() -> None:
    ways = app_ways([replace(CALLER, token="mine")], [replace(PROGRAM, token="theirs")])
    found, rule = decided(CALLER.name, ways, "/v1.0/invoke/p/method/x", {"dapr_api_token": "mine"})

    assert found == PROGRAM.key
    assert dict(rule.request_headers.set)["dapr-api-token"] == "theirs"


def test_app_ways_program_is_an_upstream_with_the_runtime_behind_it() -> None:
    _, upstreams, ports = app_ways([replace(CALLER, host="0.0.0.0")], [PROGRAM])

    (program, runtime) = upstreams
    assert (program.endpoints, program.fallback) == (PROGRAM.endpoints, "/run/p.sock")
    assert (runtime.endpoints, runtime.fallback) == ((Endpoint(host="127.0.0.1", port=102),), "")
    assert [(one.host, one.port) for one in ports] == [("0.0.0.0", 100)]


def test_app_ways_of_two_apps_with_one_name_the_first_counts() -> None:
    function = CalledApp(key="default/p", app_id="p", namespace="default")
    ways = app_ways([CALLER], [function, PROGRAM])

    assert decided(CALLER.name, ways, "/v1.0/invoke/p/method/x", {})[0] == "default/p"
    assert PROGRAM.key not in {one.key for one in ways[1]}


def test_app_ways_programs_share_a_table_and_each_has_its_own_runtime() -> None:
    other = replace(CALLER, name="dapr run default/c 103", app_id="c", port=103, inner=104)
    with_token = replace(other, name="t", token="x")
    apart = [replace(other, name="n", namespace="other"), replace(other, name="l", body_limit_bytes=10)]
    ways = app_ways([CALLER, other, with_token, *apart], [PROGRAM])

    assert len(ways[0]) == 3
    for one in (CALLER, other, with_token):
        shown = {"dapr_api_token": one.token}
        assert decided(one.name, ways, "/v1.0/invoke/p/method/x", shown)[0] == PROGRAM.key
        assert decided(one.name, ways, "/v1.0/state/s/k", {})[0] == f"Service {one.name}"
        (port,) = (each for each in ways[2] if each.name == one.name)
        assert dict(port.headers)["dapr-caller-app-id"] == one.app_id


def test_app_ways_of_functions_with_one_app_id_the_runtime_knows_which_it_is() -> None:
    twin = replace(app("b", 300), workload=app("c", 300).workload, route=app("c", 300).route)
    apps = [*PAIR, twin]

    assert way(apps, CALL, dapr_api_token="token-a")[0] == RUNTIME
    found = way(apps, "/v1.0/invoke/a-app/method/x", caller="b", dapr_api_token="token-b")
    assert found[0] == "Service dapr default/b"


def test_app_ways_policies_that_hold_for_some_apps_part_the_tables() -> None:
    policies = Resiliency(
        name="r", namespace="default", retries={"DefaultAppRetryPolicy": RetryPolicy()}, scopes=("a", "c")
    )
    callers = [
        replace(CALLER, name=name, app_id=name, rules=CallRules(resiliencies=(policies,))) for name in "abc"
    ]
    ways = app_ways(callers, [PROGRAM])

    assert len(ways[0]) == 2
    found = {name: decided(name, ways, "/v1.0/invoke/p/method/x", {})[0] for name in "abc"}
    assert found == {"a": "Service a", "b": PROGRAM.key, "c": "Service c"}


def test_app_ways_access_of_those_who_share_a_table_is_judged_for_each() -> None:
    other = replace(CALLER, name="dapr run default/c 103", app_id="c", port=103, inner=104)
    access = AccessControl(
        default_action="deny", policies=(AccessPolicy(app_id="a", default_action="allow"),)
    )
    ways = app_ways([CALLER, other], [replace(PROGRAM, access=access)])
    path, forged = "/v1.0/invoke/p/method/x", {"dapr-caller-app-id": "a"}

    assert decided(CALLER.name, ways, path, {})[0] == PROGRAM.key
    assert decided(other.name, ways, path, forged)[0] == f"Service {other.name}"
