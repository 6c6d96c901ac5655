import asyncio

import pytest

from pelton.controlplane.services import FUNCTIONS, SERVICES, SLICES, ServiceKeeper
from pelton.errors import NotFoundError
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
def keeper(store):
    return ServiceKeeper(store, gateway=("127.0.0.1", 8080), clock=FakeClock())


def function(**triggers):
    return {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {"serving": {"triggers": triggers}},
    }


async def names(store, resource):
    return [obj["metadata"]["name"] for obj in (await store.list(resource))[0]]


async def test_http_function_gets_a_service_and_a_slice_that_go_with_it(store, keeper):
    made = await store.create(FUNCTIONS, function(http={}))
    await keeper.keep(made)

    service = await store.get(SERVICES, "default", "hello")
    piece = await store.get(SLICES, "default", "hello-gateway")
    assert service["spec"]["ports"][0]["targetPort"] == piece["ports"][0]["port"] == 8080
    assert piece["endpoints"][0]["addresses"] == ["127.0.0.1"]
    assert piece["metadata"]["labels"]["kubernetes.io/service-name"] == "hello"
    for obj in (service, piece):
        assert obj["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]


async def test_function_of_events_has_none_and_loses_what_it_had(store, keeper):
    made = await store.create(FUNCTIONS, function(http={}))
    await keeper.keep(made)
    changed = await store.update(FUNCTIONS, {**made, "spec": function(dapr=[{}])["spec"]})
    await keeper.keep(changed)

    assert await names(store, SERVICES) == await names(store, SLICES) == []


async def test_service_of_somebody_else_is_left_alone(store, keeper):
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello", "namespace": "default"}}
    await store.create(SERVICES, {**theirs, "spec": {"type": "ExternalName", "externalName": "x.example"}})
    made = await store.create(FUNCTIONS, function(http={}))

    await keeper.keep(made)
    await keeper.keep(await store.update(FUNCTIONS, {**made, "spec": function()["spec"]}))

    assert (await store.get(SERVICES, "default", "hello"))["spec"]["externalName"] == "x.example"


async def test_gateway_that_moved_is_written_into_the_slices(store, keeper):
    made = await store.create(FUNCTIONS, function(http={}))
    await keeper.keep(made)
    await ServiceKeeper(store, gateway=("0.0.0.0", 9090), clock=FakeClock()).keep(made)

    piece = await store.get(SLICES, "default", "hello-gateway")
    assert (piece["ports"][0]["port"], piece["endpoints"][0]["addresses"]) == (9090, ["127.0.0.1"])


async def test_deleted_service_of_a_living_function_comes_back(store, keeper):
    made = await store.create(FUNCTIONS, function(http={}))
    running = asyncio.create_task(keeper.run())
    try:
        async with asyncio.timeout(4):
            async for event in store.watch(SERVICES):
                if event.type == "ADDED":
                    break
            await store.delete(SERVICES, "default", "hello")
            async for event in store.watch(SERVICES):
                if event.type == "ADDED":
                    break
            await store.delete(FUNCTIONS, "default", "hello")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert event.object["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    with pytest.raises(NotFoundError):
        await store.get(FUNCTIONS, "default", "hello")
