"""The Redis drivers against a real server."""

import asyncio
import json
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from pelton.clock import SystemClock
from pelton.drivers.redis import RedisBinding, RedisBus, RedisStates
from pelton.drivers.redis.link import BLOCK_S, RedisLink
from pelton.errors import ComponentError, ConflictError, DeliveryError, MalformedEtagError
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.authority import Authority
from tests.contract.binding import BindingContract
from tests.contract.bus import BusContract, fill, settled, take, texts
from tests.contract.state import StateContract, save, value
from tests.services.server import free_port

pytestmark = pytest.mark.connected

SECRET = "correct-horse"


def component(kind, address, **metadata):
    settings = {"redisHost": address, "redisMaxRetries": "0", **metadata}
    return Component(namespace="shop", name="cache", type=kind, metadata=settings)


@pytest.fixture
async def plain(redis):
    """A client of a database that is empty at the start of the test."""
    async with Redis(host="127.0.0.1", port=redis.port, db=1, protocol=2) as client:
        await client.flushdb()
        yield client


@pytest.fixture
async def open_bus(redis, plain):
    buses = []

    def make(address=redis.address, **metadata):
        metadata = {"redisDB": "1", **metadata}
        buses.append(RedisBus(component("pubsub.redis", address, **metadata), clock=SystemClock()))
        return buses[-1]

    yield make
    for bus in buses:
        await bus.close()


class TestRedisBus(BusContract):
    @pytest.fixture
    def bus(self, open_bus):
        return open_bus()

    async def test_wildcard_subscription_covers_a_family_of_topics(self, bus):
        """Streams have names and no patterns: a topic with a star is a stream of that name."""
        await bus.publish(Message(topic="logs.shop.cart", data=b"1"))
        await bus.publish(Message(topic="logs.shop.*", data=b"2"))

        assert texts(await take(bus, "logs.shop.*", 1)) == ["2"]

    async def test_entry_has_the_fields_of_dapr(self, bus, plain):
        await bus.publish(Message(topic="orders", data=b"x", headers={"a": "ä"}))
        await plain.xadd("orders", {"data": "y", "metadata": "no json"})

        ((_, fields), _) = await plain.xrange("orders")
        assert fields[b"data"] == b"x"
        assert json.loads(fields[b"metadata"]) == {"a": "ä"}
        assert texts(await take(bus, "orders", 2)) == ["x", "y"]

    async def test_stream_is_trimmed_when_asked_for(self, open_bus, plain):
        await fill(open_bus(maxLenApprox="100"), "orders", 500)

        assert 100 <= await plain.xlen("orders") < 300

    async def test_entries_that_another_consumer_left_are_claimed(self, open_bus, plain):
        await plain.xgroup_create("orders", "ns.fn.in", id="0", mkstream=True)
        await fill(open_bus(), "orders", 2)
        await plain.xreadgroup("ns.fn.in", "somebody-else", {"orders": ">"})

        bus = open_bus(processingTimeout="1ms", redeliverInterval="1ms")
        assert texts(await take(bus, "orders", 2)) == ["0", "1"]
        await settled(bus, "orders", 0)

    async def test_held_entries_are_not_claimed_from_ourselves(self, open_bus):
        bus = open_bus(processingTimeout="1ms", redeliverInterval="1ms")
        await fill(bus, "orders", 1)
        batches = bus.subscribe("orders", consumer="c", max_in_flight=5, options={})
        async with asyncio.timeout(30), aclosing(batches) as iterator:
            (held,) = await anext(iterator)
            await held.extend()
            again = asyncio.ensure_future(anext(iterator))
            # Two reads that wait for a second each, so that claiming has its turn.
            done, _ = await asyncio.wait({again}, timeout=2.2)
            assert not done
            await held.ack()
            await bus.publish(Message(topic="orders", data=b"next"))
            assert texts(await again) == ["next"]

    async def test_group_is_the_app_that_the_options_name_and_its_subscriptions_share_it(
        self, open_bus, plain
    ):
        bus, options = open_bus(), {"consumerID": "app"}
        await fill(bus, "orders", 2)
        found = []
        for consumer in ("ns.app.dapr.bus.orders", "ns.app.dapr-stream.bus.orders"):
            batches = bus.subscribe("orders", consumer=consumer, max_in_flight=1, options=options)
            async with asyncio.timeout(10):
                found.append((batches, *await anext(batches)))

        assert [delivery.message.data for _, delivery in found] == [b"0", b"1"]
        assert [group["name"] for group in await plain.xinfo_groups("orders")] == [b"app"]
        assert await bus.pending("orders", consumer="ns.app.dapr.bus.orders") == 2
        for batches, delivery in found:
            await delivery.ack()
            await batches.aclose()

    async def test_concurrency_bounds_what_is_under_way(self, open_bus):
        bus = open_bus(concurrency="1")
        await fill(bus, "orders", 2)
        batches = bus.subscribe("orders", consumer="c", max_in_flight=5, options={})
        async with asyncio.timeout(10), aclosing(batches) as iterator:
            (held,) = await anext(iterator)
            again = asyncio.ensure_future(anext(iterator))
            assert await bus.pending("orders", consumer="c") == 2
            assert not again.done()
            await held.ack()
            assert texts(await again) == ["1"]

    async def test_stream_that_vanishes_is_made_again(self, open_bus, plain):
        bus = open_bus()
        await fill(bus, "orders", 1)
        batches = bus.subscribe("orders", consumer="c", max_in_flight=5, options={})
        async with asyncio.timeout(30), aclosing(batches) as iterator:
            for delivery in await anext(iterator):
                await delivery.ack()
            again = asyncio.ensure_future(anext(iterator))
            await plain.delete("orders")
            await bus.publish(Message(topic="orders", data=b"later"))
            assert texts(await again) == ["later"]

    async def test_entry_deleted_while_pending_is_passed_over(self, open_bus, plain):
        bus = open_bus()
        await fill(bus, "orders", 2)
        await take(bus, "orders", 2, finish=False)
        ((first, _), _) = await plain.xrange("orders")
        await plain.xdel("orders", first)

        assert texts(await take(bus, "orders", 1)) == ["1"]
        await settled(bus, "orders", 0)


async def test_bus_that_is_away_at_the_start_works_when_it_is_there(own_server, open_bus):
    server = own_server("redis")
    server.kill()
    bus = open_bus(server.address)
    with pytest.raises(DeliveryError, match="was not reached"):
        await fill(bus, "orders", 1)
    with pytest.raises(DeliveryError, match="was not reached"):
        await bus.pending("orders", consumer="c")

    await asyncio.to_thread(server.start)
    await fill(bus, "orders", 1)
    assert texts(await take(bus, "orders", 1)) == ["0"]


async def test_kill_of_the_server_loses_nothing_and_redelivers_what_was_held(own_server, open_bus):
    server = own_server("redis")
    bus = open_bus(server.address)
    await fill(bus, "orders", 3)
    batches = bus.subscribe("orders", consumer="c", max_in_flight=5, options={})
    with pytest.raises(DeliveryError):
        async with asyncio.timeout(20), aclosing(batches) as iterator:
            held = await anext(iterator)
            await held[0].ack()
            server.kill()
            await held[1].ack()
    await asyncio.to_thread(server.start)

    assert texts(await take(bus, "orders", 2, consumer="c")) == ["1", "2"]


@pytest.mark.parametrize("password", ["", "wrong-battery"], ids=["none", "wrong"])
async def test_rejected_credentials_are_named_and_never_shown(own_server, open_bus, caplog, password):
    server = own_server("redis", password=SECRET)
    bus = open_bus(server.address, redisPassword=password)

    with pytest.raises(ComponentError, match="rejected the credentials") as caught:
        await fill(bus, "orders", 1)

    shown = f"{caught.value} {caught.value.hint} {caplog.text}"
    assert SECRET not in shown
    assert "wrong-battery" not in shown
    right = open_bus(server.address, redisPassword=SECRET)
    await fill(right, "orders", 1)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"redisHost": ""}, "redisHost"),
        ({"redisHost": "a:b"}, "host:port"),
        ({"redisType": "cluster"}, "redisType"),
        ({"failover": "true"}, "Sentinel"),
        ({"redisDB": "one"}, "redisDB"),
        ({"readTimeout": "soon"}, "readTimeout"),
        ({"useOIDC": "true"}, "OIDC"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_bad_settings_are_refused_with_their_name(metadata, match):
    with pytest.raises(ComponentError, match=match):
        RedisBus(component("pubsub.redis", "localhost:1", **metadata), clock=SystemClock())


class ServerClock:
    """Passes time for the keys of a database by bringing their ends nearer."""

    def __init__(self, client):
        self._client = client

    async def advance(self, seconds):
        async for key in self._client.scan_iter():
            left = await self._client.pttl(key)
            if left >= 0:
                await self._client.pexpire(key, int(left - seconds * 1000))


@pytest.mark.parametrize("form", ["text", "files"])
async def test_tls_with_certificates_of_both_sides(own_server, open_bus, tmp_path, form):
    authority = Authority()
    paths = []
    for name, text in zip(("ca", "cert", "key"), (authority.pem, *authority.issue("127.0.0.1")), strict=True):
        (tmp_path / name).write_text(text)
        paths.append(tmp_path / name)
    server = own_server("redis", certificates=tuple(paths))
    cert, key = authority.issue("client")
    given = {"caCert": authority.pem, "clientCert": cert, "clientKey": key}
    if form == "files":
        for name, text in given.items():
            (tmp_path / name).write_text(text)
            given[name] = str(tmp_path / name)
    bus = open_bus(server.address, redisDB="0", enableTLS="true", **given)
    await fill(bus, "orders", 2)
    assert texts(await take(bus, "orders", 2)) == ["0", "1"]

    for wrong in ({**given, "caCert": Authority().pem}, {"caCert": authority.pem}):
        with pytest.raises(DeliveryError, match="was not reached"):
            await fill(open_bus(server.address, redisDB="0", enableTLS="true", **wrong), "orders", 1)


class TestRedisStates(StateContract):
    malformed = MalformedEtagError

    @pytest.fixture
    def other_etag(self):
        return "77"

    @pytest.fixture
    def clock(self, plain):
        return ServerClock(plain)

    @pytest.fixture
    async def store(self, redis, plain):
        store = RedisStates(component("state.redis", redis.address, redisDB="1"), clock=SystemClock())
        yield store
        await store.close()

    async def test_value_is_a_hash_as_dapr_keeps_it(self, store, plain):
        await store.write([save("a", b"1")])
        await store.write([save("a", b"2", metadata={"ttlInSeconds": "50"})])

        assert await plain.hgetall("a") == {b"data": b"2", b"version": b"2"}
        assert 40 < await plain.ttl("a") <= 50

    async def test_component_can_set_a_time_to_live_for_all(self, redis, plain):
        settings = component("state.redis", redis.address, redisDB="1", ttlInSeconds="60")
        store = RedisStates(settings, clock=SystemClock())
        await store.write([save("a"), save("b", metadata={"ttlInSeconds": "-1"})])
        await store.close()

        assert 50 < await plain.ttl("a") <= 60
        assert await plain.ttl("b") == -1

    async def test_writers_at_once_lose_no_increment(self, store):
        async def add():
            while True:
                (item,) = await store.get(["n"])
                number = int(item.data or b"0") + 1
                mode = {"etag": item.etag} if item.etag else {"concurrency": "first-write"}
                try:
                    await store.write([save("n", str(number).encode(), **mode)])
                except Exception as exc:
                    assert "n" in str(exc)
                    continue
                return

        await asyncio.gather(*(add() for _ in range(10)))
        assert await value(store, "n") == b"10"

    async def test_key_of_another_type_is_an_error_that_names_the_server(self, store, plain):
        await plain.set("text", "x")
        with pytest.raises(ComponentError, match="WRONGTYPE"):
            await store.get(["text"])

    async def test_etag_0_makes_a_value_and_replaces_none(self, store):
        await store.write([save("a", b"1", etag="0")])

        with pytest.raises(ConflictError):
            await store.write([save("a", b"2", etag="0")])
        assert await value(store, "a") == b"1"


@pytest.mark.parametrize(("text", "expected"), [("250", 0.25), ("2s", 2.0), ("", 3.0), ("-1", None)], ids=str)
def test_durations_in_plain_numbers_are_milliseconds(text, expected):
    link = RedisLink(component("state.redis", "127.0.0.1:1", readTimeout=text))

    got = link.client.connection_pool.connection_kwargs["socket_timeout"]
    assert got == (expected if expected is None else expected + BLOCK_S)


async def test_state_that_is_away_is_a_component_error():
    settings = component("state.redis", f"127.0.0.1:{free_port()}")
    store = RedisStates(settings, clock=SystemClock())
    with pytest.raises(ComponentError, match="was not reached"):
        await store.get(["a"])
    await store.close()


class TestRedisBinding(BindingContract):
    request = {"key": "k"}

    @pytest.fixture
    async def binding(self, redis, plain):
        binding = RedisBinding(component("bindings.redis", redis.address, redisDB="1"))
        yield binding
        await binding.close()

    @pytest.fixture
    async def unreachable(self):
        binding = RedisBinding(component("bindings.redis", f"127.0.0.1:{free_port()}"))
        yield binding
        await binding.close()

    async def test_values_are_set_read_taken_and_deleted(self, binding, plain):
        await binding.invoke("create", b"\x00v", {"key": "k", "ttlInSeconds": "50"})
        assert 40 < await plain.ttl("k") <= 50
        assert (await binding.invoke("get", b"", {"key": "k"})).data == b"\x00v"
        assert (await binding.invoke("GET", b"", {"key": "k", "delete": "true"})).data == b"\x00v"
        assert (await binding.invoke("get", b"", {"key": "k"})).data == b""
        await binding.invoke("create", b"v", {"key": "k"})
        await binding.invoke("delete", b"", {"key": "k"})
        assert await plain.exists("k") == 0

    async def test_increment_counts_and_sets_an_end(self, binding, plain):
        assert (await binding.invoke("increment", b"", {"key": "n"})).data == b"1"
        assert (await binding.invoke("increment", b"", {"key": "n", "ttlInSeconds": "50"})).data == b"2"
        assert 40 < await plain.ttl("n") <= 50

    @pytest.mark.parametrize("metadata", [{}, {"key": "k", "ttlInSeconds": "soon"}])
    async def test_request_that_cannot_be_carried_out_is_refused(self, binding, metadata):
        with pytest.raises(ComponentError, match=r"key|ttlInSeconds"):
            await binding.invoke("create", b"x", metadata)
