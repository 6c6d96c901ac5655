"""The gateway's decisions, watched by a scripted Envoy on the real socket: order, conflicts, refusals."""

import asyncio
import contextlib
import json
import tempfile

import grpc.aio
import pytest

from pelton.errors import GatewayError
from pelton.model.desired import Route
from pelton.proto import xds_pb2 as xds
from pelton.targets.local.envoy import bootstrap, envoy_command
from pelton.targets.local.gateway import Gateway, Listener
from pelton.targets.local.gateway_config import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from pelton.targets.local.xds import METHOD, RefusedError

pytestmark = pytest.mark.timeout(10)


class FakeEnvoy:
    """Takes everything in, as Envoy does; refuses what contains `refuses`, keeps silent when `silent`."""

    def __init__(self, path, *, refuses=b"\0never"):
        self.path = path
        self.refuses = refuses
        self.silent = False
        self.seen = []
        self.held: dict[str, dict[str, bytes]] = {CLUSTER: {}, ENDPOINTS: {}, LISTENER: {}, ROUTES: {}}

    async def __aenter__(self):
        self.channel = grpc.aio.insecure_channel(f"unix:{self.path}")
        self.call = self.channel.stream_stream(
            METHOD,
            request_serializer=xds.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=xds.DeltaDiscoveryResponse.FromString,
        )()
        await self.send(CLUSTER)
        await self.send(LISTENER)
        self.task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *exc):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.call.cancel()
        await self.channel.close()

    async def send(self, type_url, **fields):
        await self.call.write(xds.DeltaDiscoveryRequest(type_url=type_url, **fields))

    async def run(self):
        while (response := await self.call.read()) is not grpc.aio.EOF:
            if self.silent:
                continue
            kind = response.type_url
            self.seen.append((kind, [r.name for r in response.resources], list(response.removed_resources)))
            if any(self.refuses in r.resource.value for r in response.resources):
                error = xds.Status(message="not this one")
                await self.send(kind, response_nonce=response.nonce, error_detail=error)
                continue
            held = self.held[kind]
            new = [r.name for r in response.resources if r.name not in held]
            held.update({r.name: r.resource.value for r in response.resources})
            for name in response.removed_resources:
                held.pop(name, None)
            await self.send(kind, response_nonce=response.nonce)
            if kind == CLUSTER and new:
                await self.send(ENDPOINTS, resource_names_subscribe=new)
            if kind == LISTENER and new:
                await self.send(ROUTES, resource_names_subscribe=["external"])

    def kinds(self):
        return [kind for kind, _, _ in self.seen]

    def hosts(self):
        table = xds.RouteConfiguration.FromString(self.held[ROUTES]["external"])
        return {host.domains[0]: host.routes[0].route.cluster for host in table.virtual_hosts}

    def workers(self, key):
        levels = xds.ClusterLoadAssignment.FromString(self.held[ENDPOINTS][key]).endpoints
        return [e.endpoint.address.pipe.path for e in levels[0].lb_endpoints]


@contextlib.asynccontextmanager
async def running(*, started=True, refuses=b"\0never", ack_timeout_s=5.0):
    with tempfile.TemporaryDirectory(prefix="px-") as folder:
        path = f"{folder}/xds.sock"
        gateway = Gateway(
            xds_socket=path,
            activator_socket="/activator",
            listeners=[Listener(host="127.0.0.1", port=1)],
            admin_socket="/admin",
            ack_timeout_s=ack_timeout_s,
        )
        async with gateway, FakeEnvoy(path, refuses=refuses) as envoy:
            if started:
                await gateway.set_routes([])
                await gateway.ready()
                envoy.seen.clear()
            yield gateway, envoy


def route(name="hello", **changes):
    values = {"namespace": "default", "name": name, "hosts": (f"{name}.localhost",)}
    return Route(**(values | {"path": f"/default/{name}"} | changes))


async def test_new_route_comes_after_its_cluster_and_endpoints():
    async with running() as (gateway, envoy):
        await gateway.set_route(route())

        assert envoy.kinds() == [CLUSTER, ENDPOINTS, ROUTES]
        assert envoy.hosts()["hello.localhost"] == "default/hello"


async def test_removed_route_goes_before_its_cluster():
    async with running() as (gateway, envoy):
        await gateway.set_route(route())
        envoy.seen.clear()

        await gateway.remove_route("default", "hello")

        assert envoy.seen[0][0] == ROUTES
        assert (CLUSTER, [], ["default/hello"]) in envoy.seen[1:]
        assert "hello.localhost" not in envoy.hosts()


async def test_removing_what_is_not_there_sends_nothing():
    async with running() as (gateway, envoy):
        await gateway.remove_route("default", "nothing")

        assert envoy.seen == []


async def test_same_route_again_sends_nothing():
    async with running() as (gateway, envoy):
        await gateway.set_route(route())
        envoy.seen.clear()

        await gateway.set_route(route())

        assert envoy.seen == []


async def test_nothing_is_sent_before_the_first_full_set():
    async with running(started=False) as (gateway, envoy):
        while not gateway.connected:
            await asyncio.sleep(0)
        await gateway.set_route(route("early"))
        assert envoy.seen == []

        await gateway.set_routes([route()])
        await gateway.ready()

        assert set(envoy.held[CLUSTER]) == {"-", "default/hello"}


async def test_without_envoy_changes_are_recorded_and_sent_on_connect(tmp_path):
    with tempfile.TemporaryDirectory(prefix="px-") as folder:
        path = f"{folder}/xds.sock"
        async with Gateway(
            xds_socket=path, activator_socket="/a", listeners=[], admin_socket="/b", ack_timeout_s=0.001
        ) as gateway:
            await gateway.set_routes([])
            await gateway.set_route(route())
            await gateway.set_endpoints("default", "hello", ["/w"])
            assert not gateway.connected

            async with FakeEnvoy(path) as envoy:
                while "default/hello" not in envoy.held[ENDPOINTS]:
                    await asyncio.sleep(0)

                assert envoy.workers("default/hello") == ["/w"]


async def test_endpoints_known_before_the_route_are_kept():
    async with running() as (gateway, envoy):
        await gateway.set_endpoints("default", "hello", ["/w1"])
        assert envoy.seen == []

        await gateway.set_route(route())

        assert envoy.workers("default/hello") == ["/w1"]


async def test_endpoint_change_sends_nothing_else():
    async with running() as (gateway, envoy):
        await gateway.set_route(route())
        envoy.seen.clear()

        await gateway.set_endpoints("default", "hello", ["/w1", "/w2"])

        assert envoy.seen == [(ENDPOINTS, ["default/hello"], [])]
        assert envoy.workers("default/hello") == ["/w1", "/w2"]


async def test_endpoints_of_a_removed_function_are_forgotten():
    async with running() as (gateway, envoy):
        await gateway.set_route(route())
        await gateway.set_endpoints("default", "hello", ["/w1"])
        await gateway.remove_route("default", "hello")

        await gateway.set_route(route())

        assert envoy.workers("default/hello") == []


@pytest.mark.parametrize("taken", [{"hosts": ("hello.localhost",)}, {"path": "/default/hello"}])
async def test_host_or_path_of_another_function_is_refused_with_its_owner(taken):
    async with running() as (gateway, envoy):
        await gateway.set_route(route())
        await gateway.set_route(route("other"))

        with pytest.raises(GatewayError, match="already belongs to default/hello"):
            await gateway.set_route(route("other", **taken))

        assert envoy.hosts()["hello.localhost"] == "default/hello"
        assert envoy.hosts()["other.localhost"] == "default/other"  # keeps what it had


async def test_full_set_takes_all_but_the_bad_ones_and_names_those():
    async with running() as (gateway, envoy):
        with pytest.raises(GatewayError, match=r"default/broken.*default/late: x\.localhost") as caught:
            await gateway.set_routes(
                [
                    route("first", hosts=("x.localhost",)),
                    route("broken", path="no-slash"),
                    route("late", hosts=("x.localhost",)),
                    route("fine"),
                ]
            )

        assert "other routes are in place" in str(caught.value)
        assert set(envoy.hosts()) == {"x.localhost", "fine.localhost", "*"}
        assert [r.name for r in gateway.routes] == ["fine", "first"]


async def test_host_may_move_between_functions_in_one_full_set():
    async with running() as (gateway, envoy):
        await gateway.set_routes([route("a", hosts=("x.localhost",)), route("b")])

        await gateway.set_routes([route("b", hosts=("x.localhost",)), route("a")])

        assert envoy.hosts()["x.localhost"] == "default/b"


async def test_route_that_envoy_refuses_is_taken_back_and_others_of_its_batch_stay():
    async with running(refuses=b"bad.localhost") as (gateway, envoy):
        await gateway.set_route(route("before"))

        results = await asyncio.gather(
            *(gateway.set_route(route(name)) for name in ("a", "bad", "b")), return_exceptions=True
        )

        assert [type(r) for r in results] == [type(None), RefusedError, type(None)]
        assert "not this one" in str(results[1])
        assert set(envoy.hosts()) == {"before.localhost", "a.localhost", "b.localhost", "*"}
        await gateway.set_route(route("after"))
        assert "after.localhost" in envoy.hosts()
        assert "default/bad" not in envoy.held[CLUSTER]


async def test_silent_envoy_is_an_error_in_time_and_the_route_waits_for_the_next_one():
    async with running(ack_timeout_s=0.02) as (gateway, envoy):
        envoy.silent = True

        with pytest.raises(GatewayError, match="did not confirm"):
            await gateway.set_route(route())

        async with FakeEnvoy(envoy.path) as second:
            while "external" not in second.held[ROUTES]:
                await asyncio.sleep(0)
            assert "hello.localhost" in second.hosts()


async def test_closing_ends_those_who_wait():
    async with running() as (gateway, envoy):
        envoy.silent = True
        waiting = asyncio.create_task(gateway.set_route(route()))
        while "default/hello" not in gateway._clusters:
            await asyncio.sleep(0)

        await gateway.__aexit__(None, None, None)

        with pytest.raises(GatewayError, match="closing"):
            await waiting


def test_bootstrap_is_json_with_sockets_instead_of_ports():
    text = json.dumps(bootstrap(xds_socket="/run/xds", admin_socket="/run/admin"))

    assert "/run/xds" in text
    assert "/run/admin" in text
    assert "port_value" not in text


def test_envoy_command_starts_without_hot_restart():
    command = envoy_command("/run/envoy.json", concurrency=2)

    assert "--disable-hot-restart" in command
    assert command[command.index("--config-path") + 1] == "/run/envoy.json"
    assert command[command.index("--concurrency") + 1] == "2"
