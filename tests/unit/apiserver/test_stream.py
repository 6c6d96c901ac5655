"""Lists, pages, forms and watches of the REST layer."""

import asyncio

import pytest

from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api
from tests.contract.store import FUNCTIONS, function

ALL = "/apis/core.openfunction.io/v1beta2/functions"
HERE = "/apis/core.openfunction.io/v1beta2/namespaces/default/functions"
TABLE = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


@pytest.fixture
async def store():
    async with MemoryStore(history=50) as store:
        yield store


@pytest.fixture
async def app(store):
    return await api.application(store, namespace=())


@pytest.fixture
def client(app):
    return AsgiClient(app, headers={"authorization": "Bearer t"})


async def names(client, target):
    answer = (await client.request("GET", target)).json()
    return [item["metadata"]["name"] for item in answer["items"]]


async def take(lines, count):
    return [await anext(lines) for _ in range(count)]


def seen(events):
    return [(event["type"], event["object"]["metadata"].get("name")) for event in events]


# -- lists -------------------------------------------------------------------------------------------------


async def test_empty_list_is_a_list(client):
    answer = (await client.request("GET", ALL)).json()

    assert answer == {
        "kind": "FunctionList",
        "apiVersion": "core.openfunction.io/v1beta2",
        "metadata": {"resourceVersion": "0"},
        "items": [],
    }


async def test_long_list_is_whole_json(client, store):
    for number in range(450):
        await store.create(FUNCTIONS, function(f"f{number:03}"))

    assert await names(client, ALL) == [f"f{number:03}" for number in range(450)]
    table = (await client.request("GET", ALL, headers=TABLE)).json()
    assert len(table["rows"]) == 450


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("labelSelector=app%3Da", ["one", "three"]),
        ("labelSelector=app%3D%3Da,tier", ["one"]),
        ("labelSelector=app!%3Da", ["four", "two"]),
        ("labelSelector=!app", ["four"]),
        ("labelSelector=app%20in%20(a,b),!tier", ["three", "two"]),
        ("labelSelector=app%20notin%20(a)", ["four", "two"]),
        ("fieldSelector=metadata.name%3Dtwo", ["two"]),
        ("fieldSelector=metadata.name!%3Dtwo,metadata.namespace%3Ddefault", ["four", "one", "three"]),
        ("fieldSelector=metadata.namespace%3Dnone", []),
    ],
)
async def test_selectors_pick(client, store, selector, expected):
    for name, labels in (
        ("one", {"app": "a", "tier": "x"}),
        ("two", {"app": "b"}),
        ("three", {"app": "a"}),
        ("four", {}),
    ):
        await store.create(FUNCTIONS, function(name, labels=labels))

    assert await names(client, f"{ALL}?{selector}") == expected


@pytest.mark.parametrize(
    "query",
    [
        "labelSelector=a%20b",
        "labelSelector=(",
        "fieldSelector=spec.image%3Dx",
        "fieldSelector=x",
        "limit=-1",
        "limit=x",
        "watch=1&resourceVersion=abc",
        "watch=1&sendInitialEvents=true",
    ],
)
async def test_query_that_cannot_be_read_is_a_bad_request(client, query):
    answer = await client.request("GET", f"{ALL}?{query}")

    assert (answer.status, answer.json()["reason"]) == (400, "BadRequest")


async def test_pages_are_one_snapshot(client, store):
    for number in range(5):
        await store.create(FUNCTIONS, function(f"f{number}"))

    first = (await client.request("GET", f"{ALL}?limit=2")).json()
    await store.delete(FUNCTIONS, "default", "f3")
    await store.create(FUNCTIONS, function("f9"))
    second = (await client.request("GET", f"{ALL}?limit=2&continue={first['metadata']['continue']}")).json()
    last = (await client.request("GET", f"{ALL}?limit=2&continue={second['metadata']['continue']}")).json()

    pages = [[item["metadata"]["name"] for item in page["items"]] for page in (first, second, last)]
    assert pages == [["f0", "f1"], ["f2", "f3"], ["f4"]]
    assert [page["metadata"].get("remainingItemCount") for page in (first, second, last)] == [3, 1, None]
    assert {page["metadata"]["resourceVersion"] for page in (first, second, last)} == {"5"}


async def test_continue_token_that_is_unknown_or_of_another_list_is_gone(client, store):
    for number in range(3):
        await store.create(FUNCTIONS, function(f"f{number}"))
    token = (await client.request("GET", f"{ALL}?limit=2")).json()["metadata"]["continue"]

    for target in (
        f"{HERE}?limit=2&continue={token}",
        f"{ALL}?continue=nonsense",
        f"{ALL}?continue={token}x",
    ):
        answer = await client.request("GET", target)
        assert (answer.status, answer.json()["reason"]) == (410, "Expired")


# -- forms -------------------------------------------------------------------------------------------------


async def test_table_of_the_older_version_says_so(client, store):
    await store.create(FUNCTIONS, function())
    accept = {"accept": TABLE["accept"].replace("v=v1;", "v=v1beta1;")}

    assert (await client.request("GET", ALL, headers=accept)).json()["apiVersion"] == "meta.k8s.io/v1beta1"


async def test_table_has_the_columns_of_the_kind(client, store):
    obj = await store.create(FUNCTIONS, function())
    obj["status"] = {
        "build": {"state": "Succeeded"},
        "addresses": [{"type": "External", "value": "e"}, {"type": "Internal", "value": "http://in"}],
    }
    await store.update(FUNCTIONS, obj, subresource="status")

    table = (await client.request("GET", ALL, headers=TABLE)).json()

    headings = [column["name"] for column in table["columnDefinitions"]]
    assert headings == ["Name", "BuildState", "ServingState", "Builder", "Serving", "Address", "Age"]
    row = table["rows"][0]
    assert row["cells"][:6] == ["hello", "Succeeded", "", "", "", "http://in"]
    assert row["cells"][6].endswith("s")
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["name"] == "hello"


@pytest.mark.parametrize(("include", "kind"), [("None", None), ("Object", "Function")])
async def test_table_rows_carry_what_is_asked_for(client, store, include, kind):
    await store.create(FUNCTIONS, function())

    table = (await client.request("GET", f"{HERE}/hello?includeObject={include}", headers=TABLE)).json()

    assert table["rows"][0].get("object", {}).get("kind") == kind


async def test_metadata_only_form(client, store):
    await store.create(FUNCTIONS, function())
    accept = {"accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

    answer = (await client.request("GET", ALL, headers=accept)).json()

    assert answer["kind"] == "PartialObjectMetadataList"
    assert set(answer["items"][0]) == {"kind", "apiVersion", "metadata"}


@pytest.mark.parametrize("accept", ["application/vnd.kubernetes.protobuf", "text/html"])
async def test_form_that_is_not_served_is_not_acceptable(client, accept):
    assert (await client.request("GET", ALL, headers={"accept": accept})).status == 406


async def test_client_that_prefers_protobuf_gets_json(client):
    accept = {"accept": "application/vnd.kubernetes.protobuf,application/json"}

    assert (await client.request("GET", ALL, headers=accept)).json()["kind"] == "FunctionList"


# -- watches -----------------------------------------------------------------------------------------------


async def test_watch_without_version_begins_with_what_exists(client, store):
    await store.create(FUNCTIONS, function("a"))
    async with client.lines(f"{ALL}?watch=true") as lines:
        first = await anext(lines)
        await store.delete(FUNCTIONS, "default", "a")
        second = await anext(lines)

    assert seen([first, second]) == [("ADDED", "a"), ("DELETED", "a")]
    assert second["object"]["metadata"]["resourceVersion"] == "2"


async def test_watch_resumes_after_a_version_in_its_namespace(client, store):
    await store.create(FUNCTIONS, function("a"))
    async with client.lines(f"{HERE}?watch=1&resourceVersion=1") as lines:
        await store.create(FUNCTIONS, function("b", "elsewhere"))
        await store.create(FUNCTIONS, function("c"))

        assert seen(await take(lines, 1)) == [("ADDED", "c")]


async def test_streamed_list_ends_its_initial_events_with_a_marked_bookmark(client, store):
    await store.create(FUNCTIONS, function("a"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with client.lines(f"{ALL}?{query}") as lines:
        events = await take(lines, 2)

    assert seen(events) == [("ADDED", "a"), ("BOOKMARK", None)]
    assert events[1]["object"] == {
        "kind": "Function",
        "apiVersion": "core.openfunction.io/v1beta2",
        "metadata": {
            "resourceVersion": "1",
            "creationTimestamp": None,
            "annotations": {"k8s.io/initial-events-end": "true"},
        },
    }


async def test_object_that_leaves_or_enters_the_selector_is_deleted_or_added(client, store):
    async with client.lines(f"{ALL}?watch=1&labelSelector=a%3Db") as lines:
        await store.create(FUNCTIONS, function("x"))
        await store.update(FUNCTIONS, function("x", labels={"a": "b"}))
        await store.update(FUNCTIONS, function("x", labels={"a": "b"}, spec={"n": 1}))
        await store.update(FUNCTIONS, function("x", labels={"a": "c"}))
        await store.delete(FUNCTIONS, "default", "x")
        await store.create(FUNCTIONS, function("y", labels={"a": "b"}))
        events = await take(lines, 4)

    assert seen(events) == [("ADDED", "x"), ("MODIFIED", "x"), ("DELETED", "x"), ("ADDED", "y")]


async def test_watch_as_table_sends_tables(client, store):
    async with client.lines(f"{ALL}?watch=1", headers=TABLE) as lines:
        await store.create(FUNCTIONS, function())
        event = await anext(lines)

    assert (event["type"], event["object"]["kind"]) == ("ADDED", "Table")
    assert event["object"]["rows"][0]["cells"][0] == "hello"


async def test_watch_from_before_the_history_is_answered_gone(client, store):
    for number in range(60):
        await store.create(FUNCTIONS, function(f"f{number}"))

    answer = await client.request("GET", f"{ALL}?watch=1&resourceVersion=1")

    assert (answer.status, answer.json()["reason"]) == (410, "Expired")


async def test_watch_that_falls_behind_gets_an_error_event_and_ends(client, store):
    async with client.lines(f"{ALL}?watch=1&resourceVersion=0&sendInitialEvents=false") as lines:
        await store.create(FUNCTIONS, function("first"))
        await anext(lines)
        for number in range(60):  # without a turn for the watch in between
            await store.create(FUNCTIONS, function(f"f{number}"))
        events = [event async for event in lines]

    assert [event["type"] for event in events] == ["ERROR"]
    assert (events[0]["object"]["kind"], events[0]["object"]["code"]) == ("Status", 410)


async def test_watch_ends_after_its_timeout(client):
    async with client.lines(f"{ALL}?watch=1&timeoutSeconds=1") as lines:
        assert [event async for event in lines] == []


async def test_watch_ends_when_the_server_stops(client, app):
    async with client.lines(f"{ALL}?watch=1") as lines:
        await asyncio.sleep(0)
        app.state.stopping.set()

        assert [event async for event in lines] == []


async def test_client_that_leaves_leaves_no_waiter_behind(client, store):
    async with client.lines(f"{ALL}?watch=1") as lines:
        await store.create(FUNCTIONS, function())
        await anext(lines)

    assert not store.log(FUNCTIONS)._waiters
