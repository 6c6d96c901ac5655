"""What the API does when disks, clocks and clients misbehave."""

import asyncio
import gzip
import json
import socket
from typing import Any

import pytest

from pelton.apiserver.builtin import namespaces
from pelton.apiserver.builtin.events import EVENTS_KEY, Expiry
from pelton.apiserver.registry import Registry
from pelton.apiserver.server import ApiServer
from pelton.apiserver.store import SqliteStore
from pelton.clock import SystemClock
from pelton.testing.asgi_client import AsgiClient
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore
from tests.contract import api

MAPS = "/api/v1/namespaces/default/configmaps"
MERGE = {"content-type": "application/merge-patch+json"}
ADMIN = {"authorization": "Bearer t"}


def config_map(name="x", **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


class Slow:
    """Admission that gives others a turn in the middle of every write."""

    def concerns(self, row, operation, subresource, /):
        return True

    async def mutate(self, review, /):
        await asyncio.sleep(0)
        return review.object, ()

    async def validate(self, review, /):
        await asyncio.sleep(0)
        return ()


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


async def slow_client(store, monkeypatch):
    """Return a client of an API in which writes overlap."""
    service = api.service(store)
    monkeypatch.setattr(service.writer, "_admission", Slow())
    await namespaces.ensure(store, ["default"])
    return AsgiClient(service.app, headers=ADMIN)


async def test_full_disk_refuses_the_write_and_keeps_everything_else(tmp_path):
    path = tmp_path / "store.db"
    async with SqliteStore(path, clock=SystemClock()) as store:
        client = AsgiClient(await api.application(store), headers=ADMIN)
        await client.request("POST", MAPS, config_map("small", a="1"))
        version = store.version
        journal: Any = store._journal
        db = journal._db
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")  # as a disk without a free block
        refused = await client.request("POST", MAPS, config_map("big", a="x" * 500_000))
        patched = await client.request(
            "PATCH", f"{MAPS}/small", {"data": {"b": "y" * 500_000}}, headers=MERGE
        )
        during = await client.request("GET", f"{MAPS}/small")
        db.execute("PRAGMA max_page_count = 1000000")
        later = await client.request("POST", MAPS, config_map("later"))
    async with SqliteStore(path, clock=SystemClock()) as store:
        kept = [entry.name for entry in store.entries("configmaps")]

    assert (refused.status, refused.json()["reason"]) == (507, "InsufficientStorage")
    assert "free disk space" in refused.json()["message"]
    assert patched.status == 507
    assert during.json()["data"] == {"a": "1"}
    assert later.json()["metadata"]["resourceVersion"] == str(version + 1)
    assert kept == ["later", "small"]


async def test_clock_that_steps_back_changes_no_order():
    clock = FakeClock()
    async with MemoryStore(clock=clock) as store:
        client = AsgiClient(await api.application(store, clock=clock), headers=ADMIN)
        first = (await client.request("POST", MAPS, config_map())).json()["metadata"]
        clock._offset -= clock.now() - clock.now().replace(year=2020)
        second = await client.request("PATCH", f"{MAPS}/x", {"data": {"a": "1"}}, headers=MERGE)
        third = await client.request("POST", MAPS, config_map("y"))
        listed = await client.request("GET", f"{MAPS}?resourceVersion={first['resourceVersion']}")

    versions = [int(answer.json()["metadata"]["resourceVersion"]) for answer in (second, third)]
    assert int(first["resourceVersion"]) < versions[0] < versions[1]
    assert second.json()["metadata"]["creationTimestamp"] == first["creationTimestamp"]
    assert third.json()["metadata"]["creationTimestamp"].startswith("2020-")
    assert len(listed.json()["items"]) == 2


async def test_patches_that_overlap_lose_nothing(store, monkeypatch):
    client = await slow_client(store, monkeypatch)
    await client.request("POST", MAPS, config_map())

    async def patch(number):
        return await client.request("PATCH", f"{MAPS}/x", {"data": {f"k{number}": "v"}}, headers=MERGE)

    answers = await asyncio.gather(*(patch(number) for number in range(6)))

    assert {answer.status for answer in answers} == {200}
    assert len((await client.request("GET", f"{MAPS}/x")).json()["data"]) == 6


async def test_of_two_replacements_of_one_version_one_wins(store, monkeypatch):
    client = await slow_client(store, monkeypatch)
    read = (await client.request("POST", MAPS, config_map())).json()

    answers = await asyncio.gather(
        *(client.request("PUT", f"{MAPS}/x", {**read, "data": {"who": who}}) for who in "ab")
    )

    assert sorted(answer.status for answer in answers) == [200, 409]


async def test_of_two_creations_of_one_name_one_wins(store, monkeypatch):
    client = await slow_client(store, monkeypatch)

    answers = await asyncio.gather(*(client.request("POST", MAPS, config_map(who=who)) for who in "ab"))

    assert sorted(answer.status for answer in answers) == [201, 409]


async def test_list_of_ten_thousand_while_they_are_written_is_one_moment(store):
    client = AsgiClient(await api.application(store), headers=ADMIN)
    for number in range(10_000):
        await store.create(
            "configmaps", {**config_map(), "metadata": {"name": f"c{number:05}", "namespace": "default"}}
        )

    async def write():
        for number in range(9_999, 9_799, -1):
            path = f"{MAPS}/c{number:05}"
            await client.request("PATCH", path, {"data": {"seen": "later"}}, headers=MERGE)

    writing = asyncio.create_task(write())
    listed = (await client.request("GET", MAPS)).json()
    await writing

    version = int(listed["metadata"]["resourceVersion"])
    assert len(listed["items"]) == 10_000
    assert all(int(item["metadata"]["resourceVersion"]) <= version for item in listed["items"])


async def test_long_answers_are_compressed_for_those_who_take_it(store):
    client = AsgiClient(await api.application(store), headers=ADMIN)
    for number in range(300):
        await store.create(
            "configmaps",
            {**config_map(a="x" * 1000), "metadata": {"name": f"c{number:03}", "namespace": "default"}},
        )

    streamed = await client.request("GET", MAPS, headers={"accept-encoding": "deflate, gzip;q=0.5"})
    page = await client.request("GET", f"{MAPS}?limit=150", headers={"accept-encoding": "gzip"})
    plain = await client.request("GET", MAPS, headers={"accept-encoding": "gzip;q=0"})

    assert [answer.all("content-encoding") for answer in (streamed, page, plain)] == [["gzip"], ["gzip"], []]
    assert json.loads(gzip.decompress(streamed.body)) == plain.json()
    assert len(json.loads(gzip.decompress(page.body))["items"]) == 150


@pytest.mark.parametrize(("validation", "status"), [("Strict", 400), ("Warn", 201), ("Ignore", 201)])
async def test_field_that_is_there_twice_is_told(store, validation, status):
    client = AsgiClient(await api.application(store), headers=ADMIN)
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"1","a":"2"}}'

    answer = await client.request("POST", f"{MAPS}?fieldValidation={validation}", body)

    assert answer.status == status
    if validation == "Strict":
        assert 'strict decoding error: duplicate field "data.a"' in answer.json()["message"]
    else:
        assert answer.json()["data"] == {"a": "2"}
        assert bool(answer.all("warning")) is (validation == "Warn")


async def test_events_end_after_an_hour_and_the_oldest_make_room():
    clock = FakeClock()
    async with MemoryStore(clock=clock) as store:
        for number in range(5):
            await store.create(
                EVENTS_KEY,
                {
                    "apiVersion": "v1",
                    "kind": "Event",
                    "metadata": {"name": f"e{number}", "namespace": "default"},
                },
            )
            await clock.advance(60)
        few = Expiry(store, clock, most=3)
        few.sweep()
        after_room = [entry.name for entry in store.entries(EVENTS_KEY)]
        await clock.advance(3600 - 90)
        few.sweep()

        assert after_room == ["e2", "e3", "e4"]
        assert [entry.name for entry in store.entries(EVENTS_KEY)] == ["e4"]


async def test_watcher_that_stops_reading_is_cut_off(store):
    service = api.service(store)
    await namespaces.ensure(store, ["default"])
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with ApiServer(service.app, sock, stalled_s=0.5) as server:
        reader, writer = await asyncio.open_connection(*sock.getsockname(), limit=1024, family=socket.AF_INET)
        writer.write(f"GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        transport: Any = writer.transport
        transport.pause_reading()
        for number in range(40):
            await store.create(
                "configmaps",
                {**config_map(a="x" * 200_000), "metadata": {"name": f"c{number}", "namespace": "default"}},
            )
            await asyncio.sleep(0)
        assert server._server is not None
        async with asyncio.timeout(4.5):
            while server._server.server_state.connections:
                await asyncio.sleep(0.05)
        transport.abort()

    assert not store.log("configmaps")._waiters


def test_a_registry_needs_one_storage_version():
    row = next(iter(Registry(api.own_rows()).rows()))
    registry = Registry()

    with pytest.raises(ValueError, match="storage"):
        registry.add([row, row])
    assert registry.rows() == []
