"""A disk that takes no more: nothing is half there, nothing that was stored is lost, nothing waits for ever.

`disk.py` shows it, or what a server itself does when its disk is full.
"""

import asyncio
import json
import os
import resource

import pytest
from redis.asyncio import Redis

from pelton.clock import SystemClock
from pelton.drivers.kafka import KafkaBus
from pelton.drivers.local_storage import LocalStorageBinding
from pelton.drivers.postgresql import PostgreSqlBinding, PostgreSqlStates
from pelton.drivers.rabbitmq import RabbitMqBus
from pelton.drivers.redis import RedisBus, RedisStates
from pelton.drivers.state_sqlite import SqliteStates
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.bus import take, texts
from tests.contract.disk import full, mounted
from tests.contract.state import save, value
from tests.services.kafka import QUICK


@pytest.fixture
def small_disk():
    """Room for a database, and not for much in it."""
    with mounted(96) as disk:
        yield disk


async def test_file_that_finds_no_room_is_an_error_and_leaves_nothing(tmp_path):
    component = Component(
        namespace="a", name="b", type="bindings.localstorage", metadata={"rootPath": str(tmp_path)}
    )
    binding = LocalStorageBinding(component)
    await binding.invoke("create", b"before", {"fileName": "a"})
    with full(), pytest.raises(DeliveryError) as caught:
        await binding.invoke("create", b"x" * 1_000_000, {"fileName": "a"})

    assert caught.value.retriable
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"before")]
    await binding.invoke("create", b"x" * 1_000_000, {"fileName": "a"})


async def test_state_that_finds_no_room_is_an_error_and_goes_on_when_there_is_some(tmp_path):
    component = Component(
        namespace="a", name="b", type="state.sqlite", metadata={"connectionString": "orders.db"}
    )
    store = SqliteStates(component, clock=SystemClock(), folder=tmp_path)
    await store.write([save("a", b'"before"')])
    with full(), pytest.raises(ComponentError, match="cannot be used"):
        await store.write([save("a", b'"%s"' % (b"x" * 2_000_000)), save("b")])

    assert await value(store, "a") == b'"before"'
    assert await value(store, "b") is None
    await store.write([save("a", b'"after"')])
    assert await value(store, "a") == b'"after"'
    await store.close()


@pytest.mark.connected
async def test_redis_without_room_refuses_and_takes_again_when_there_is_some(own_server):
    server = own_server("redis")
    metadata = {"redisHost": server.address, "redisMaxRetries": "0"}
    bus = RedisBus(
        Component(namespace="a", name="b", type="pubsub.redis", metadata=metadata), clock=SystemClock()
    )
    store = RedisStates(
        Component(namespace="a", name="b", type="state.redis", metadata=metadata), clock=SystemClock()
    )
    async with Redis(host="127.0.0.1", port=server.port, protocol=2) as client:
        await bus.publish(Message(topic="orders", data=b"1"))
        await client.config_set("maxmemory", "1")
        with pytest.raises(DeliveryError, match="maxmemory") as caught:
            await bus.publish(Message(topic="orders", data=b"2"))
        assert caught.value.retriable
        with pytest.raises(ComponentError, match="maxmemory"):
            await store.write([save("a")])
        await client.config_set("maxmemory", "0")
        await bus.publish(Message(topic="orders", data=b"2"))

    assert texts(await take(bus, "orders", 2)) == ["1", "2"]
    await bus.close()
    await store.close()


@pytest.mark.connected
async def test_postgresql_on_a_full_disk_refuses_ends_and_goes_on_with_all_that_it_took(
    small_disk, own_server
):
    """First no table can grow, then its log finds no room, at which the server ends itself."""
    server = own_server("postgresql", disk=small_disk.path)
    metadata = {"connectionString": server.url, "timeout": "10s"}
    store = PostgreSqlStates(
        Component(namespace="a", name="b", type="state.postgresql", version="v1", metadata=metadata),
        clock=SystemClock(),
    )
    binding = PostgreSqlBinding(
        Component(namespace="a", name="c", type="bindings.postgresql", metadata=metadata)
    )
    insert = {"sql": "INSERT INTO orders VALUES ($1)"}
    await binding.invoke("exec", b"", {"sql": "CREATE TABLE orders (item text)"})
    await store.write([save("a", b'"before"')])
    await binding.invoke("exec", b"", {**insert, "params": '["before"]'})

    small_disk.fill()
    noise = os.urandom(1_000_000).hex()  # nothing that can be compressed
    with pytest.raises(ComponentError, match="No space left"):
        await store.write([save("a", b'"%s"' % noise.encode()), save("b", b"1")])
    with pytest.raises(DeliveryError, match="No space left") as caught:
        await binding.invoke("exec", b"", {**insert, "params": f'["{noise}"]'})
    assert caught.value.retriable
    assert await value(store, "a") == b'"before"'
    assert await value(store, "b") is None

    taken = 0
    with pytest.raises((ComponentError, DeliveryError), match=r"not reached|refused|No space left"):
        for taken in range(1000):
            await store.write([save("c", b"%d" % taken)])
            await binding.invoke("exec", b"", {"sql": "SELECT pg_switch_wal()"})
    async with asyncio.timeout(20):
        while server.process.poll() is None:
            await asyncio.sleep(0.05)
    with pytest.raises(ComponentError, match="not reached"):
        await store.get(["c"])

    small_disk.free()
    await asyncio.to_thread(server.start)
    assert await value(store, "a") == b'"before"'
    # Of the last change nobody has said whether it was made.
    assert int(await value(store, "c")) in (taken - 1, taken)
    await store.write([save("a", b'"after"'), save("b", b"1")])
    await binding.invoke("exec", b"", {**insert, "params": '["after"]'})
    found = await binding.invoke("query", b"", {"sql": "SELECT item FROM orders"})
    assert json.loads(found.data) == [["before"], ["after"]]
    assert await value(store, "a") == b'"after"'
    await binding.close()
    await store.close()


@pytest.mark.connected
@pytest.mark.timeout(90)
async def test_rabbitmq_without_room_is_an_error_in_time_and_takes_again_when_there_is_some(own_server):
    server = own_server("rabbitmq")
    metadata = {"connectionString": server.url, "durable": "true", "deletedWhenUnused": "false"}
    bus = RabbitMqBus(
        Component(namespace="a", name="b", type="pubsub.rabbitmq", metadata=metadata), clock=SystemClock()
    )
    await bus.prepare("orders", consumer="c", options={})
    await bus.publish(Message(topic="orders", data=b"1"))
    await asyncio.to_thread(server.keep_free, "1000000GB")
    async with asyncio.timeout(40):
        with pytest.raises(DeliveryError) as caught:
            await bus.publish(Message(topic="orders", data=b"2"))
    assert caught.value.retriable

    await asyncio.to_thread(server.keep_free, "1MB")
    async with asyncio.timeout(20):
        await bus.publish(Message(topic="orders", data=b"3"))
    found: list[str] = []
    async with asyncio.timeout(20):
        while "3" not in found:
            found += texts(await take(bus, "orders", 1, consumer="c"))
    # What was given up may have been stored all the same: at least once.
    assert found in (["1", "3"], ["1", "2", "3"])
    await bus.close()


@pytest.mark.connected
@pytest.mark.timeout(90)
async def test_kafka_without_room_ends_and_goes_on_with_all_that_was_stored(own_server):
    """A broker whose only log directory fails ends itself; publishers wait for the next one."""
    server = own_server("kafka", settings=QUICK)
    metadata = {"brokers": server.address, "authType": "none", "initialOffset": "oldest"}
    async with KafkaBus(metadata) as bus, asyncio.timeout(80):
        await bus.create_topic("orders", partitions=1, replicas=1, config={})
        await bus.publish(Message(topic="orders", data=b"1"))
        assert server.process is not None
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, 1))
        late = asyncio.create_task(bus.publish(Message(topic="orders", data=b"2")))
        await asyncio.to_thread(server.process.wait)
        assert not late.done()
        await asyncio.to_thread(server.start)
        await late
        found = texts(await take(bus, "orders", 2))
    assert found == ["1", "2"]
