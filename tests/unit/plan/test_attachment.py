"""Where HTTPRoutes attach, what their references are, and the conditions of section 9 of the contract."""

import random
from typing import Any

import pytest

from pelton.manifest.gateway_api import GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, REFERENCE_GRANT
from pelton.model.routing import EXTERNAL, INTERNAL, Endpoint
from pelton.plan.attachment import CONTROLLER, HTTPS, Attached, Pair, Seen, Sources, attach
from pelton.plan.upstreams import Services


def obj(kind: str, name: str, spec: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def gateway(
    name: str = "gw", *listeners: dict[str, Any], created: str = "", cls: str = "pelton"
) -> Seen[Any]:
    listed = listeners or ({"name": "http", "port": 80, "protocol": "HTTP"},)
    spec = {"gatewayClassName": cls, "listeners": list(listed)}
    model, _ = GATEWAY.decode(GATEWAY.default(obj("Gateway", name, spec)))
    return Seen(resource=model, generation=3, created=created)


def route(
    name: str = "web", *rules: dict[str, Any], namespace: str = "default", created: str = "", **spec: Any
) -> Seen[Any]:
    spec = {"parentRefs": [{"name": "gw"}], "rules": list(rules) or [{"backendRefs": [to("web")]}], **spec}
    model, _ = HTTP_ROUTE.decode(HTTP_ROUTE.default(obj("HTTPRoute", name, spec, namespace)))
    return Seen(resource=model, generation=7, created=created)


def to(name: str, port: int = 80, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, **more}


def service(name: str, namespace: str = "default", **port: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"port": 80, "targetPort": 8080, **port}]},
    }


def endpoints(name: str, *addresses: str, port: int = 8080, ready: bool | None = None) -> dict[str, Any]:
    conditions = {} if ready is None else {"ready": ready}
    return {
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": port}],
        "endpoints": [{"addresses": [one], "conditions": conditions} for one in addresses],
    }


SERVICES = Services.read([service("web")], [endpoints("web", "10.0.0.1")], ["default/hello"])


def run(*routes: Seen[Any], gateways: tuple[Seen[Any], ...] | None = None, **more: Any) -> Attached:
    values = {"services": SERVICES, **more}
    return attach(Sources(gateways=gateways or (gateway(),), routes=routes, **values))


def conditions(found: Attached, name: str = "default/web", parent: int = 0) -> dict[str, tuple[str, str]]:
    listed = found.routes[name]["parents"][parent]["conditions"]
    return {one["type"]: (one["status"], one["reason"]) for one in listed}


def test_route_attaches_and_says_so_with_its_generation():
    found = run(route())

    (parent,) = found.routes["default/web"]["parents"]
    assert parent["controllerName"] == CONTROLLER
    assert parent["parentRef"] == {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}
    assert [(c["type"], c["status"], c["observedGeneration"]) for c in parent["conditions"]] == [
        ("Accepted", "True", 7),
        ("ResolvedRefs", "True", 7),
    ]
    (standalone,) = found.state.routes
    assert standalone.hosts == ((EXTERNAL, ("*",)),)
    assert found.gateways["default/gw"]["listeners"][0]["attachedRoutes"] == 1
    (upstream,) = found.state.upstreams
    assert (upstream.key, upstream.endpoints) == (
        "Service default/web:80",
        (Endpoint(host="10.0.0.1", port=8080),),
    )


@pytest.mark.parametrize(
    ("spec", "listener", "reason"),
    [
        ({"parentRefs": [{"name": "absent"}]}, {}, "NoMatchingParent"),
        ({"parentRefs": [{"name": "gw", "sectionName": "absent"}]}, {}, "NoMatchingParent"),
        ({"parentRefs": [{"name": "gw", "port": 81}]}, {}, "NoMatchingParent"),
        ({"hostnames": ["a.org"]}, {"hostname": "*.example.com"}, "NoMatchingListenerHostname"),
        ({"hostnames": ["example.com"]}, {"hostname": "*.example.com"}, "NoMatchingListenerHostname"),
        ({}, {"allowedRoutes": {"namespaces": {"from": "None"}}}, "NotAllowedByListeners"),
        ({}, {"allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}}, "NotAllowedByListeners"),
    ],
)
def test_route_that_does_not_attach_says_why(spec, listener, reason):
    found = run(
        route(**spec),
        gateways=(gateway("gw", {"name": "http", "port": 80, "protocol": "HTTP", **listener}),),
    )

    assert conditions(found)["Accepted"] == ("False", reason)
    assert found.state.routes == ()


@pytest.mark.parametrize(
    ("allowed", "accepted"),
    [
        ({"from": "Same"}, False),
        ({"from": "All"}, True),
        ({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}, True),
        ({"from": "Selector", "selector": {"matchLabels": {"team": "b"}}}, False),
        (
            {
                "from": "Selector",
                "selector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "c"]}]},
            },
            True,
        ),
        (
            {
                "from": "Selector",
                "selector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}},
            },
            True,
        ),
    ],
)
def test_namespaces_are_allowed_by_name_or_label(allowed, accepted):
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": allowed}}
    found = run(
        route(namespace="other", parentRefs=[{"name": "gw", "namespace": "default"}]),
        gateways=(gateway("gw", listener),),
        namespaces={"other": {"team": "a"}},
    )

    assert conditions(found, "other/web")["Accepted"][0] == str(accepted)


def test_hostnames_are_the_intersection_with_each_listener():
    found = run(
        route(hostnames=["*.example.com", "a.org", "b.org"]),
        gateways=(
            gateway(
                "gw",
                {"name": "one", "port": 80, "protocol": "HTTP", "hostname": "foo.example.com"},
                {"name": "two", "port": 9090, "protocol": "HTTP", "hostname": "*.org"},
            ),
        ),
    )

    (standalone,) = found.state.routes
    assert standalone.hosts == ((EXTERNAL, ("foo.example.com",)), ("port-9090", ("a.org", "b.org")))
    assert [(port.name, port.port) for port in found.state.ports] == [("port-9090", 9090)]


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (to("absent"), "BackendNotFound"),
        (to("web", 81), "BackendNotFound"),
        ({"kind": "Bucket", "group": "x.io", "name": "web"}, "InvalidKind"),
        (to("web", namespace="other"), "RefNotPermitted"),
    ],
)
def test_reference_that_leads_nowhere_keeps_its_share_as_an_error(backend, reason):
    found = run(route("web", {"backendRefs": [to("web", weight=3), {**backend, "weight": 1}]}))

    assert conditions(found)["Accepted"] == ("True", "Accepted")
    assert conditions(found)["ResolvedRefs"] == ("False", reason)
    good, bad = found.state.routes[0].rules[0].backends
    assert (good.key, good.weight, good.problem) == ("Service default/web:80", 3, "")
    assert (bad.weight, bad.problem.partition(":")[0]) == (1, reason)


def test_unsupported_protocol_is_named():
    services = Services.read([service("web", appProtocol="kubernetes.io/wss")], [], [])

    assert conditions(run(route(), services=services))["ResolvedRefs"] == ("False", "UnsupportedProtocol")


@pytest.mark.parametrize(("name", "permitted"), [("", True), ("web", True), ("another", False)])
def test_reference_grant_permits_what_it_names(name, permitted):
    target = {"group": "", "kind": "Service", **({"name": name} if name else {})}
    source = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "default"}
    grant, _ = REFERENCE_GRANT.decode(obj("ReferenceGrant", "g", {"from": [source], "to": [target]}, "other"))
    found = run(
        route("web", {"backendRefs": [to("web", namespace="other")]}),
        grants=[grant],
        services=Services.read([service("web", "other")], [], []),
    )

    assert conditions(found)["ResolvedRefs"][0] == str(permitted)


def test_backend_that_is_a_function_goes_to_its_cluster_unless_a_user_made_the_service():
    own = service("hello")
    kept = {
        **own,
        "metadata": {**own["metadata"], "ownerReferences": [{"kind": "Function", "name": "hello"}]},
    }
    asks = route("web", {"backendRefs": [to("hello")]})

    keys = [
        run(asks, services=Services.read(services, [], ["default/hello"]))
        .state.routes[0]
        .rules[0]
        .backends[0]
        .key
        for services in ([], [kept], [own])
    ]

    assert keys == ["default/hello", "default/hello", "Service default/hello:80"]


@pytest.mark.parametrize(
    ("slices", "wanted"),
    [
        ([endpoints("web", "10.0.0.2", "10.0.0.1")], ["10.0.0.1", "10.0.0.2"]),
        ([endpoints("web", "10.0.0.1", ready=False)], []),
        ([endpoints("web", "10.0.0.1", ready=True), endpoints("web", "10.0.0.1")], ["10.0.0.1"]),
        ([endpoints("other", "10.0.0.1")], []),
        ([], []),
    ],
)
def test_endpoints_are_the_ready_ones_of_all_slices(slices, wanted):
    found = run(route(), services=Services.read([service("web")], slices, []))

    assert [one.host for one in found.state.upstreams[0].endpoints] == wanted


def test_service_speaks_http2_by_app_protocol_and_may_be_a_name():
    h2c = Services.read([service("web", appProtocol="kubernetes.io/h2c")], [], [])
    external = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "api.example.com."},
    }

    assert run(route(), services=h2c).state.upstreams[0].h2c
    (named,) = run(route(), services=Services.read([external], [], [])).state.upstreams
    assert (named.named, named.endpoints) == (True, (Endpoint(host="api.example.com", port=80),))


def test_rule_with_a_filter_that_is_not_served_is_dropped_and_said():
    extension = {
        "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "x", "kind": "Y", "name": "z"}}]
    }
    partly = run(route("web", extension, {"backendRefs": [to("web")]}))
    wholly = run(route("web", extension))

    assert conditions(partly)["Accepted"] == ("True", "Accepted")
    assert conditions(partly)["PartiallyInvalid"] == ("True", "UnsupportedValue")
    assert len(partly.state.routes[0].rules) == 1
    assert conditions(wholly)["Accepted"] == ("False", "UnsupportedValue")


def test_host_header_in_a_modifier_means_another_host():
    change = {"add": [{"name": "Host", "value": "rev.default.svc.cluster.local"}]}
    found = run(
        route(
            "web",
            {
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": change}],
                "backendRefs": [to("web")],
            },
        )
    )

    rule = found.state.routes[0].rules[0]
    assert rule.request_headers is None
    assert rule.rewrite is not None
    assert rule.rewrite.hostname == "rev.default.svc.cluster.local"


def test_timeouts_and_header_names_come_out_plain():
    written = {
        "matches": [
            {
                "path": {"type": "PathPrefix", "value": "/a/"},
                "headers": [{"name": "X-One", "value": "1"}, {"name": "x-one", "value": "2"}],
            }
        ],
        "timeouts": {"request": "10s", "backendRequest": "0s"},
        "backendRefs": [to("web")],
    }

    rule = run(route("web", written)).state.routes[0].rules[0]

    (match,) = rule.matches
    assert (match.path.value, [(h.name, h.value) for h in match.headers]) == ("/a", [("x-one", "1")])
    assert (rule.timeout_s, rule.backend_timeout_s) == (10.0, 0.0)


# -- gateways ------------------------------------------------------------------------------------------------

HTTPS_LISTENER = {
    "name": "https",
    "port": 443,
    "protocol": "HTTPS",
    "hostname": "*.example.com",
    "tls": {"certificateRefs": [{"name": "cert"}]},
}


def listener_conditions(found: Attached, index: int = 0) -> dict[str, tuple[str, str]]:
    listed = found.gateways["default/gw"]["listeners"][index]["conditions"]
    return {one["type"]: (one["status"], one["reason"]) for one in listed}


def test_https_listener_shows_its_certificate_for_its_hostname():
    found = run(
        gateways=(gateway("gw", HTTPS_LISTENER),),
        certificates={"default/cert": Pair(chain="chain", key="key")},
        https_port=8443,
    )

    (port,) = found.state.ports
    assert (port.name, port.port) == (HTTPS, 0)
    assert [(one.name, one.hosts) for one in port.certificates] == [("default/cert", ("*.example.com",))]
    assert listener_conditions(found)["Programmed"] == ("True", "Programmed")


@pytest.mark.parametrize(
    ("certificates", "https_port", "condition", "reason"),
    [
        ({}, 8443, "ResolvedRefs", "InvalidCertificateRef"),
        ({"default/cert": Pair(problem="no key")}, 8443, "ResolvedRefs", "InvalidCertificateRef"),
        ({"default/cert": Pair(chain="c", key="k")}, 0, "Accepted", "PortUnavailable"),
    ],
)
def test_listener_that_cannot_work_says_why(certificates, https_port, condition, reason):
    found = run(gateways=(gateway("gw", HTTPS_LISTENER),), certificates=certificates, https_port=https_port)

    assert listener_conditions(found)[condition] == ("False", reason)
    assert listener_conditions(found)["Programmed"][0] == "False"
    assert found.state.ports == ()


def test_two_protocols_on_one_port_conflict_and_the_older_gateway_keeps_it():
    plain = gateway("gw", {"name": "plain", "port": 9090, "protocol": "HTTP"}, created="1")
    late = gateway("late", {**HTTPS_LISTENER, "port": 9090}, created="2")

    found = run(gateways=(late, plain), certificates={"default/cert": Pair(chain="c", key="k")})

    assert listener_conditions(found)["Conflicted"] == ("False", "NoConflicts")
    conditions = found.gateways["default/late"]["listeners"][0]["conditions"]
    assert ("Conflicted", "ProtocolConflict") in [(one["type"], one["reason"]) for one in conditions]


def test_refusal_of_envoy_shows_in_listener_and_gateway():
    found = run(
        gateways=(gateway("gw", {"name": "x", "port": 9090, "protocol": "HTTP"}),),
        refused={"port-9090": "address already in use"},
    )

    assert listener_conditions(found)["Programmed"] == ("False", "Invalid")
    summary = {one["type"]: one["status"] for one in found.gateways["default/gw"]["conditions"]}
    assert summary == {"Accepted": "True", "Programmed": "False"}


def test_gateway_of_another_controller_is_left_alone():
    foreign, _ = GATEWAY_CLASS.decode(obj("GatewayClass", "other", {"controllerName": "example.com/x"}))
    ours, _ = GATEWAY_CLASS.decode(obj("GatewayClass", "mine", {"controllerName": CONTROLLER}))
    found = run(
        route(),
        gateways=(gateway(cls="other"),),
        classes=[Seen(resource=foreign), Seen(resource=ours)],
    )

    assert (found.routes, found.gateways, list(found.classes)) == ({}, {}, ["mine"])


def test_internal_listener_is_served_on_the_internal_port():
    found = run(route(), internal=frozenset({("default/gw", "http")}))

    assert found.state.routes[0].hosts == ((INTERNAL, ("*",)),)


def test_outcome_does_not_depend_on_the_order_of_objects():
    routes = [route(f"r{i}", hostnames=[f"h{i}.org"], created=str(i % 3)) for i in range(8)]
    gateways = [gateway(), gateway("two", {"name": "b", "port": 9091, "protocol": "HTTP"})]
    straight = attach(Sources(gateways=gateways, routes=routes, services=SERVICES))
    chance = random.Random(1)
    chance.shuffle(routes)

    assert attach(Sources(gateways=gateways[::-1], routes=routes, services=SERVICES)) == straight
