"""The HTTP API under requests that nobody should send: every one gets an answer, none a fault of our own."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pelton.clock import SystemClock
from pelton.compat.dapr import http_server
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.http_calls import Answer
from pelton.compat.dapr.http_server import HttpApi
from pelton.compat.dapr.ports import Drivers
from pelton.compat.dapr.runtime import DaprRuntime
from pelton.dataplane import state_query
from pelton.drivers.lock_memory import MemoryLocks
from pelton.drivers.memory import MemoryBus
from pelton.drivers.state_memory import MemoryStates
from pelton.model.component import ComponentResource, ComponentSpec

BLOCKS = ("state", "publish", "bindings", "secrets", "configuration", "lock", "unlock", "healthz", "metadata")
SEGMENT = st.sampled_from(
    [*BLOCKS, "s", "bus", "l", "bulk", "transaction", "query", "subscribe", "k", "", "%7C%7C", "%ff", ".."]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["s", "upsert", "k"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["key", "value", "keys", "operations", "operation", "request", "entryId", "event", "contentType",
             "metadata", "options", "etag", "resourceId", "lockOwner", "expiryInSeconds", "filter", "page"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
BODIES = st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode())


async def opened(component):
    made = {"state.in-memory": MemoryStates, "lock.in-memory": MemoryLocks}.get(component.type)
    return MemoryBus() if made is None else made(component, clock=SystemClock())


async def ask(api, method, path, body, headers=(), query=b""):
    """Return status and body of the answer."""
    sent = []
    messages = [{"type": "http.request", "body": body}]

    async def receive():
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query,
        "headers": list(headers),
    }  # fmt: skip
    await api(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def runtime():
    types = {"state": ["state.in-memory"], "pubsub": ["pubsub.in-memory"], "lock": ["lock.in-memory"]}
    made = DaprRuntime(
        Drivers(open=dict.fromkeys(types, opened), types=types),
        clock=SystemClock(),
        query=state_query.run,
        version="1",
    )
    names = {"s": "state.in-memory", "bus": "pubsub.in-memory", "l": "lock.in-memory"}
    made.sync(
        components=[
            ComponentResource(name=name, spec=ComponentSpec(type=kind)) for name, kind in names.items()
        ]
    )
    return made


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    version=st.sampled_from(["v1.0", "v1.0-alpha1", "v2"]),
    segments=st.lists(SEGMENT, max_size=5),
    body=BODIES,
    query=st.sampled_from([b"", b"metadata.ttlInSeconds=x", b"metadata.rawPayload=1&key=a", b"%ff=&=&"]),
    content_type=st.sampled_from(
        [b"application/json", b"application/cloudevents+json", b"text/plain", b"\xff"]
    ),
)
def test_any_request_is_answered(method, version, segments, body, query, content_type):
    async def run():
        async with runtime() as served:
            registered = served.apps.put(App(app_id="a"))
            api = HttpApi(served, registered.identify)
            path = "/".join(["", version, *segments])
            return await ask(api, method, path, body, [(b"content-type", content_type)], query)

    status, answer = asyncio.run(run())

    assert 200 <= status < 600
    assert b"ERR_INTERNAL" not in answer, answer


@pytest.mark.parametrize("lines", [[], [(b"content-length", b"nonsense")], [(b"authorization", b"Basic !!")]])
async def test_odd_headers_are_no_fault(lines):
    async with runtime() as served:
        registered = served.apps.put(App(app_id="a"))

        status, _ = await ask(
            HttpApi(served, registered.identify), "POST", "/v1.0/publish/bus/t", b"x", lines
        )

    assert status == 204


@pytest.mark.parametrize(
    ("path", "content_type", "status"),
    [
        ("/v1.0/state/s", "application/json", 400),
        ("/v1.0/publish/bus/t", "application/json", 204),
        ("/v1.0/publish/bus/t", "application/cloudevents+json", 500),
        ("/v1.0/publish/bulk/bus/t", "application/json", 400),
    ],
)
async def test_json_that_is_nested_too_deeply_is_no_fault_of_the_runtime(path, content_type, status):
    deep = b"[" * 5000 + b"]" * 5000
    async with runtime() as served:
        registered = served.apps.put(App(app_id="a"))
        api = HttpApi(served, registered.identify)

        found, answer = await ask(api, "POST", path, deep, [(b"content-type", content_type.encode())])

    assert (found, b"ERR_INTERNAL" in answer) == (status, False)


async def test_client_that_leaves_within_its_body_gets_nothing():
    sent = []
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"x", "more_body": True}]

    async def receive():
        return messages.pop()

    async def send(message):
        sent.append(message)

    async with runtime() as served:
        registered = served.apps.put(App(app_id="a"))
        scope = {
            "type": "http", "method": "POST", "path": "/", "raw_path": b"/v1.0/publish/bus/t",
            "query_string": b"", "headers": [],
        }  # fmt: skip
        await HttpApi(served, registered.identify)(scope, receive, send)

    assert sent == []


def test_metadata_that_cannot_be_a_header_are_left_out():
    given = [
        ("metadata.Status", "ok"),
        ("metadata.a b", "x"),
        ("metadata.x\r\ny", "x"),
        ("metadata.z", "a\nb"),
    ]

    written = http_server._headers(Answer(headers=given))

    assert written == [(b"metadata.status", b"ok")]


async def test_calls_have_a_bound(monkeypatch):
    monkeypatch.setattr(http_server, "MOST_CALLS", 1)
    waiting = asyncio.Event()
    async with runtime() as served:
        api = HttpApi(served, served.apps.put(App(app_id="a")).identify)

        async def receive():
            await waiting.wait()
            return {"type": "http.disconnect"}

        async def send(_message):
            raise AssertionError("nothing is to be sent")

        scope = {
            "type": "http", "method": "POST", "path": "/", "raw_path": b"/v1.0/publish/bus/t",
            "query_string": b"", "headers": [],
        }  # fmt: skip
        first = asyncio.create_task(api(scope, receive, send))
        await asyncio.sleep(0)
        refused = await ask(api, "GET", "/v1.0/metadata", b"")
        waiting.set()
        await first
        served_again = await ask(api, "GET", "/v1.0/metadata", b"")

    assert (refused[0], served_again[0]) == (503, 200)


class Broken:
    """An app whose answer breaks off."""

    def __init__(self, *, begin):
        self.begin = begin

    async def invoke_http(self, _caller, *, target, method_path, scope, receive, send):
        assert (target, method_path) == ("b", "a/b")
        if self.begin:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ConnectionResetError("it is gone")


@pytest.mark.parametrize(("begin", "statuses"), [(True, [200]), (False, [500])])
async def test_answer_that_breaks_off_is_not_answered_twice(begin, statuses):
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async with runtime() as served:
        served.invocation = Broken(begin=begin)
        registered = served.apps.put(App(app_id="a"))
        scope = {
            "type": "http", "method": "GET", "path": "/", "raw_path": b"/v1.0/invoke/b/method/a/b",
            "query_string": b"", "headers": [],
        }  # fmt: skip
        await HttpApi(served, registered.identify)(scope, receive, send)

    assert [m["status"] for m in sent if m["type"] == "http.response.start"] == statuses
