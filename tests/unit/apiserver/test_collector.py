"""Garbage collection and the emptying of namespaces."""

import logging

import pytest

from pelton.apiserver.builtin import namespaces
from pelton.apiserver.builtin.namespaces import Terminator
from pelton.apiserver.collector import Collector
from pelton.clock import SystemClock
from pelton.errors import NotFoundError
from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api

MAPS = "/api/v1/namespaces/default/configmaps"
LOG = logging.getLogger("test")


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def world(store):
    """Return (client, settle): settle runs the controllers until there is nothing to do."""
    await namespaces.ensure(store, ["default", "other"])
    service = api.service(store)
    rest = (store, service.registry, service.writer, SystemClock(), LOG)
    collector, terminator = Collector(*rest), Terminator(*rest)

    async def settle():
        for _ in range(5):
            assert await collector.settle() == []
            await terminator.settle()

    return AsgiClient(service.app, headers={"authorization": "Bearer t"}), settle


async def make(client, name, *owners, namespace="default", **metadata):
    references = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": o["name"], "uid": o["uid"], **o.get("more", {})}
        for o in owners
    ]
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **metadata, **({"ownerReferences": references} if references else {})},
    }
    answer = await client.request("POST", MAPS.replace("default", namespace), body)
    assert answer.status == 201, answer.body
    return answer.json()["metadata"]


async def delete(client, name, policy="Background"):
    return await client.request("DELETE", f"{MAPS}/{name}", {"propagationPolicy": policy})


async def names(store, namespace="default"):
    return [entry.name for entry in store.entries("configmaps", namespace)]


async def test_dependents_go_after_their_owner(world, store):
    client, settle = world
    owner = await make(client, "owner")
    child = await make(client, "child", owner)
    await make(client, "grandchild", child)
    await make(client, "stranger")

    await delete(client, "owner")
    await settle()

    assert await names(store) == ["stranger"]


async def test_dependent_stays_while_one_owner_is_left_and_forgets_the_other(world, store):
    client, settle = world
    one, two = await make(client, "one"), await make(client, "two")
    await make(client, "child", one, two)

    await delete(client, "one")
    await settle()

    child = await store.get("configmaps", "default", "child")
    assert [owner["name"] for owner in child["metadata"]["ownerReferences"]] == ["two"]


async def test_foreground_waits_for_blocking_dependents(world, store):
    client, settle = world
    owner = await make(client, "owner")
    await make(client, "child", {**owner, "more": {"blockOwnerDeletion": True}}, finalizers=["a.b/c"])

    answer = await delete(client, "owner", "Foreground")
    await settle()
    waiting = await names(store)
    await client.request(
        "PATCH",
        f"{MAPS}/child",
        {"metadata": {"finalizers": None}},
        headers={"content-type": "application/merge-patch+json"},
    )
    await settle()

    assert answer.json()["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert waiting == ["child", "owner"]
    assert await names(store) == []


async def test_orphan_releases_the_dependents(world, store):
    client, settle = world
    owner = await make(client, "owner")
    await make(client, "child", owner)

    await delete(client, "owner", "Orphan")
    await settle()

    assert await names(store) == ["child"]
    assert "ownerReferences" not in (await store.get("configmaps", "default", "child"))["metadata"]


async def test_object_whose_owner_never_existed_goes(world, store):
    client, settle = world
    await make(client, "child", {"name": "none", "uid": "0"})
    await settle()

    assert await names(store) == []


async def test_owner_of_another_namespace_does_not_count(world, store):
    client, settle = world
    owner = await make(client, "owner", namespace="other")
    await make(client, "child", owner)
    await settle()

    assert await names(store) == []


async def test_owner_of_a_kind_that_is_not_served_is_left_alone(world, store):
    client, settle = world
    await make(
        client, "child", {"name": "d", "uid": "0", "more": {"apiVersion": "example.com/v1", "kind": "Gadget"}}
    )
    await settle()

    assert await names(store) == ["child"]


async def test_collector_started_later_knows_what_is_there(store):
    async with api.service(store) as service:
        client = AsgiClient(service.app, headers={"authorization": "Bearer t"})
        owner = await make(client, "owner")
        await make(client, "child", owner)
    collector = Collector(store, service.registry, service.writer, SystemClock(), LOG)

    await delete(client, "owner")
    await collector.settle()

    assert await names(store) == []


async def test_deleted_namespace_takes_its_contents_with_it(world, store):
    client, settle = world
    await make(client, "a", namespace="other")
    await make(client, "held", namespace="other", finalizers=["a.b/c"])

    answer = await client.request("DELETE", "/api/v1/namespaces/other")
    await settle()
    shown = (await client.request("GET", "/api/v1/namespaces/other")).json()
    refused = await client.request(
        "POST",
        MAPS.replace("default", "other"),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}},
    )
    await client.request(
        "PATCH",
        f"{MAPS.replace('default', 'other')}/held",
        {"metadata": {"finalizers": []}},
        headers={"content-type": "application/merge-patch+json"},
    )
    await settle()

    assert answer.json()["status"]["phase"] == shown["status"]["phase"] == "Terminating"
    assert shown["status"]["conditions"][0]["message"].endswith("configmaps has 1 resource instances")
    assert (refused.status, refused.json()["reason"]) == (403, "Forbidden")
    assert refused.json()["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    with pytest.raises(NotFoundError):
        store.entry("namespaces", "", "other")


async def test_default_namespace_cannot_be_deleted(world):
    client, _ = world

    answer = await client.request("DELETE", "/api/v1/namespaces/default")

    assert (answer.status, answer.json()["reason"]) == (403, "Forbidden")
