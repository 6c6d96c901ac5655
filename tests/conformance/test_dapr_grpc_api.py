"""The Dapr API over gRPC where the SDK does not go: cancelled streams, denied groups, absent blocks."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import httpx
import pytest

from pelton.compat.dapr.apps import App
from pelton.compat.dapr.grpc_calls import trace_of
from pelton.compat.dapr.grpc_server import GrpcServer
from pelton.model.dapr import ApiRule, DaprConfiguration
from pelton.proto import dapr_runtime_pb2 as pb
from tests.conformance.dapr_api import Api, component

SERVICE = "/dapr.proto.runtime.v1.Dapr/"
LIMITED = App(
    app_id="limited",
    configuration=DaprConfiguration(
        name="c", api_allowed=(ApiRule(name="publish"), ApiRule(name="state", protocol="http"))
    ),
)
WAIT_S = 10


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with Api(App(app_id="a"), App(app_id="b"), LIMITED, folder=tmp_path_factory.mktemp("dapr")) as found:
        found.common = [
            component("bus", "pubsub.in-memory"),
            component("store", "state.in-memory"),
            component("settings", "configuration.in-memory", color="red"),
            component("unlimited", "state.in-memory", keyPrefix="a||b"),
        ]
        found.sync(*found.common)
        yield found


@pytest.fixture
def call(api):
    """Call a method: (name, request, app id) -> answer's bytes."""
    channels: dict[str, grpc.Channel] = {}

    def made(name, request, app_id="a"):
        channel = channels.setdefault(app_id, grpc.insecure_channel(api.grpc(app_id)))
        method = name if name.startswith("/") else SERVICE + name
        return channel.unary_unary(method)(request.SerializeToString(), timeout=WAIT_S)

    yield made
    for channel in channels.values():
        channel.close()


def subscribe(api, channel):
    wait_until(lambda: open_subscriptions(api) == 0)
    method = channel.unary_stream(
        SERVICE + "SubscribeConfiguration",
        response_deserializer=pb.SubscribeConfigurationResponse.FromString,
    )
    return method(pb.SubscribeConfigurationRequest(store_name="settings").SerializeToString())


def refused(call, name, request, app_id="a"):
    with pytest.raises(grpc.RpcError) as found:
        call(name, request, app_id)
    return found.value.code(), found.value.details()


def open_subscriptions(api):
    async def count():
        return len(api.runtime.configurations._tasks)

    return api.call(count())


def wait_until(test):
    waiting = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if test():
            return
        waiting.wait(0.02)
    raise AssertionError("it did not happen")


def test_stream_that_its_client_cancels_ends_the_subscription(api):
    with grpc.insecure_channel(api.grpc()) as channel:
        stream = subscribe(api, channel)
        first = next(stream)
        there = open_subscriptions(api)

        stream.cancel()

        wait_until(lambda: open_subscriptions(api) == 0)
    assert (there, bool(first.id), len(first.items)) == (1, True, 0)


def test_stream_ends_when_it_is_unsubscribed(api, call):
    with grpc.insecure_channel(api.grpc()) as channel:
        stream = subscribe(api, channel)
        first = next(stream)

        request = pb.UnsubscribeConfigurationRequest(store_name="settings", id=first.id)
        answer = pb.UnsubscribeConfigurationResponse.FromString(call("UnsubscribeConfiguration", request))

        assert answer.ok
        assert list(stream) == []


def test_subscription_of_another_app_is_not_ended(api, call):
    with grpc.insecure_channel(api.grpc()) as channel:
        stream = subscribe(api, channel)
        first = next(stream)
        request = pb.UnsubscribeConfigurationRequest(store_name="settings", id=first.id)

        answer = pb.UnsubscribeConfigurationResponse.FromString(
            call("UnsubscribeConfiguration", request, "b")
        )
        there = open_subscriptions(api)
        stream.cancel()

    assert (answer.ok, there) == (False, 1)
    assert first.id in answer.message


def test_groups_that_are_not_allowed_are_unimplemented(call):
    state = pb.GetStateRequest(store_name="store", key="k")

    code, said = refused(call, "GetState", state, "limited")

    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "denied by Configuration c" in said
    assert call("PublishEvent", pb.PublishEventRequest(pubsub_name="bus", topic="t"), "limited") == b""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("InvokeActor", "actors"),
        ("ScheduleJob", "jobs"),
        ("ConverseAlpha2", "language models"),
        ("SubtleSignAlpha1", "Cryptography"),
        ("EncryptAlpha1", "Cryptography"),
        ("SubscribeTopicEventsAlpha1", "stream"),
        ("InvokeService", "Invocation"),
        ("/TaskHubSidecarService/StartInstance", "workflows"),
    ],
)
def test_what_is_not_there_says_so(call, name, words):
    code, said = refused(call, name, pb.GetMetadataRequest())

    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert words in said


@pytest.mark.parametrize(
    ("name", "request_", "expected"),
    [
        ("GetState", pb.GetStateRequest(store_name="store"), "INVALID_ARGUMENT"),
        ("GetState", pb.GetStateRequest(store_name="store", key="a||b"), "INVALID_ARGUMENT"),
        ("GetState", pb.GetStateRequest(store_name="unlimited", key="a"), "INVALID_ARGUMENT"),
        ("PublishEvent", pb.PublishEventRequest(topic="t"), "INVALID_ARGUMENT"),
        ("PublishEvent", pb.PublishEventRequest(pubsub_name="bus"), "INVALID_ARGUMENT"),
        ("InvokeBinding", pb.InvokeBindingRequest(name="no", operation="create"), "INTERNAL"),
        ("GetSecret", pb.GetSecretRequest(store_name="no", key="k"), "FAILED_PRECONDITION"),
        ("TryLockAlpha1", pb.TryLockRequest(store_name="no"), "FAILED_PRECONDITION"),
        ("GetConfiguration", pb.GetConfigurationRequest(store_name="no"), "INVALID_ARGUMENT"),
        (
            "ExecuteStateTransaction",
            pb.ExecuteStateTransactionRequest(
                storeName="store", operations=[pb.TransactionalStateOperation(operationType="increment")]
            ),
            "UNIMPLEMENTED",
        ),
    ],
)
def test_bad_requests_have_the_protocols_codes(call, name, request_, expected):
    code, said = refused(call, name, request_)

    assert (code.name, bool(said)) == (expected, True)


def test_binding_that_fails_tells_its_metadata_before_the_status(api):
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_arguments):
            pass

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server,
        grpc.insecure_channel(api.grpc()) as channel,
    ):
        threading.Thread(target=server.serve_forever).start()
        found = component("http", "bindings.http", url=f"http://127.0.0.1:{server.server_port}/")
        api.sync(*api.common, found)
        call = channel.unary_unary(SERVICE + "InvokeBinding").future(
            pb.InvokeBindingRequest(name="http", operation="get").SerializeToString(), timeout=WAIT_S
        )
        code, told = call.code(), dict(call.initial_metadata())
        api.sync(*api.common)
        server.shutdown()

    assert (code, told["metadata.statuscode"]) == (grpc.StatusCode.INTERNAL, "404")


def test_garbage_is_refused_and_the_port_goes_on(api, call):
    with grpc.insecure_channel(api.grpc()) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(SERVICE + "GetState")(b"\xff\xff\xff", timeout=WAIT_S)

    assert call("GetMetadata", pb.GetMetadataRequest())


def test_trace_is_read_as_text_and_in_the_binary_form():
    binary = b"\x00\x00" + b"\xaa" * 16 + b"\x01" + b"\xbb" * 8 + b"\x02\x01"

    text = trace_of([("traceparent", "00-1-2-01"), ("tracestate", "s=1")])
    found = trace_of([("grpc-trace-bin", binary)])

    assert text is not None
    assert found is not None
    assert (text.parent, text.state) == ("00-1-2-01", "s=1")
    assert found.parent == f"00-{'aa' * 16}-{'bb' * 8}-01"
    assert trace_of([("grpc-trace-bin", b"short")]) is None


def test_shared_port_knows_apps_by_their_tokens(api):
    apps = [App(app_id=name, api_token=f"token-{name}") for name in ("one", "two")]
    shared = api.shared()

    async def enter():
        for app in apps:
            api.runtime.apps.put(app)
        return await shared.__aenter__()

    async def leave():
        await shared.__aexit__(None, None, None)
        for app in apps:
            api.runtime.apps.remove(app.app_id)

    http_port, grpc_port = api.call(enter())
    try:
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            method = channel.unary_unary(
                SERVICE + "GetMetadata", response_deserializer=pb.GetMetadataResponse.FromString
            )
            names = [
                method(b"", metadata=[("dapr-api-token", app.api_token)], timeout=WAIT_S).id for app in apps
            ]
            with pytest.raises(grpc.RpcError) as nobody:
                method(b"", timeout=WAIT_S)
        url = f"http://127.0.0.1:{http_port}/v1.0/metadata"
        answers = [httpx.get(url, headers={"dapr-api-token": app.api_token}).json()["id"] for app in apps]
        refused = httpx.get(url).status_code
    finally:
        api.call(leave())

    assert names == answers == ["one", "two"]
    assert (nobody.value.code(), refused) == (grpc.StatusCode.UNAUTHENTICATED, 401)


def test_unix_socket_is_a_port_too(api, tmp_path):
    registered = api.registered["a"]

    async def enter():
        return await GrpcServer(api.runtime, registered.identify, f"unix:{tmp_path}/s").__aenter__()

    server = api.call(enter())
    with grpc.insecure_channel(f"unix:{tmp_path}/s") as channel:
        answer = channel.unary_unary(SERVICE + "GetMetadata")(b"", timeout=WAIT_S)
    api.call(server.__aexit__())

    assert pb.GetMetadataResponse.FromString(answer).id == "a"
