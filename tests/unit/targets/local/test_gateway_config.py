"""What is rendered for Envoy, read back through the same messages; tests/e2e has the real reader."""

import dataclasses
import random

import pytest

from pelton.errors import GatewayError
from pelton.model.desired import Route
from pelton.model.routing import EXTERNAL
from pelton.plan.routing import entries_of
from pelton.proto import xds_pb2 as xds
from pelton.targets.local import gateway_config as config
from pelton.targets.local.listener_config import Listener, listener
from pelton.targets.local.route_config import RouteTable, check_route


def route(name="hello", **changes):
    values = {"namespace": "default", "name": name, "hosts": (f"{name}.default.localhost",)}
    return Route(**(values | {"path": f"/default/{name}"} | changes))


def encode(routes, *, listed=True, port=EXTERNAL):
    table = RouteTable(port, listed=listed)
    for one in routes:
        table.set(f"Function {one.key}", entries_of(one, port))
    return table.encode()


def table(*routes, listed=True, port=EXTERNAL):
    return xds.RouteConfiguration.FromString(encode(routes, listed=listed, port=port))


def test_route_table_has_a_host_per_function_and_anyone_last():
    hosts = table(route("a"), route("b", path="")).virtual_hosts

    assert [(h.name, list(h.domains)) for h in hosts] == [
        ("a.default.localhost", ["a.default.localhost"]),
        ("b.default.localhost", ["b.default.localhost"]),
        ("any", ["*"]),
    ]
    assert [r.route.cluster for r in hosts[-1].routes] == ["default/a", "-"]


def test_route_table_tries_longer_paths_first():
    anyone = table(route("a", path="/x"), route("b", path="/x/y"), route("c", path="/x/y/z")).virtual_hosts[
        -1
    ]

    assert [r.match.path_separated_prefix for r in anyone.routes] == ["/x/y/z", "/x/y", "/x", ""]
    assert anyone.routes[-1].match.prefix == "/"


def test_route_table_bytes_do_not_depend_on_order():
    routes = [route(f"fn-{i}") for i in range(200)]
    shuffled = random.Random(1).sample(routes, k=200)

    assert encode(routes, listed=True) == encode(shuffled, listed=True)


def test_route_table_joined_from_parts_equals_one_message():
    encoded = encode([route(f"fn-{i}") for i in range(300)], listed=False)

    read = xds.RouteConfiguration.FromString(encoded)

    assert len(read.virtual_hosts) == 301
    assert len(read.virtual_hosts[-1].routes) == 301
    assert len(read.SerializeToString()) == len(encoded)


def test_table_sets_the_function_header_to_the_cluster_after_the_clients_is_gone():
    read = table(route())

    added = {h.header.key: (h.header.value, h.append_action) for h in read.request_headers_to_add}
    assert config.FUNCTION_HEADER in read.request_headers_to_remove
    assert read.most_specific_header_mutations_wins
    assert added[config.FUNCTION_HEADER] == ("%UPSTREAM_CLUSTER%", 2)


@pytest.mark.parametrize(("listed", "value"), [(True, "loopback"), (False, "public")])
def test_nobody_route_says_whether_functions_may_be_listed(listed, value):
    last = table(listed=listed).virtual_hosts[-1].routes[-1]

    assert {h.header.key: h.header.value for h in last.request_headers_to_add}[
        config.LISTENER_HEADER
    ] == value


@pytest.mark.parametrize(("limit_s", "expected"), [(300.0, 302.0), (0.25, 2.25), (0.0, None)])
def test_time_limit_is_the_tries_with_margin_and_the_route_has_none(limit_s, expected):
    host = table(route(timeout_s=limit_s)).virtual_hosts[0]
    action = host.routes[0].route
    limit = host.retry_policy.per_try_timeout

    assert action.HasField("timeout")
    assert action.timeout.ToNanoseconds() == 0
    assert not action.HasField("retry_policy")
    assert host.retry_policy.HasField("per_try_timeout") == (expected is not None)
    assert limit.ToNanoseconds() / 1e9 == (expected or 0.0)


def test_path_route_inherits_the_usual_limit_and_has_its_own_otherwise():
    anyone = table(route("a"), route("b", timeout_s=5.0)).virtual_hosts[-1]

    own = {r.route.cluster: r.route.HasField("retry_policy") for r in anyone.routes}
    assert anyone.retry_policy.per_try_timeout.seconds == 302
    assert own == {"default/a": False, "default/b": True, "-": True}


def test_retries_are_only_for_requests_that_nobody_has_seen():
    policy = table(route()).virtual_hosts[0].retry_policy

    assert set(policy.retry_on.split(",")) == {
        "connect-failure",
        "refused-stream",
        "reset-before-request",
        "retriable-headers",
    }
    assert [header.name for header in policy.retriable_headers] == [config.OVERFLOW_HEADER]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "-"}, "name '-'"),
        ({"namespace": "a/b"}, "namespace 'a/b'"),
        ({"hosts": ("Hello.localhost",)}, "host 'Hello.localhost'"),
        ({"hosts": ("*",)}, r"host '\*'"),
        ({"hosts": ("a.localhost:80",)}, "host 'a.localhost:80'"),
        ({"hosts": ("a..b",)}, "host 'a..b'"),
        ({"hosts": ("",)}, "host ''"),
        ({"hosts": ("a.b", "a.b")}, "listed twice"),
        ({"path": "/"}, "path '/'"),
        ({"path": "/a/"}, "path '/a/'"),
        ({"path": "a"}, "path 'a'"),
        ({"path": "/a/../b"}, "path '/a/../b'"),
        ({"path": "/a%2fb"}, "path '/a%2fb'"),
        ({"path": "/a?b"}, r"path '/a\?b'"),
        ({"path": "/a\n"}, "path"),
        ({"timeout_s": -1.0}, "negative"),
    ],
)
def test_check_route_refuses_with_the_field_named(change, message):
    with pytest.raises(GatewayError, match=message) as caught:
        check_route(dataclasses.replace(route(), **change))

    assert caught.value.where.startswith("Route ")


@pytest.mark.parametrize("path", ["/default/hello", "/a.b/c-d_e~f", "/.well-known/x", "/..a", ""])
def test_check_route_takes_prefixes_of_whole_elements(path):
    check_route(route(path=path))


@pytest.mark.parametrize("path", ["w.sock", "/" + "x" * 107, "/" + "é" * 54])
def test_check_sockets_refuses_what_cannot_be_connected_to(path):
    with pytest.raises(GatewayError, match="socket path"):
        config.check_sockets("default/hello", ["/fine", path])


def test_endpoints_keep_the_activator_as_second_choice():
    read = xds.ClusterLoadAssignment.FromString(config.endpoints("a/b", ["/2", "/1"], "/act"))

    paths = [[e.endpoint.address.pipe.path for e in level.lb_endpoints] for level in read.endpoints]
    assert read.cluster_name == "a/b"
    assert [level.priority for level in read.endpoints] == [0, 1]
    assert paths == [["/1", "/2"], ["/act"]]


def test_empty_endpoints_still_list_both_priorities():
    read = xds.ClusterLoadAssignment.FromString(config.endpoints("a/b", [], "/act"))

    assert [(level.priority, len(level.lb_endpoints)) for level in read.endpoints] == [(0, 0), (1, 1)]


def test_cluster_never_panics_and_never_limits_before_the_platform():
    read = xds.Cluster.FromString(config.cluster("a/b"))

    assert read.common_lb_config.HasField("healthy_panic_threshold")
    assert read.common_lb_config.healthy_panic_threshold.value == 0
    limits = read.circuit_breakers.thresholds[0]
    assert limits.max_connections.value == limits.max_pending_requests.value == 100_000
    assert limits.max_requests.value == limits.max_retries.value == 100_000


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False)]
)
def test_listener_knows_whether_only_this_machine_reaches_it(host, loopback):
    assert Listener(host=host, port=80).loopback is loopback


def test_listener_does_not_share_its_port():
    read = xds.Listener.FromString(listener(Listener(host="127.0.0.1", port=80)))

    assert read.HasField("enable_reuse_port")
    assert read.enable_reuse_port.value is False
