"""The unmodified `dapr` SDK against the runtime: every block that is served, and how refusals look to it.

Stores and brokers: memory, SQLite, JetStream with a real server, Redis with a real server.
"""

import asyncio
import json
import threading
import uuid

import grpc
import pytest
from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError, DaprInternalError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions
from dapr.conf import settings
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from pelton.compat.dapr.apps import App
from pelton.model.resiliency import ComponentTarget, Resiliency, ResiliencyTarget
from tests.conformance.dapr_api import Api, component
from tests.contract.nats_server import NatsServer

FIRST = StateOptions(concurrency=Concurrency.first_write, consistency=Consistency.strong)


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dapr")
    (folder / "secrets.json").write_text('{"db": {"user": "u", "password": "p"}, "flat": "f"}')
    common = [
        component("bus", "pubsub.in-memory"),
        component("memory", "state.in-memory"),
        component("sqlite", "state.sqlite", connectionString=str(folder / "state.db")),
        component(
            "vault", "secretstores.local.file", secretsFile=str(folder / "secrets.json"), multiValued="true"
        ),
        component("settings", "configuration.in-memory", color="red||7", size="9"),
        component("locks", "lock.in-memory"),
        component("files", "bindings.localstorage", rootPath=str(folder / "files")),
    ]
    with Api(App(app_id="a"), App(app_id="locked", api_token="t-1"), folder=folder) as found:
        found.common = common
        found.sync(*common)
        yield found


@pytest.fixture
def client(api, monkeypatch):
    return connect(api, monkeypatch)


def operation(kind, key, data=None, etag=None):
    return TransactionalStateOperation(key=key, data=data, etag=etag, operation_type=kind)


def connect(api, monkeypatch, app_id="a", token=None):
    monkeypatch.setattr(settings, "DAPR_HTTP_PORT", api.ports[app_id][0])
    monkeypatch.setattr(settings, "DAPR_API_TOKEN", token)
    return DaprClient(api.grpc(app_id))


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.connected)])
def store(request, api):
    if request.param == "redis":
        address = request.getfixturevalue("redis").address
        host = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
        api.sync(*api.common, component("redis", "state.redis", redisHost=host))
    return request.param


# ---- state -------------------------------------------------------------------------------------------------


def test_state_round_trip(client, store):
    key = uuid.uuid4().hex
    with client:
        client.save_state(store, key, b"\x00\xff")
        found = client.get_state(store, key)
        client.delete_state(store, key)

        assert found.data == b"\x00\xff"
        assert found.etag
        assert client.get_state(store, key).data == b""


def test_etag_and_first_write(client, store):
    key = uuid.uuid4().hex
    with client:
        client.save_state(store, key, "1")
        etag = client.get_state(store, key).etag
        client.save_state(store, key, "2", etag=etag, options=FIRST)
        for options in (FIRST, None):
            with pytest.raises(grpc.RpcError) as refused:
                client.save_state(store, key, "3", etag=etag, options=options)

            assert refused.value.code() is grpc.StatusCode.ABORTED
        with pytest.raises(grpc.RpcError) as refused:
            client.save_state(store, key, "3", options=FIRST)
        assert refused.value.code() is grpc.StatusCode.ABORTED
        with pytest.raises(grpc.RpcError):
            client.delete_state(store, key, etag=etag)

        assert client.get_state(store, key).data == b"2"


def test_bulk_and_transaction(client, store):
    one, two = uuid.uuid4().hex, uuid.uuid4().hex
    with client:
        client.save_bulk_state(store, [StateItem(key=one, value="1"), StateItem(key=two, value="2")])
        found = client.get_bulk_state(store, [two, "absent", one]).items
        client.execute_state_transaction(
            store,
            [
                operation(TransactionOperationType.delete, one),
                operation(TransactionOperationType.upsert, two, "3"),
            ],
        )
        with pytest.raises(grpc.RpcError) as refused:
            client.execute_state_transaction(
                store,
                [
                    operation(TransactionOperationType.upsert, one, "9"),
                    operation(TransactionOperationType.upsert, two, "9", "77777"),
                ],
            )

        assert sorted((item.key, item.data) for item in found) == sorted(
            [(two, b"2"), ("absent", b""), (one, b"1")]
        )
        assert refused.value.code() is grpc.StatusCode.ABORTED
        assert client.get_state(store, one).data == b""
        assert client.get_state(store, two).data == b"3"


def test_time_to_live(client, store):
    key = uuid.uuid4().hex
    with client:
        client.save_state(store, key, "1", state_metadata={"ttlInSeconds": "100"})
        with pytest.raises(grpc.RpcError) as refused:
            client.save_state(store, key, "1", state_metadata={"ttlInSeconds": "x"})

        assert client.get_state(store, key).data == b"1"
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.filterwarnings("ignore:.*Alpha:UserWarning")
def test_query_of_json_values(client):
    json_type = {"contentType": "application/json"}
    with client:
        for name, age in (("ada", 36), ("bob", 20)):
            value = json.dumps({"name": name, "age": age, "kind": "sdk-query"})
            client.save_state("memory", f"person-{name}", value, state_metadata=json_type)
        asked = {"filter": {"EQ": {"kind": "sdk-query"}}, "sort": [{"key": "age"}]}

        found = client.query_state("memory", json.dumps(asked))

        assert [json.loads(item.value)["name"] for item in found.results] == ["bob", "ada"]
        with pytest.raises(grpc.RpcError) as refused:
            client.save_state("memory", "k", "{no", state_metadata=json_type)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_unknown_store_has_details(client):
    with client, pytest.raises(DaprGrpcError) as refused:
        client.get_state("nowhere", "k")

    status = rpc_status.from_call(refused.value.__cause__)
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.domain) == ("DAPR_STATE_NOT_FOUND", "dapr.io")
    assert status.message == "state store nowhere is not found"


def test_illegal_key_names_the_store_and_the_field(client):
    with client, pytest.raises(DaprGrpcError) as refused:
        client.get_state("memory", "a||b")

    status = rpc_status.from_call(refused.value.__cause__)
    about, bad = error_details_pb2.ResourceInfo(), error_details_pb2.BadRequest()
    status.details[1].Unpack(about)
    status.details[2].Unpack(bad)
    assert (about.resource_type, about.resource_name) == ("state", "memory")
    assert bad.field_violations[0].field == "a||b"


# ---- topics ------------------------------------------------------------------------------------------------


def test_publish_and_bulk_publish(client, api):
    topic = uuid.uuid4().hex
    with client:
        client.publish_event(
            "bus",
            topic,
            json.dumps({"n": 1}),
            data_content_type="application/json",
            publish_metadata={"cloudevent.subject": "s"},
        )
        client.publish_event("bus", topic, b"\xff", data_content_type="application/octet-stream")
        failed = client.publish_events("bus", topic, ["x", "y"], data_content_type="text/plain")

    events = [json.loads(message.data) for message in api.bus.messages(topic)]
    assert list(failed.failed_entries) == []
    assert events[0]["data"] == {"n": 1}
    assert (events[0]["source"], events[0]["subject"]) == ("a", "s")
    assert events[1]["data_base64"] == "/w=="
    assert sorted(event["data"] for event in events[2:]) == ["x", "y"]
    assert all(event["traceparent"] == event["traceid"] for event in events)


def test_publish_to_unknown_and_empty_names(client):
    with client:
        for pubsub, topic in (("nowhere", "t"), ("bus", "")):
            with pytest.raises((grpc.RpcError, ValueError)):
                client.publish_event(pubsub, topic, "x")


@pytest.mark.connected
def test_publish_is_stored_by_jetstream_once_it_is_there(api, monkeypatch, tmp_path):
    server = NatsServer(tmp_path)
    asyncio.run(server.start())  # for a port of its own
    server.kill()
    api.jetstream = server.bus
    api.sync(*api.common, component("stream", "pubsub.jetstream", init_timeout_s=0.5))
    try:
        with connect(api, monkeypatch) as client:
            with pytest.raises(grpc.RpcError) as refused:
                client.publish_event("stream", "orders.new", "x")
            asyncio.run(server.start())
            client.publish_event("stream", "orders.new", '{"n": 1}', data_content_type="application/json")
        stored = api.call(stored_by(server, "orders.new"))
    finally:
        api.sync(*api.common)
        server.kill()

    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert json.loads(stored)["data"] == {"n": 1}


async def stored_by(server, topic):
    async with server.bus() as bus:
        async for batch in bus.subscribe(topic, consumer="reader", max_in_flight=1, options={}):
            await batch[0].ack()
            return batch[0].message.data
    raise AssertionError("the iteration ended")


# ---- the other blocks --------------------------------------------------------------------------------------


def test_binding(client):
    with client:
        made = client.invoke_binding("files", "create", "text", {"fileName": "sdk"})
        read = client.invoke_binding("files", "get", "", {"fileName": "sdk"})
        with pytest.raises(grpc.RpcError) as refused:
            client.invoke_binding("files", "fly")

    assert made.json()["fileName"].endswith("/sdk")
    assert read.text() == "text"
    assert refused.value.code() is grpc.StatusCode.INTERNAL


def test_secrets(client):
    with client:
        assert client.get_secret("vault", "db").secret == {"user": "u", "password": "p"}
        assert client.get_bulk_secret("vault").secrets["flat"] == {"flat": "f"}


def test_configuration_and_its_changes(client, api):
    heard = threading.Event()
    said = []

    def handler(_id, response):
        said.append({key: item.value for key, item in response.items.items()})
        if said[-1]:
            heard.set()

    async def change():
        api.opened["settings"].put("color", "blue||8")

    with client:
        found = client.get_configuration("settings", ["color"]).items["color"]
        subscription = client.subscribe_configuration("settings", ["color"], handler)
        api.call(change())
        assert heard.wait(30)
        ended = client.unsubscribe_configuration("settings", subscription)
        again = client.unsubscribe_configuration("settings", subscription)

    assert (found.value, found.version) == ("red", "7")
    assert {"color": "blue"} in said
    assert (ended, again) == (True, False)


@pytest.mark.filterwarnings("ignore:.*Alpha:UserWarning")
def test_locks(client):
    with client:
        with client.try_lock("locks", "r", "one", 60) as lock:
            assert lock.success
            assert not client.try_lock("locks", "r", "two", 60).success
            assert client.unlock("locks", "r", "two").status.name == "lock_belongs_to_others"
        assert client.unlock("locks", "r", "one").status.name == "lock_does_not_exist"


def test_metadata(client):
    with client:
        client.set_metadata("color", "blue")
        found = client.get_metadata()

    assert found.application_id == "a"
    assert found.extended_metadata["color"] == "blue"
    assert "ETAG" in {item.name: item for item in found.registered_components}["memory"].capabilities


def test_token_is_asked_for(api, monkeypatch):
    with connect(api, monkeypatch, "locked", "t-1") as client:
        assert client.get_metadata().application_id == "locked"
    with connect(api, monkeypatch, "locked", "other") as client, pytest.raises(grpc.RpcError) as refused:
        client.get_metadata()

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.filterwarnings("ignore:.*Workflow:UserWarning")
def test_absent_blocks_say_so(client):
    with client, pytest.raises(DaprInternalError, match="workflows is not served"):
        client.get_workflow("id", "dapr")


def test_other_services_are_unimplemented(api):
    with grpc.insecure_channel(api.grpc()) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/other.Service/Call")(b"", timeout=10)

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_message_over_the_limit_is_refused(client):
    with client, pytest.raises(grpc.RpcError) as refused:
        client.publish_event("bus", "big", b"x" * (5 * 1024 * 1024))

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.connected
def test_backend_that_dies_or_hangs_is_told_and_used_again_when_it_is_back(api, monkeypatch, own_server):
    server = own_server("redis")
    api.sync(
        *api.common,
        component("own", "state.redis", redisHost=server.address, redisMaxRetries="0"),
        resiliencies=[
            Resiliency(
                name="short",
                timeouts={"short": 1.0},
                components={"own": ComponentTarget(outbound=ResiliencyTarget(timeout="short"))},
            )
        ],
    )
    with connect(api, monkeypatch) as client:
        client.save_state("own", "k", "1")
        server.kill()
        with pytest.raises(grpc.RpcError) as refused:
            client.save_state("own", "k", "2")
        server.start()
        client.save_state("own", "k", "3")

        found = client.get_state("own", "k")
        server.pause()
        try:
            with pytest.raises(grpc.RpcError) as late:
                client.get_state("own", "k")
        finally:
            server.resume()
            api.sync(*api.common)

        assert refused.value.code() is grpc.StatusCode.INTERNAL
        assert found.data == b"3"
        assert "did not answer in time" in late.value.details()


def test_client_for_asyncio_works_too(api, monkeypatch):
    connect(api, monkeypatch).close()  # points the SDK's settings at the runtime

    async def run():
        async with AsyncDaprClient(api.grpc()) as client:
            await client.save_state("memory", "aio", "1")
            await client.publish_event("bus", "aio", "x")
            return (await client.get_state("memory", "aio")).data

    assert asyncio.run(run()) == b"1"
    assert len(api.bus.messages("aio")) == 1
