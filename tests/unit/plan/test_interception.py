"""What becomes of InterceptorRoutes and HTTPScaledObjects."""

import pytest

from pelton.manifest.keda_http import HTTP_SCALED_OBJECT, INTERCEPTOR_ROUTE
from pelton.model.interception import Answer, InterceptRule, InterceptTarget
from pelton.model.routing import Endpoint
from pelton.plan.interception import CLUSTER, Written, intercepts, leading_routes
from pelton.plan.upstreams import Services

SERVICE = {
    "metadata": {"namespace": "n", "name": "shop"},
    "spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]},
}
SLICE = {
    "metadata": {"namespace": "n", "name": "shop-1", "labels": {"kubernetes.io/service-name": "shop"}},
    "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 8081}],
    "endpoints": [
        {"addresses": ["10.0.0.2"]},
        {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": False}},
    ],
}
SERVICES = Services.read([SERVICE], [SLICE], ["n/hello"])


def route(name="r", **spec):
    spec = {
        "target": {"service": "shop", "port": 80},
        "scalingMetric": {"concurrency": {"targetValue": 1}},
        **spec,
    }
    obj = {
        "apiVersion": "http.keda.sh/v1beta1",
        "kind": "InterceptorRoute",
        "metadata": {"name": name, "namespace": "n"},
        "spec": spec,
    }
    return Written(resource=INTERCEPTOR_ROUTE.decode(INTERCEPTOR_ROUTE.default(obj))[0], created="2026-01-01")


def scaled(name="r", **spec):
    obj = {
        "apiVersion": "http.keda.sh/v1alpha1",
        "kind": "HTTPScaledObject",
        "metadata": {"name": name, "namespace": "n"},
        "spec": {"scaleTargetRef": {"service": "shop", "port": 80}, **spec},
    }
    return Written(resource=HTTP_SCALED_OBJECT.decode(HTTP_SCALED_OBJECT.default(obj))[0])


def one(written, maps=()):
    (found,) = intercepts([written], SERVICES, dict(maps))
    return found


def test_target_has_the_ready_endpoints_of_its_port():
    assert one(route()).target == InterceptTarget(
        service="n/shop", endpoints=(("10.0.0.1", 8080), ("10.0.0.2", 8080))
    )
    by_name = one(route(target={"service": "shop", "portName": "admin"})).target
    assert by_name.endpoints == (("10.0.0.1", 8081), ("10.0.0.2", 8081))


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ({"service": "none", "port": 80}, "there is no Service n/none"),
        ({"service": "shop", "port": 8}, "Service n/shop has no port 8"),
        ({"service": "shop", "portName": "x"}, "Service n/shop has no port named x"),
    ],
)
def test_target_that_is_not_there_says_why(target, problem):
    assert one(route(target=target)).target.problem == problem


def test_target_that_is_a_function_is_that_function():
    found = one(route(target={"service": "hello", "portName": "http"})).target

    assert (found.function, found.problem, found.endpoints) == ("n/hello", "", ())


def test_rules_are_one_per_host_and_path_with_all_headers():
    rules = [{"hosts": ["A.test", "*.b"], "paths": [{"value": "/x"}], "headers": [{"name": "X-A"}]}, {}]

    assert one(route(rules=rules)).rules == (
        InterceptRule(host="a.test", prefix="/x", headers=(("x-a", None),)),
        InterceptRule(host="*.b", prefix="/x", headers=(("x-a", None),)),
        InterceptRule(),
    )
    assert one(route()).rules == (InterceptRule(),)


def test_readiness_zero_with_a_fallback_counts_as_thirty_seconds():
    fallback = {"fallback": {"service": {"name": "shop", "port": 81}}}

    assert one(route(timeouts={"readiness": "0s"}, coldStart=fallback)).readiness_s == 30.0
    assert one(route(timeouts={"readiness": "0s"})).readiness_s == 0.0
    assert one(route()).readiness_s is None


def test_answers_have_the_status_of_their_place_unless_they_say_another():
    cold = {"placeholder": {"response": {"body": "soon"}}}
    static = [{"rules": [{}], "response": {"body": "a"}}, {"rules": [{}], "response": {"statusCode": 204}}]

    found = one(route(coldStart=cold, staticRoutes=static))

    assert found.placeholder == Answer(status=503, body="soon")
    assert [fixed.answer.status for fixed in found.fixed] == [200, 204]


@pytest.mark.parametrize(
    ("labels", "key", "missing"),
    [
        ({"http.keda.sh/response-body": "true"}, "a.html", False),
        ({"http.keda.sh/response-body": "true"}, "", False),
        ({"http.keda.sh/response-body": "true"}, "b.html", True),
        ({}, "a.html", True),
    ],
)
def test_body_from_a_config_map_needs_its_label_and_a_named_key(labels, key, missing):
    config_map = {
        "metadata": {"name": "pages", "namespace": "n", "labels": labels},
        "data": {"a.html": "<p>"},
    }
    source = {"name": "pages", **({"key": key} if key else {})}
    cold = {"placeholder": {"response": {"bodyFromConfigMap": source}}}

    answer = one(route(coldStart=cold), {"n/pages": config_map}).placeholder

    assert (answer.files, answer.key, answer.missing) == ({"a.html": "<p>"}, key, missing)


def test_scaled_object_gives_way_to_a_route_of_its_name():
    found = intercepts([scaled(hosts=["old.test"]), route(rules=[{"hosts": ["new.test"]}])], SERVICES, {})

    assert [each.rules[0].host for each in found] == ["new.test"]


def test_scaled_object_waits_as_long_as_its_failover_says():
    failover = {"service": "shop", "port": 81, "timeoutSeconds": 5}

    found = one(scaled(coldStartTimeoutFailoverRef=failover, timeouts={"conditionWait": "9s"}))

    assert found.readiness_s == 5.0
    assert found.fallback is not None
    assert one(scaled(timeouts={"conditionWait": "9s"})).readiness_s == 9.0


def test_routes_lead_each_host_to_the_interceptor():
    planned = intercepts(
        [
            route(
                rules=[
                    {"hosts": ["a.test", "b.test"], "headers": [{"name": "X", "value": "1"}, {"name": "Y"}]}
                ]
            )
        ],
        SERVICES,
        {},
    )

    routes, upstreams = leading_routes(planned, Endpoint(host="127.0.0.1", port=1))

    assert [one.hosts[0] for one in routes] == [("external", ("a.test",)), ("external", ("b.test",))]
    assert {backend.key for one in routes for rule in one.rules for backend in rule.backends} == {CLUSTER}
    headers = routes[0].rules[0].matches[0].headers
    assert [(item.name, item.value, item.type) for item in headers] == [
        ("x", "1", "Exact"),
        ("y", ".*", "RegularExpression"),
    ]
    assert [one.key for one in upstreams] == [CLUSTER]
    assert leading_routes((), Endpoint(host="127.0.0.1", port=1)) == ((), ())
