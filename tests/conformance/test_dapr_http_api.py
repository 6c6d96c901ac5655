"""The Dapr API over HTTP as it is on the wire: paths, statuses, bodies, tokens, limits."""

import base64
import json
import threading
from urllib.parse import quote

import httpx
import pytest

from pelton.clock import SystemClock
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.invocation import AppInvocation
from pelton.compat.dapr.resiliency import Calls
from pelton.model.dapr import ApiRule, DaprConfiguration, HttpEndpoint, SecretScope
from pelton.model.invocation import Reply
from pelton.plan.resiliency import Policies
from tests.conformance.dapr_api import Api, component

LIMITED = App(
    app_id="limited",
    configuration=DaprConfiguration(
        name="c",
        api_denied=(ApiRule(name="state"),),
        secrets=(SecretScope(store_name="vault", default_access="deny", allowed=("db",)),),
    ),
)


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dapr")
    (folder / "secrets.json").write_text('{"db": "one", "other": "two"}')
    with Api(App(app_id="a"), LIMITED, App(app_id="locked", api_token="t-1"), folder=folder) as found:
        found.sync(
            component(
                "bus", "pubsub.in-memory", allowedTopics="orders,a/b", publishingScopes="limited=orders"
            ),
            component("store", "state.in-memory"),
            component("named", "state.in-memory", keyPrefix="name"),
            component("odd", "state.in-memory", primaryEncryptionKey="00"),
            component("vault", "secretstores.local.file", secretsFile=str(folder / "secrets.json")),
            component("settings", "configuration.in-memory", color="red||7"),
            component("locks", "lock.in-memory"),
            component("files", "bindings.localstorage", rootPath=str(folder / "files")),
            component("etcd", "state.etcd"),
            component("away", "bindings.http", url="http://127.0.0.1:9/"),
        )
        found.registered["a"].ready = True
        yield found


@pytest.fixture
def http(api):
    with httpx.Client(base_url=api.url()) as client:
        yield client


def fault(response):
    body = response.json()
    return response.status_code, body["errorCode"], [d.get("reason") for d in body.get("details", ())][:1]


def stored(api, topic, count=1):
    return [json.loads(message.data) for message in api.bus.messages(topic)[-count:]]


# ---- state -------------------------------------------------------------------------------------------------


def test_state_is_saved_read_and_deleted(http):
    saved = http.post("/v1.0/state/store", json=[{"key": "k", "value": {"n": 12345678901234567890}}])
    read = http.get("/v1.0/state/store/k")
    gone = http.delete("/v1.0/state/store/k")

    assert (saved.status_code, saved.content) == (204, b"")
    assert (read.status_code, read.content) == (200, b'{"n": 12345678901234567890}'.replace(b" ", b""))
    assert read.headers["etag"]
    assert gone.status_code == 204
    assert http.get("/v1.0/state/store/k").status_code == 204


def test_end_of_a_value_is_told_with_it(http):
    http.post(
        "/v1.0/state/store",
        json=[{"key": "t", "value": 1, "metadata": {"ttlInSeconds": "600"}}, {"key": "u", "value": 1}],
    )

    assert http.get("/v1.0/state/store/t").headers["metadata.ttlExpireTime"].endswith("Z")
    assert "metadata.ttlExpireTime" not in http.get("/v1.0/state/store/u").headers
    bulk = http.post("/v1.0/state/store/bulk", json={"keys": ["t", "u"]}).json()
    assert [list(item.get("metadata", {})) for item in bulk] == [["ttlExpireTime"], []]


def test_plus_in_a_path_is_a_blank(http):
    http.post("/v1.0/state/store", json=[{"key": "a b", "value": 1}, {"key": "a+b", "value": 2}])

    assert http.get("/v1.0/state/store/a+b").json() == http.get("/v1.0/state/store/a%20b").json() == 1
    assert http.get("/v1.0/state/store/a%2Bb").json() == 2


def test_etag_that_does_not_fit_is_409_and_first_write_keeps_what_is_there(http):
    http.post("/v1.0/state/store", json=[{"key": "e", "value": 1}])
    etag = http.get("/v1.0/state/store/e").headers["etag"]

    assert http.post("/v1.0/state/store", json=[{"key": "e", "value": 2, "etag": etag}]).status_code == 204
    late = http.post("/v1.0/state/store", json=[{"key": "e", "value": 3, "etag": etag}])
    first = http.post(
        "/v1.0/state/store", json=[{"key": "e", "value": 4, "options": {"concurrency": "first-write"}}]
    )
    deleted = http.delete("/v1.0/state/store/e", headers={"If-Match": etag})

    assert fault(late) == (409, "ERR_STATE_SAVE", [])
    assert "a||" not in late.text
    assert first.status_code == 409
    assert fault(deleted) == (409, "ERR_STATE_DELETE", [])
    assert http.get("/v1.0/state/store/e").text == "2"


def test_bulk_read_has_every_key_in_order(http):
    http.post("/v1.0/state/store", json=[{"key": "b1", "value": "x"}, {"key": "b2", "value": [1]}])

    found = http.post("/v1.0/state/store/bulk", json={"keys": ["b2", "none", "b1"], "parallelism": 2}).json()

    assert [(item["key"], item.get("data")) for item in found] == [("b2", [1]), ("none", None), ("b1", "x")]


def test_transaction_happens_whole_or_not_at_all(http):
    def transact(*operations):
        return http.post("/v1.0/state/store/transaction", json={"operations": list(operations)})

    def upsert(key, value, **more):
        return {"operation": "upsert", "request": {"key": key, "value": value, **more}}

    done = transact(upsert("t1", 1), upsert("t2", 2))
    failed = transact(upsert("t1", 9), upsert("t2", 9, etag="no-such"))
    unknown = transact({"operation": "increment", "request": {"key": "t1"}})

    assert done.status_code == 204
    assert fault(failed) == (409, "ERR_STATE_TRANSACTION", [])
    assert fault(unknown) == (400, "ERR_NOT_SUPPORTED_STATE_OPERATION", [])
    assert http.get("/v1.0/state/store/t1").text == "1"


def test_time_to_live_is_checked_and_minus_one_means_for_ever(http):
    good = http.post(
        "/v1.0/state/store", json=[{"key": "ttl", "value": 1, "metadata": {"ttlInSeconds": "-1"}}]
    )
    bad = http.post("/v1.0/state/store?metadata.ttlInSeconds=soon", json=[{"key": "ttl", "value": 1}])

    assert good.status_code == 204
    assert fault(bad) == (400, "ERR_MALFORMED_REQUEST", [])


def test_query_filters_the_apps_own_values(http, api):
    http.post(
        "/v1.0/state/store",
        json=[{"key": f"q{n}", "value": {"kind": "query", "n": n}} for n in range(3)],
    )
    asked = {
        "filter": {"EQ": {"kind": "query"}},
        "sort": [{"key": "n", "order": "DESC"}],
        "page": {"limit": 2},
    }

    found = http.post("/v1.0-alpha1/state/store/query", json=asked).json()

    assert [item["key"] for item in found["results"]] == ["q2", "q1"]
    assert found["token"] == "2"


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/v1.0/state/nowhere/k", None, (400, "ERR_STATE_STORE_NOT_FOUND", ["DAPR_STATE_NOT_FOUND"])),
        (
            "GET",
            "/v1.0/state/store/a%7C%7Cb",
            None,
            (400, "ERR_MALFORMED_REQUEST", ["DAPR_STATE_ILLEGAL_KEY"]),
        ),
        ("POST", "/v1.0/state/store", "{", (400, "ERR_MALFORMED_REQUEST", [])),
        ("POST", "/v1.0/state/store", '[{"value": 1}]', (400, "ERR_MALFORMED_REQUEST", [])),
        ("GET", "/v1.0/state/odd/k", None, (500, "ERR_STATE_GET", [])),
        ("GET", "/v1.0/state/etcd/k", None, (500, "ERR_STATE_GET", [])),
    ],
)
def test_bad_state_requests_say_what_is_wrong(http, method, path, body, expected):
    assert fault(http.request(method, path, content=body)) == expected


def test_empty_list_saves_nothing(http):
    assert http.post("/v1.0/state/store", json=[]).status_code == 204


def test_prefix_of_keys_is_the_apps_or_the_components(http, api):
    with httpx.Client(base_url=api.url("locked"), headers={"dapr-api-token": "t-1"}) as other:
        http.post("/v1.0/state/store", json=[{"key": "p", "value": 1}])
        http.post("/v1.0/state/named", json=[{"key": "p", "value": 2}])

        assert other.get("/v1.0/state/store/p").status_code == 204
        assert other.get("/v1.0/state/named/p").text == "2"


# ---- topics ------------------------------------------------------------------------------------------------


def test_publish_wraps_in_the_envelope(http, api):
    answer = http.post(
        "/v1.0/publish/bus/orders?metadata.cloudevent.type=placed&metadata.ttlInSeconds=60",
        content=b'{"n": 1}',
        headers={"content-type": "application/json", "traceparent": f"00-{'1' * 32}-{'2' * 16}-00"},
    )

    event = stored(api, "orders")[0]
    assert answer.status_code == 204
    assert event["data"] == {"n": 1}
    assert (event["source"], event["type"], event["specversion"]) == ("a", "placed", "1.0")
    assert (event["topic"], event["pubsubname"]) == ("orders", "bus")
    assert event["traceparent"] == event["traceid"] == f"00-{'1' * 32}-{'2' * 16}-00"
    assert event["expiration"] > event["time"]


def test_publish_of_bytes_text_and_slashes_in_the_topic(http, api):
    http.post(
        "/v1.0/publish/bus/a/b", content=b"\xff\x00", headers={"content-type": "application/octet-stream"}
    )
    http.post("/v1.0/publish/bus/a/b", content=b"plain")

    first, second = stored(api, "a/b", 2)
    assert base64.b64decode(first["data_base64"]) == b"\xff\x00"
    assert (second["data"], second["datacontenttype"]) == ("plain", "text/plain")


def test_raw_payload_goes_as_it_is(http, api):
    answer = http.post("/v1.0/publish/bus/orders?metadata.rawPayload=true", content=b"bare")

    assert answer.status_code == 204
    assert api.bus.messages("orders")[-1].data == b"bare"


def test_ready_cloudevent_keeps_what_it_has(http, api):
    event = {"specversion": "1.0", "id": "mine", "source": "s", "type": "t", "topic": "x", "data": {"a": 1}}
    http.post(
        "/v1.0/publish/bus/orders",
        content=json.dumps(event),
        headers={"content-type": "application/cloudevents+json"},
    )

    found = stored(api, "orders")[0]
    assert (found["id"], found["source"], found["topic"], found["data"]) == ("mine", "s", "orders", {"a": 1})


@pytest.mark.parametrize(
    ("path", "body", "headers", "expected"),
    [
        ("nowhere/orders", b"x", {}, (404, "ERR_PUBSUB_NOT_FOUND", ["DAPR_PUBSUB_NOT_FOUND"])),
        ("bus/", b"x", {}, (404, "ERR_TOPIC_NAME_EMPTY", ["DAPR_PUBSUB_TOPIC_NAME_EMPTY"])),
        ("", b"x", {}, (404, "ERR_PUBSUB_EMPTY", ["DAPR_PUBSUB_NAME_EMPTY"])),
        ("bus/secret", b"x", {}, (403, "ERR_PUBSUB_FORBIDDEN", ["DAPR_PUBSUB_FORBIDDEN"])),
        (
            "bus/orders?metadata.rawPayload=maybe",
            b"x",
            {},
            (400, "ERR_PUBSUB_REQUEST_METADATA", ["DAPR_PUBSUB_METADATA_DESERIALIZATION"]),
        ),
        (
            "bus/orders",
            b"{",
            {"content-type": "application/cloudevents+json"},
            (500, "ERR_PUBSUB_CLOUD_EVENTS_SER", ["DAPR_PUBSUB_CLOUD_EVENT_CREATION"]),
        ),
        (
            "bulk/bus/orders",
            b'[{"entryId": "1", "event": "a"}, {"entryId": "1", "event": "b"}]',
            {},
            (400, "ERR_PUBSUB_EVENTS_SER", ["DAPR_PUBSUB_MARSHAL_EVENTS"]),
        ),
        ("bulk/bus/orders", b"no", {}, (400, "ERR_PUBSUB_EVENTS_SER", ["DAPR_PUBSUB_UNMARSHAL_EVENTS"])),
    ],
)
def test_bad_publishes_say_what_is_wrong(http, path, body, headers, expected):
    assert fault(http.post(f"/v1.0/publish/{path}", content=body, headers=headers)) == expected


def test_bulk_publishes_each_by_its_type(http, api):
    entries = [
        {"entryId": "1", "event": "text", "contentType": "text/plain"},
        {"entryId": "2", "event": {"n": 1}, "contentType": "application/json"},
        {"entryId": "3", "event": "/w==", "contentType": "application/octet-stream"},
    ]

    answer = http.post("/v1.0-alpha1/publish/bulk/bus/orders", json=entries)

    found = stored(api, "orders", 3)
    assert answer.status_code == 204
    assert sorted(str(e.get("data") or e["data_base64"]) for e in found) == ["/w==", "text", "{'n': 1}"]


def test_scoped_app_publishes_on_its_topics_only(api):
    with httpx.Client(base_url=api.url("limited")) as client:
        assert client.post("/v1.0/publish/bus/orders", content=b"x").status_code == 204
        assert client.post("/v1.0/publish/bus/a/b", content=b"x").status_code == 403


# ---- bindings, secrets, configuration, locks ---------------------------------------------------------------


def test_binding_answers_with_data_and_metadata(http):
    made = http.post(
        "/v1.0/bindings/files", json={"operation": "create", "data": "hi", "metadata": {"fileName": "f"}}
    )
    read = http.post("/v1.0/bindings/files", json={"operation": "get", "metadata": {"fileName": "f"}})

    assert made.json()["fileName"].endswith("/f")
    assert (read.status_code, read.text) == (200, '"hi"')


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("nowhere", {"operation": "create"}),
        ("files", {"data": 1}),
        ("files", {"operation": "fly", "metadata": {"fileName": "f"}}),
        ("away", {"operation": "get"}),
    ],
)
def test_binding_that_fails_is_500(http, name, body):
    assert fault(http.post(f"/v1.0/bindings/{name}", json=body)) == (500, "ERR_INVOKE_OUTPUT_BINDING", [])


def test_secrets_within_the_scope(http, api):
    with httpx.Client(base_url=api.url("limited")) as limited:
        denied = limited.get("/v1.0/secrets/vault/other")

        assert http.get("/v1.0/secrets/vault/other").json() == {"other": "two"}
        assert limited.get("/v1.0/secrets/vault/db").json() == {"db": "one"}
        assert fault(denied) == (403, "ERR_PERMISSION_DENIED", [])
        assert limited.get("/v1.0/secrets/vault/bulk").json() == {"db": {"db": "one"}}


def test_missing_secret_and_store(http):
    assert fault(http.get("/v1.0/secrets/vault/none")) == (500, "ERR_SECRET_GET", [])
    assert fault(http.get("/v1.0/secrets/nowhere/db")) == (401, "ERR_SECRET_STORE_NOT_FOUND", [])


def test_configuration_is_read_and_needs_an_app_for_subscribing(http):
    found = http.get("/v1.0/configuration/settings?key=color")
    subscribed = http.get("/v1.0-alpha1/configuration/settings/subscribe?key=color")

    assert found.json() == {"color": {"value": "red", "version": "7"}}
    assert http.get("/v1.0/configuration/settings?key=none").status_code == 204
    assert fault(subscribed) == (500, "ERR_APP_CHANNEL_NIL", [])
    assert fault(http.get("/v1.0/configuration/nowhere")) == (400, "ERR_CONFIGURATION_STORE_NOT_FOUND", [])
    assert http.get("/v1.0/configuration/settings/some-id/unsubscribe").json()["ok"] is False
    assert fault(http.get("/v1.0/configuration/none/some-id/unsubscribe"))[:2] == (
        400,
        "ERR_CONFIGURATION_STORE_NOT_FOUND",
    )


def test_lock_is_taken_once_and_given_back_by_its_owner(http):
    def lock(owner, **more):
        body = {"resourceId": "r", "lockOwner": owner, "expiryInSeconds": 60} | more
        return http.post("/v1.0-alpha1/lock/locks", json=body)

    def unlock(owner):
        body = {"resourceId": "r", "lockOwner": owner}
        return http.post("/v1.0-alpha1/unlock/locks", json=body).json()

    assert lock("one").json() == {"success": True}
    assert lock("two").json() == {"success": False}
    assert unlock("two") == {"status": 2}
    assert unlock("one") == {"status": 0}
    assert unlock("one") == {"status": 1}
    assert fault(lock("one", expiryInSeconds=0)) == (400, "ERR_MALFORMED_REQUEST", [])
    assert fault(lock("")) == (400, "ERR_MALFORMED_REQUEST", [])


# ---- the runtime itself ------------------------------------------------------------------------------------


def test_health_is_exactly_204_and_knows_its_app(http, api):
    assert http.get("/v1.0/healthz").status_code == 204
    assert http.get("/v1.0/healthz/outbound").status_code == 204
    assert fault(http.get("/v1.0/healthz?appid=b")) == (500, "ERR_HEALTH_APPID_NOT_MATCH", [])
    assert fault(httpx.get(f"{api.url('limited')}/v1.0/healthz")) == (500, "ERR_HEALTH_NOT_READY", [])


def test_metadata_say_what_there_is_and_keep_what_is_set(http):
    http.put("/v1.0/metadata/color", content=b"blue")

    found = http.get("/v1.0/metadata").json()

    assert (found["id"], found["runtimeVersion"]) == ("a", "1.2.3")
    assert found["extended"] == {"color": "blue", "daprRuntimeVersion": "1.2.3"}
    components = {item["name"]: item for item in found["components"]}
    assert components["store"]["type"] == "state.in-memory"
    assert {"ETAG", "TRANSACTIONAL"} <= set(components["store"]["capabilities"])
    assert "subscriptions" not in found


def test_wrong_token_is_401_but_health_is_open(api):
    url = api.url("locked")

    refused = httpx.get(f"{url}/v1.0/metadata", headers={"dapr-api-token": "wrong"})
    assert (refused.status_code, refused.text) == (401, "invalid api token")
    assert httpx.get(f"{url}/v1.0/metadata").status_code == 401
    assert httpx.get(f"{url}/v1.0/metadata", headers={"dapr-api-token": "t-1"}).status_code == 200
    assert httpx.get(f"{url}/v1.0/healthz/outbound").status_code == 204


def test_body_over_the_limit_is_413_whether_its_length_is_told_or_not(http):
    big = b"x" * (4 * 1024 * 1024 + 1)

    told = http.post("/v1.0/publish/bus/orders", content=big)
    streamed = http.post("/v1.0/publish/bus/orders", content=iter([big]))

    assert (told.status_code, streamed.status_code) == (413, 413)


def test_headers_over_the_limit_are_431(http):
    assert http.get("/v1.0/metadata", headers={"x": "y" * 9000}).status_code == 431


def test_denied_group_is_404(api):
    answer = httpx.get(f"{api.url('limited')}/v1.0/state/store/k")

    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1.0/actors/t/i/method/m", 400),
        ("POST", "/v1.0/jobs/j", 501),
        ("POST", "/v1.0-beta1/workflows/dapr/w/start", 501),
        ("GET", "/v1.0/nothing", 404),
        ("GET", "/v9.9/state/store/k", 404),
        ("PATCH", "/v1.0/state/store", 405),
        ("GET", "/", 404),
    ],
)
def test_what_is_not_there_says_so(http, method, path, status):
    assert http.request(method, path).status_code == status


def test_slashes_too_many_are_tolerated(http):
    assert http.get("/v1.0//healthz/").status_code == 204


def test_browsers_may_call(http):
    asked = http.options(
        "/v1.0/publish/bus/orders",
        headers={"origin": "http://x", "access-control-request-method": "POST"},
    )
    answer = http.get("/v1.0/healthz", headers={"origin": "http://x"})

    assert (asked.status_code, asked.headers["access-control-allow-methods"]) == (204, "POST")
    assert answer.headers["access-control-allow-origin"] == "*"


# ---- changes of settings -----------------------------------------------------------------------------------


class Channel:
    """An app that is told of changes; refuses the first of them."""

    def __init__(self):
        self.calls = []
        self.heard = threading.Event()

    async def invoke(self, call):
        self.calls.append((call.method, call.target.decode(), json.loads(call.body)))
        if len(self.calls) > 1:
            self.heard.set()
        return Reply(status=500 if len(self.calls) == 1 else 200)


def test_app_is_told_of_changes_until_it_unsubscribes(http, api):
    channel = api.registered["a"].channel = Channel()

    async def put(value):
        api.opened["settings"].put("color", value)

    try:
        subscribed = http.get("/v1.0/configuration/settings/subscribe?key=color").json()
        api.call(put("green||8"))
        wait_until(lambda: channel.calls)
        api.call(put("blue||9"))
        assert channel.heard.wait(30)
        ended = http.get(f"/v1.0/configuration/settings/{subscribed['id']}/unsubscribe")
    finally:
        api.registered["a"].channel = None
        api.call(put("red||7"))

    method, path, body = channel.calls[-1]
    assert (method, path) == ("POST", "/configuration/settings/color")
    assert body == {"id": subscribed["id"], "items": {"color": {"value": "blue", "version": "9"}}}
    assert ended.json() == {"ok": True}


def wait_until(test):
    waiting = threading.Event()
    for _ in range(500):
        if test():
            return
        waiting.wait(0.02)
    raise AssertionError("it did not happen")


# ---- addresses outside -------------------------------------------------------------------------------------


@pytest.fixture
def invoking(api):
    async def set_invocation(value):
        api.runtime.invocation = value

    async def made():
        return AppInvocation(
            api.runtime.apps,
            policies=lambda app: Policies([], app.app_id),
            calls=Calls(SystemClock(), lambda: 0.5),
            endpoints=api.runtime.endpoints,
        )

    api.call(set_invocation(api.call(made())))
    yield
    api.call(set_invocation(None))


def test_urls_and_named_endpoints_are_invoked(http, api, invoking):
    url = api.url("limited")
    api.runtime.endpoints.known = {("", "near"): HttpEndpoint(name="near", base_url=url)}

    answers = [
        http.get(f"/v1.0/invoke/{target}/method/v1.0/metadata")
        for target in (url, quote(url, safe=""), "near")
    ]
    by_header = http.get("/v1.0x/healthz", headers={"dapr-app-id": "near"})
    unknown = http.get("/v1.0/invoke/nobody/method/x")
    nameless = http.get("/v1.0/invoke/")

    assert [answer.json()["id"] for answer in answers] == ["limited"] * 3
    assert by_header.json()["message"] == "there is nothing at /v1.0x/healthz"
    assert fault(unknown) == (500, "ERR_DIRECT_INVOKE", [])
    assert fault(nameless) == (404, "ERR_DIRECT_INVOKE", [])
