"""The delta xDS server, spoken to over its real socket by a scripted Envoy."""

import asyncio
import contextlib
import tempfile

import grpc.aio
import pytest

from pelton.errors import GatewayError
from pelton.proto import xds_pb2 as xds
from pelton.targets.local.gateway_config import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from pelton.targets.local.xds import METHOD, Change, DeltaServer, RefusedError

pytestmark = pytest.mark.timeout(10)


class FakeEnvoy:
    """One stream; `answer` says yes to everything unless told otherwise."""

    def __init__(self, channel):
        self.call = channel.stream_stream(
            METHOD,
            request_serializer=xds.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=xds.DeltaDiscoveryResponse.FromString,
        )()

    async def send(self, type_url, **fields):
        error = fields.pop("error", None)
        request = xds.DeltaDiscoveryRequest(type_url=type_url, **fields)
        if error is not None:
            request.error_detail.message = error
        await self.call.write(request)

    async def subscribe(self, type_url, *names, held=None):
        await self.send(type_url, resource_names_subscribe=names, initial_resource_versions=held or {})

    async def receive(self):
        return await self.call.read()

    async def ack(self, response):
        await self.send(response.type_url, response_nonce=response.nonce)

    async def nack(self, response, reason):
        await self.send(response.type_url, response_nonce=response.nonce, error=reason)

    async def take(self):
        response = await self.receive()
        await self.ack(response)
        return response


@contextlib.asynccontextmanager
async def serving(*, opened=True):
    with tempfile.TemporaryDirectory(prefix="px-") as folder:
        path = f"{folder}/xds.sock"
        async with DeltaServer(path) as server, grpc.aio.insecure_channel(f"unix:{path}") as channel:
            if opened:
                server.open()
            yield server, channel


def put(type_url, name, payload=b"1"):
    return Change(type_url, name, payload)


def gone(type_url, name):
    return Change(type_url, name, None)


def names(response):
    return [r.name for r in response.resources], list(response.removed_resources)


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


async def connected(server, channel, *names):
    """An Envoy that wants all clusters and the endpoints of `names`, and has taken what there is."""
    envoy = FakeEnvoy(channel)
    await envoy.subscribe(CLUSTER)
    if server._tables[CLUSTER]:
        await envoy.take()
    if names:
        await envoy.subscribe(ENDPOINTS, *names)
        await envoy.take()
    await until(lambda: server.connected == 1 and all(not s.flight for s in types(server)))
    return envoy


def types(server):
    return [sub for stream in server._streams for sub in stream.types.values()]


async def test_wildcard_subscription_gets_everything_with_content_and_type():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a", b"A"), put(CLUSTER, "b", b"B")])
        envoy = FakeEnvoy(channel)

        await envoy.subscribe(CLUSTER)
        response = await envoy.receive()

        assert [(r.name, r.resource.type_url, r.resource.value) for r in response.resources] == [
            ("a", CLUSTER, b"A"),
            ("b", CLUSTER, b"B"),
        ]


async def test_nothing_is_answered_before_open():
    async with serving(opened=False) as (server, channel):
        envoy = FakeEnvoy(channel)
        await envoy.subscribe(CLUSTER, held={"a": "old"})
        await until(lambda: types(server))

        await server.apply([put(CLUSTER, "a")], timeout_s=0.001)  # no wait for what is not sent
        server.open()

        assert names(await envoy.receive()) == (["a"], [])


async def test_reconnect_is_sent_only_what_differs():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "same"), put(CLUSTER, "changed"), put(CLUSTER, "new")])
        probe = FakeEnvoy(channel)
        await probe.subscribe(CLUSTER)
        versions = {r.name: r.version for r in (await probe.take()).resources}

        envoy = FakeEnvoy(channel)
        held = {"same": versions["same"], "changed": "0", "vanished": "1"}
        await envoy.subscribe(CLUSTER, held=held)

        assert names(await envoy.receive()) == (["changed", "new"], ["vanished"])


async def test_named_reconnect_before_the_tables_are_filled_keeps_versions():
    async with serving(opened=False) as (server, channel):
        entry = DeltaServer("")
        entry.record([put(ENDPOINTS, "a")])
        version = entry._tables[ENDPOINTS]["a"].version
        envoy = FakeEnvoy(channel)
        await envoy.subscribe(ENDPOINTS, "a", "b", held={"a": version, "b": version})
        await until(lambda: types(server))

        server.record([put(ENDPOINTS, "a"), put(ENDPOINTS, "b", b"2")])
        server.open()

        assert names(await envoy.receive()) == (["b"], [])


async def test_apply_returns_when_acked():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)

        applying = asyncio.create_task(server.apply([put(CLUSTER, "b")], timeout_s=5))
        response = await envoy.receive()
        assert not applying.done()
        await envoy.ack(response)

        await applying


async def test_apply_without_envoy_returns_at_once():
    async with serving() as (server, _):
        await server.apply([put(CLUSTER, "a")], timeout_s=0.001)


async def test_apply_waits_for_endpoints_that_a_new_cluster_will_ask_for():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)

        applying = asyncio.create_task(server.apply([put(CLUSTER, "b"), put(ENDPOINTS, "b")], timeout_s=5))
        await envoy.take()
        await until(lambda: not any(sub.flight for sub in types(server)))
        assert not applying.done()
        await envoy.subscribe(ENDPOINTS, "b")
        await envoy.take()

        await applying


async def test_changes_of_one_turn_travel_together():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)

        for name in "bcd":
            server.record([put(CLUSTER, name)])

        assert names(await envoy.receive()) == (["b", "c", "d"], [])


async def test_changes_during_a_response_wait_for_its_verdict_and_travel_together():
    async with serving() as (server, channel):
        server.record([put(ENDPOINTS, "a"), put(ENDPOINTS, "b")])
        envoy = await connected(server, channel, "a", "b")
        first = asyncio.create_task(server.apply([put(ENDPOINTS, "a", b"2")], timeout_s=5))
        response = await envoy.receive()
        later = [
            asyncio.create_task(server.apply([put(ENDPOINTS, name, value)], timeout_s=5))
            for name, value in (("a", b"3"), ("b", b"3"), ("a", b"4"))
        ]
        await until(lambda: len(types(server)[1].dirty) == 2)

        await envoy.ack(response)
        await first
        second = await envoy.receive()
        assert not any(task.done() for task in later)
        await envoy.ack(second)

        await asyncio.gather(*later)
        assert {r.name: r.resource.value for r in second.resources} == {"a": b"4", "b": b"3"}


async def test_waiting_for_what_is_already_under_way_ends_with_its_verdict():
    async with serving() as (server, channel):
        server.record([put(ENDPOINTS, "a")])
        envoy = await connected(server, channel, "a")
        server.record([put(ENDPOINTS, "a", b"2")])
        response = await envoy.receive()

        again = asyncio.create_task(server.apply([put(ENDPOINTS, "a", b"2")], timeout_s=5))
        await until(lambda: any(stream.waiting for stream in server._streams))
        await envoy.ack(response)

        await again


async def test_refusal_is_raised_with_reason_and_the_same_content_is_tried_again():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)

        for _ in range(2):
            applying = asyncio.create_task(server.apply([put(CLUSTER, "bad", b"x")], timeout_s=5))
            await envoy.nack(await envoy.receive(), "no such thing")
            with pytest.raises(RefusedError, match="no such thing"):
                await applying


async def test_refusal_of_many_singles_out_the_culprit():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)
        tasks = {
            name: asyncio.create_task(server.apply([put(CLUSTER, name)], timeout_s=5))
            for name in ("b", "bad", "c", "d", "e")
        }

        async def judge():
            while True:
                response = await envoy.receive()
                if "bad" in names(response)[0]:
                    await envoy.nack(response, "bad is bad")
                else:
                    await envoy.ack(response)

        judging = asyncio.create_task(judge())
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        judging.cancel()

        assert [type(r) for r in results] == [type(None), RefusedError, type(None), type(None), type(None)]


async def test_refused_cluster_ends_the_wait_for_its_endpoints():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)

        applying = asyncio.create_task(server.apply([put(CLUSTER, "b"), put(ENDPOINTS, "b")], timeout_s=5))
        await envoy.nack(await envoy.receive(), "no")

        with pytest.raises(RefusedError):
            await applying


async def test_no_verdict_in_time_is_an_error_and_the_change_stays():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)

        with pytest.raises(GatewayError, match="did not confirm"):
            await server.apply([put(CLUSTER, "b")], timeout_s=0.01)

        assert names(await envoy.receive()) == (["b"], [])


async def test_asking_for_what_does_not_exist_is_answered_with_removed_and_served_later():
    async with serving() as (server, channel):
        envoy = FakeEnvoy(channel)

        await envoy.subscribe(ENDPOINTS, "a")
        first = await envoy.take()
        server.record([put(ENDPOINTS, "a")])
        second = await envoy.take()

        assert names(first) == ([], ["a"])
        assert names(second) == (["a"], [])


async def test_asking_again_is_sent_again():
    async with serving() as (server, channel):
        server.record([put(ENDPOINTS, "a")])
        envoy = await connected(server, channel, "a")

        await envoy.send(ENDPOINTS, resource_names_unsubscribe=["a"])
        await envoy.subscribe(ENDPOINTS, "a")

        assert names(await envoy.receive()) == (["a"], [])


async def test_unsubscribing_ends_the_wait():
    async with serving() as (server, channel):
        server.record([put(ENDPOINTS, "a")])
        envoy = await connected(server, channel, "a")
        applying = asyncio.create_task(server.apply([put(ENDPOINTS, "a", b"2")], timeout_s=5))
        await envoy.receive()

        await envoy.send(ENDPOINTS, resource_names_unsubscribe=["a"])

        await applying


async def test_changed_cluster_gets_its_endpoints_again():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a"), put(ENDPOINTS, "a")])
        envoy = await connected(server, channel, "a")

        server.record([put(CLUSTER, "a", b"2")])

        assert [(await envoy.take()).type_url for _ in range(2)] == [CLUSTER, ENDPOINTS]


async def test_routes_wait_for_clusters_under_way_but_endpoints_do_not():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a"), put(ENDPOINTS, "a"), put(ROUTES, "t"), put(LISTENER, "l")])
        envoy = await connected(server, channel, "a")
        await envoy.subscribe(LISTENER)
        await envoy.take()
        await envoy.subscribe(ROUTES, "t")
        await envoy.take()
        await until(lambda: not any(sub.flight for sub in types(server)))

        server.record([put(ROUTES, "t", b"2"), put(CLUSTER, "b"), put(ENDPOINTS, "a", b"2")])
        first, second = await envoy.receive(), await envoy.receive()
        assert [first.type_url, second.type_url] == [CLUSTER, ENDPOINTS]
        await envoy.ack(second)
        await envoy.ack(first)

        assert (await envoy.receive()).type_url == ROUTES


async def test_disconnect_ends_the_wait():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)
        applying = asyncio.create_task(server.apply([put(CLUSTER, "b")], timeout_s=5))
        await envoy.receive()

        envoy.call.cancel()

        await applying
        assert server.connected == 0


async def test_every_connected_envoy_has_to_agree():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoys = [FakeEnvoy(channel), FakeEnvoy(channel)]
        for envoy in envoys:
            await envoy.subscribe(CLUSTER)
            await envoy.take()
        await until(lambda: len(types(server)) == 2 and not any(sub.flight for sub in types(server)))

        applying = asyncio.create_task(server.apply([put(CLUSTER, "b")], timeout_s=5))
        await envoys[0].take()
        second = await envoys[1].receive()
        await until(lambda: sum(sub.flight is not None for sub in types(server)) == 1)
        assert not applying.done()
        await envoys[1].ack(second)

        await applying


async def test_stale_verdict_is_ignored():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a")])
        envoy = await connected(server, channel)
        applying = asyncio.create_task(server.apply([put(CLUSTER, "b")], timeout_s=5))
        response = await envoy.receive()

        await envoy.send(CLUSTER, response_nonce="1")
        await envoy.ack(response)

        await applying


async def test_removal_is_sent_once_and_only_to_who_has_it():
    async with serving() as (server, channel):
        server.record([put(CLUSTER, "a"), put(CLUSTER, "b")])
        envoy = await connected(server, channel)

        server.record([gone(CLUSTER, "a"), gone(CLUSTER, "never-there")])
        first = await envoy.take()
        server.record([gone(CLUSTER, "a"), put(CLUSTER, "c")])

        assert names(first) == ([], ["a"])
        assert names(await envoy.receive()) == (["c"], [])


async def test_settled_waits_for_all_of_a_type_and_reports_refusal():
    async with serving() as (server, channel):
        server.record([put(LISTENER, "l")])
        envoy = FakeEnvoy(channel)
        settling = asyncio.create_task(server.settled(LISTENER, timeout_s=5))
        await envoy.subscribe(LISTENER)
        await envoy.nack(await envoy.receive(), "port in use")

        with pytest.raises(RefusedError, match="port in use"):
            await settling

        server.record([put(LISTENER, "l")])
        await envoy.take()
        await server.settled(LISTENER, timeout_s=5)


async def test_unusable_socket_path_is_an_error_that_names_it():
    server = DeltaServer("/nowhere/" + "x" * 120)

    with pytest.raises(GatewayError, match="/nowhere/"):
        await server.__aenter__()
    await server.__aexit__(None, None, None)
