"""Locks and configuration in a real Redis."""

import asyncio

import pytest
from redis.asyncio import Redis

from pelton.clock import SystemClock
from pelton.drivers.redis import RedisConfiguration, RedisLocks
from pelton.errors import ComponentError
from pelton.model.desired import Component
from tests.contract.configuration import ConfigurationContract, heard, last, watched
from tests.contract.lock import LockContract
from tests.services.server import free_port

pytestmark = pytest.mark.connected


def component(kind, address, **metadata):
    settings = {"redisHost": address, "redisMaxRetries": "0", "redisDB": "3", **metadata}
    return Component(namespace="shop", name="cache", type=kind, metadata=settings)


@pytest.fixture
async def plain(redis):
    """A client of a database that is empty at the start of the test."""
    async with Redis(host="127.0.0.1", port=redis.port, db=3, protocol=2) as client:
        await client.flushdb()
        yield client


async def write(client, key, value, version):
    if value is None:
        await client.delete(key)
    else:
        await client.set(key, f"{value}||{version}" if version else value)


class TestRedisLocks(LockContract):
    @pytest.fixture
    def clock(self):
        return None

    @pytest.fixture
    async def lock(self, redis, plain):
        lock = RedisLocks(component("lock.redis", redis.address), clock=SystemClock())
        yield lock
        await lock.close()

    async def test_server_that_is_away_is_a_component_error(self):
        lock = RedisLocks(component("lock.redis", f"127.0.0.1:{free_port()}"), clock=SystemClock())
        with pytest.raises(ComponentError, match="was not reached"):
            await lock.try_lock("a", "one", 1)
        with pytest.raises(ComponentError, match="was not reached"):
            await lock.unlock("a", "one")
        await lock.close()


class TestRedisConfiguration(ConfigurationContract):
    @pytest.fixture
    async def store(self, redis, plain):
        store = RedisConfiguration(component("configuration.redis", redis.address), clock=SystemClock())
        yield store
        await store.close()

    @pytest.fixture
    def put(self, plain):
        async def put(key, value, version):
            await write(plain, key, value, version)

        return put

    async def test_keys_that_are_no_strings_are_left_out_of_all(self, store, plain):
        await plain.set("a", "1")
        await plain.hset("hash", "x", "y")

        assert set(await store.get([])) == {"a"}

    async def test_server_that_is_away_at_the_start_is_an_error(self):
        address = f"127.0.0.1:{free_port()}"
        store = RedisConfiguration(component("configuration.redis", address), clock=SystemClock())
        with pytest.raises(ComponentError, match="was not reached"):
            await anext(store.subscribe(["a"]))
        await store.close()


async def test_change_while_the_server_was_gone_is_told_afterwards(own_server):
    server = own_server("redis")
    store = RedisConfiguration(component("configuration.redis", server.address), clock=SystemClock())
    async with Redis(host="127.0.0.1", port=server.port, db=3, protocol=2) as client:

        async def put(key, value, version):
            await write(client, key, value, version)

        async with watched(store, ["a"]) as found:
            await heard(found, put)
            server.kill()
            await asyncio.to_thread(server.start)
            await put("a", "later", "9")
            async with asyncio.timeout(30):
                assert (await last(found, "later"))[-1][1].version == "9"
    await store.close()
