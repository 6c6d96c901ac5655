"""The controller of Gateways and HTTPRoutes: what it sends to the gateway, what it writes into statuses."""

import base64
from contextlib import asynccontextmanager

import pytest

from pelton.controlplane.routes import (
    FUNCTIONS,
    GATEWAYS,
    HTTP_ROUTES,
    OPENFUNCTION_GATEWAYS,
    SERVICES,
    Routes,
)
from pelton.model.desired import Route
from pelton.model.routing import EXTERNAL
from pelton.plan.attachment import Pair
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

GROUP = "gateway.networking.k8s.io/v1"


class Node:
    """Stands for the gateway: keeps what it was told, refuses and is away as told."""

    def __init__(self):
        self.states = []
        self.refused = {}
        self.connected = True

    async def push(self, state):
        self.states.append(state)
        return dict(self.refused), self.connected


def http_route(name="web", *, hosts=("web.test",), backend="hello", parent="pelton"):
    return {
        "apiVersion": GROUP,
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": parent, "namespace": "openfunction"}],
            "hostnames": list(hosts),
            "rules": [{"backendRefs": [{"name": backend, "port": 80}]}],
        },
    }


@asynccontextmanager
async def world(*, functions=(), https_port=0, default_pair=None):
    clock = FakeClock()
    node = Node()
    async with MemoryStore(clock=clock) as store:
        routes = Routes(
            store=store,
            push=node.push,
            functions=lambda: {one.key: one for one in functions},
            clock=clock,
            addresses=["127.0.0.1"],
            https_port=https_port,
            default_pair=default_pair,
        )
        await routes._make_defaults()
        yield store, routes, node


HELLO = Route(namespace="default", name="hello", hosts=("hello.default.localhost",), path="/default/hello")


def said(status, index=0):
    return {one["type"]: (one["status"], one["reason"]) for one in status["parents"][index]["conditions"]}


async def test_route_is_sent_and_programmed_only_when_envoy_has_it():
    async with world(functions=[HELLO]) as (store, routes, node):
        await store.create(HTTP_ROUTES, http_route())
        node.connected = False

        assert await routes.reconcile() is False
        waiting = (await store.get(HTTP_ROUTES, "default", "web"))["status"]
        node.connected = True
        assert await routes.reconcile() is True
        done = (await store.get(HTTP_ROUTES, "default", "web"))["status"]

        assert said(waiting)["Programmed"] == ("False", "Pending")
        assert said(done)["Programmed"] == ("True", "Programmed")
        (route,) = node.states[-1].routes
        assert route.hosts == ((EXTERNAL, ("web.test",)),)
        assert route.rules[0].backends[0].key == "default/hello"


async def test_second_pass_sends_and_writes_nothing():
    async with world(functions=[HELLO]) as (store, routes, node):
        await store.create(HTTP_ROUTES, http_route())
        await routes.reconcile()
        version = store.version

        await routes.reconcile()

        assert (len(node.states), store.version) == (1, version)


async def test_refusal_of_envoy_is_in_the_condition():
    async with world(functions=[HELLO]) as (store, routes, node):
        await store.create(HTTP_ROUTES, http_route())
        node.refused = {"HTTPRoute default/web": "bad expression"}

        await routes.reconcile()

        status = (await store.get(HTTP_ROUTES, "default", "web"))["status"]
        assert said(status)["Programmed"] == ("False", "Invalid")


async def test_conditions_of_other_controllers_stay():
    async with world(functions=[HELLO]) as (store, routes, _node):
        foreign = {"parentRef": {"name": "x"}, "controllerName": "example.com/c", "conditions": []}
        stored = await store.create(HTTP_ROUTES, http_route())
        await store.update(HTTP_ROUTES, {**stored, "status": {"parents": [foreign]}}, subresource="status")

        await routes.reconcile()

        parents = (await store.get(HTTP_ROUTES, "default", "web"))["status"]["parents"]
        assert [one["controllerName"] for one in parents] == [
            "example.com/c",
            "pelton.dev/gateway-controller",
        ]


async def test_conflict_is_reported_on_both_objects_and_taken_back():
    async with world(functions=[HELLO]) as (store, routes, _node):
        await store.create(
            FUNCTIONS,
            {"apiVersion": "core.openfunction.io/v1beta2", "kind": "Function",
             "metadata": {"name": "hello", "namespace": "default"}, "spec": {}},
        )  # fmt: skip
        await store.create(HTTP_ROUTES, http_route(hosts=("hello.default.localhost",)))

        await routes.reconcile()
        function = (await store.get(FUNCTIONS, "default", "hello"))["status"]["conditions"]
        route = (await store.get(HTTP_ROUTES, "default", "web"))["status"]
        await store.delete(HTTP_ROUTES, "default", "web")
        await routes.reconcile()
        after = (await store.get(FUNCTIONS, "default", "hello"))["status"]["conditions"]

        assert said(route)["Conflicted"] == ("True", "RouteConflict")
        assert [one["type"] for one in function] == ["Conflicted"]
        assert "HTTPRoute default/web" in function[0]["message"]
        assert after == []


async def test_default_gateways_get_addresses_listeners_and_counts():
    async with world(functions=[HELLO]) as (store, routes, _node):
        await store.create(HTTP_ROUTES, http_route())
        await routes.reconcile()

        plain = (await store.get(GATEWAYS, "openfunction", "pelton"))["status"]
        ours = (await store.get(OPENFUNCTION_GATEWAYS, "openfunction", "openfunction"))["status"]

        assert plain["addresses"] == [{"type": "IPAddress", "value": "127.0.0.1"}]
        assert {one["type"]: one["status"] for one in plain["conditions"]} == {
            "Accepted": "True",
            "Programmed": "True",
        }
        counts = {one["name"]: one["attachedRoutes"] for one in ours["listeners"]}
        assert counts == {"ofn-http-external": 1, "ofn-http-internal": 1}


async def test_change_of_a_service_reaches_the_gateway():
    async with world() as (store, routes, node):
        await store.create(HTTP_ROUTES, http_route(backend="web"))
        await routes.reconcile()
        missing = node.states[-1].routes[0].rules[0].backends[0].problem
        await store.create(
            SERVICES,
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
             "spec": {"ports": [{"port": 80}]}},
        )  # fmt: skip

        await routes.reconcile()

        assert missing.startswith("BackendNotFound")
        assert [one.key for one in node.states[-1].upstreams] == ["Service default/web:80"]


@pytest.mark.parametrize(
    ("pair", "count"), [(Pair(chain="c", key="k"), 1), (Pair(problem="no such file"), 0)]
)
async def test_port_for_tls_has_the_default_certificate(pair, count):
    async with world(https_port=8443, default_pair=lambda: pair) as (_store, routes, node):
        await routes.reconcile()

        assert len(node.states[-1].ports) == count


async def test_malformed_secret_is_named_in_the_listener():
    async with world(https_port=8443) as (store, routes, _node):
        await store.create(
            "secrets",
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
             "metadata": {"name": "cert", "namespace": "default"},
             "data": {"tls.crt": base64.b64encode(b"nonsense").decode(), "tls.key": "aGk="}},
        )  # fmt: skip
        await store.create(
            GATEWAYS,
            {"apiVersion": GROUP, "kind": "Gateway", "metadata": {"name": "tls", "namespace": "default"},
             "spec": {"gatewayClassName": "pelton", "listeners": [
                 {"name": "https", "port": 443, "protocol": "HTTPS",
                  "tls": {"certificateRefs": [{"name": "cert"}]}}]}},
        )  # fmt: skip

        await routes.reconcile()

        (listener,) = (await store.get(GATEWAYS, "default", "tls"))["status"]["listeners"]
        found = {one["type"]: one for one in listener["conditions"]}
        assert found["ResolvedRefs"]["reason"] == "InvalidCertificateRef"
        assert "no certificate" in found["ResolvedRefs"]["message"]
