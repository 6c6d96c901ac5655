"""A disk that takes no more, as the kernel's limit on the size of files shows it: nothing is half there."""

import resource
from contextlib import contextmanager

import pytest
from redis.asyncio import Redis

from pelton.clock import SystemClock
from pelton.drivers.local_storage import LocalStorageBinding
from pelton.drivers.redis import RedisBus, RedisStates
from pelton.drivers.state_sqlite import SqliteStates
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.bus import take, texts
from tests.contract.state import save, value


@contextmanager
def full(size=256 * 1024):
    """Let no file of this process grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
