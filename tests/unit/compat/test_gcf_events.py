"""event, cloudevent and typed functions: what reaches them, and what is refused."""

import base64
import json

import pytest

from pelton.errors import FunctionLoadError

EVENT = "SEEN = []\ndef on(data, context):\n    SEEN.append((data, context))\n"
CLOUDEVENT = (
    "import functions_framework\nSEEN = []\n"
    "@functions_framework.cloud_event\ndef on(event):\n    SEEN.append(event)\n"
)
JSON_BODY = [(b"content-type", b"application/json")]
CONTEXT = {
    "eventId": "7",
    "timestamp": "2024-05-06T07:08:09Z",
    "eventType": "google.storage.object.finalize",
    "resource": {
        "service": "storage.googleapis.com",
        "name": "projects/_/buckets/b/objects/o",
        "type": "storage#object",
    },
}
DATA = {"kind": "storage#object", "name": "o"}
FINALIZED = [
    (b"ce-id", b"7"),
    (b"ce-source", b"//storage.googleapis.com/projects/_/buckets/b"),
    (b"ce-subject", b"objects/o"),
    (b"ce-type", b"google.cloud.storage.object.v1.finalized"),
    (b"ce-time", b"2024-05-06T07:08:09Z"),
    (b"ce-specversion", b"1.0"),
    *JSON_BODY,
]
UNKNOWN = [
    (b"ce-id", b"1"),
    (b"ce-source", b"/shop"),
    (b"ce-type", b"order.made"),
    (b"ce-specversion", b"1.0"),
]


@pytest.fixture
def post(request_of):
    def make(body, headers=JSON_BODY, target=b"/any/path", method="POST"):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return request_of(target, method, raw, headers)

    return make


def seen(function):
    """Return what the function saw; the list lives in its module."""
    import sys

    return sys.modules["main"].SEEN


def fields(context):
    return context.event_id, context.timestamp, context.event_type, context.resource


@pytest.mark.parametrize(
    "body", [{"context": CONTEXT, "data": DATA}, {**CONTEXT, "data": DATA}], ids=["context", "root"]
)
def test_background_event_reaches_an_event_function(load, post, body):
    function = load(EVENT, "gcf")

    reply = function.call(post(body))
    data, context = seen(function)[0]

    assert (function.signature, reply.status, reply.body) == ("event", 200, b"OK")
    assert (data, fields(context)) == (DATA, tuple(CONTEXT.values()))
    assert "google.storage.object.finalize" in repr(context)


def test_cloudevent_reaches_an_event_function_in_its_legacy_form(load, post):
    function = load(EVENT, "gcf")

    binary = function.call(post(DATA, FINALIZED))
    structured = {
        **{name.decode()[3:]: value.decode() for name, value in FINALIZED[:-1]},
        "data": DATA,
    }
    in_one = function.call(post(structured, [(b"content-type", b"application/cloudevents+json")]))

    assert (binary.status, in_one.status) == (200, 200)
    assert [(data, fields(context)) for data, context in seen(function)] == [
        (DATA, tuple(CONTEXT.values()))
    ] * 2


def test_cloudevent_of_an_unknown_type_reaches_an_event_function_with_raw_bytes(load, post):
    function = load(EVENT, "gcf")

    function.call(post(b"\x00raw", UNKNOWN))
    function.call(
        post(b"", [*UNKNOWN, (b"ce-eventid", b"e"), (b"ce-eventtype", b"old"), (b"ce-resource", b"r")])
    )

    (data, context), (_, old) = seen(function)
    assert (data, fields(context)) == (b"\x00raw", ("1", "", "order.made", "/shop"))
    assert fields(old) == ("e", "", "old", "r")


def test_push_of_a_subscription_reaches_both_kinds_of_functions(load, post):
    body = {"subscription": "s", "message": {"data": "aGk=", "messageId": "m"}}

    function = load(EVENT, "gcf")
    function.call(post(body, target=b"/projects/p/topics/t?x=1"))
    data, context = seen(function)[0]
    newer = load(CLOUDEVENT, "gcf")
    newer.call(post(body, target=b"/projects/p/topics/t?x=1"))
    event = seen(newer)[0]

    assert (data["data"], context.resource["name"]) == ("aGk=", "projects/p/topics/t")
    assert context.timestamp.endswith("Z")
    assert event["source"] == "//pubsub.googleapis.com/projects/p/topics/t"
    assert event.data["message"]["messageId"] == "m"


def test_background_event_reaches_a_cloudevent_function_converted(load, post):
    function = load(CLOUDEVENT, "gcf")

    reply = function.call(post({"context": CONTEXT, "data": DATA}))
    event = seen(function)[0]

    assert reply.body == b"OK"
    assert (event["type"], event["subject"]) == ("google.cloud.storage.object.v1.finalized", "objects/o")
    assert (event["id"], event.data) == ("7", DATA)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", JSON_BODY),
        (b"{}", JSON_BODY),
        (b"null", JSON_BODY),
        (b"[1]", JSON_BODY),
        (b"{", JSON_BODY),
        (b"\xff\xfe", JSON_BODY),
        (b"[" * 100_000, JSON_BODY),
        (b"", UNKNOWN[1:]),
        (b"{}", FINALIZED),
        (b"{", [(b"content-type", b"application/cloudevents+json")]),
    ],
    ids=["nothing", "empty", "null", "list", "broken", "binary", "deep", "no-id", "no-kind", "structured"],
)
def test_what_an_event_function_cannot_take_is_400_and_never_tried_again(load, post, body, headers):
    reply = load(EVENT, "gcf").call(post(body, headers))

    assert (reply.status, reply.retry) == (400, False)


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"", UNKNOWN[1:], b"lacks id"),
        ({"context": {"eventType": "google.unknown"}, "data": {}}, JSON_BODY, b"google.unknown"),
        ({"a": 1}, JSON_BODY, b"no CloudEvent"),
        (b"[" * 100_000, JSON_BODY, b"no JSON"),
    ],
    ids=["no-id", "unknown-type", "other", "deep"],
)
def test_what_a_cloudevent_function_cannot_take_is_400_with_the_reason(load, post, body, headers, words):
    reply = load(CLOUDEVENT, "gcf").call(post(body, headers))

    assert reply.status == 400
    assert words in reply.body


def test_bad_percent_encoding_in_a_header_is_read_as_well_as_it_can_be(load, post):
    function = load(CLOUDEVENT, "gcf")
    headers = [*UNKNOWN, (b"ce-subject", b"%zz%E2%82"), (b"ce-odd", b"\xff%")]

    assert function.call(post(b"{}", headers)).status == 200
    assert seen(function)[0]["subject"].startswith("%zz")


@pytest.mark.parametrize("source", [EVENT, CLOUDEVENT], ids=["event", "cloudevent"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
def test_events_must_be_posted(load, post, source, method):
    reply = load(source, "gcf").call(post(b"{}", method=method))

    assert (reply.status, dict(reply.headers)[b"allow"]) == (405, b"POST")


@pytest.mark.parametrize(
    ("source", "target", "status"),
    [(EVENT, b"/", 200), (EVENT, b"/?x", 200), (EVENT, b"/other", 405), (CLOUDEVENT, b"/", 405)],
)
def test_only_an_event_function_answers_a_get_of_the_root(load, request_of, source, target, status):
    reply = load(source, "gcf").call(request_of(target))

    assert reply.status == status
    assert reply.body == b"" or status == 405


def test_record_and_timer_reach_an_event_function_as_pubsub_messages(load, event_of):
    function = load(EVENT, "gcf")

    function.call(event_of(id="e-1", time="2024-01-01T00:00:00Z"))
    function.call(event_of("binding", b""))
    (data, context), (tick, timer) = seen(function)

    assert base64.b64decode(data["data"]) == b'{"a": 1}'
    assert data["attributes"] == {"key": "value"}
    assert (context.event_id, context.event_type) == ("e-1", "google.pubsub.topic.publish")
    assert (context.timestamp, context.resource["name"]) == ("2024-01-01T00:00:00Z", "orders")
    assert (tick["data"], timer.event_type) == ("", "google.pubsub.topic.publish")


def test_googles_own_event_from_a_broker_reaches_an_event_function_in_its_legacy_form(load, event_of):
    function = load(EVENT, "gcf")
    names = {name.decode()[3:]: value.decode() for name, value in FINALIZED[:-1]}

    function.call(event_of(data=json.dumps(DATA).encode(), **names))
    function.call(event_of(data=b"no json", **names))
    (data, context), (message, _) = seen(function)

    assert (data, fields(context)) == (DATA, tuple(CONTEXT.values()))
    assert message["attributes"]["ce-type"] == "google.cloud.storage.object.v1.finalized"


async def test_coroutine_functions_take_events_too(load, post):
    function = load(EVENT.replace("def on", "async def on"), "gcf")

    reply = await function.call(post({"context": CONTEXT, "data": DATA}))

    assert (function.sync, reply.body, len(seen(function))) == (False, b"OK", 1)


TYPED = """
import functions_framework
class Order:
    def __init__(self, n): self.n = n
    @staticmethod
    def from_dict(values): return Order(values["n"])
    def to_dict(self): return {"n": self.n}
@functions_framework.typed(Order)
def f(order):
    return RETURNED
"""


@pytest.mark.parametrize(
    ("returned", "status", "body"),
    [
        ("Order(order.n + 1)", 200, b'{"n": 3}'),
        ("None", 200, b""),
        ("'text'", 200, b"text"),
        ("{'a': order.n}", 200, b'{"a":2}\n'),
        ("('made', 201)", 201, b"made"),
    ],
)
def test_typed_function_takes_and_gives_its_own_class(load, post, returned, status, body):
    function = load(TYPED.replace("RETURNED", returned), "gcf")

    reply = function.call(post({"n": 2}))

    assert function.signature == "typed"
    assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize("body", [b"{", b"{}", b"[]", b""])
def test_object_that_cannot_be_made_is_the_typed_functions_failure(load, post, body):
    function = load(TYPED.replace("RETURNED", "None"), "gcf")

    with pytest.raises((KeyError, TypeError, ValueError)) as raised:
        function.call(post(body))

    assert function.on_error(raised.value).status == 500


def test_result_without_to_dict_is_a_failure(load, post):
    with pytest.raises(TypeError, match="to_dict"):
        load(TYPED.replace("RETURNED", "type('X', (), {})()"), "gcf").call(post({"n": 1}))


def test_typed_function_takes_posts_and_events_only(load, request_of, event_of):
    function = load(TYPED.replace("RETURNED", "order"), "gcf")

    assert function.call(request_of()).status == 405
    assert function.call(event_of(data=b'{"n": 5}')).body == b'{"n": 5}'


PLAIN_TYPED = (
    "from __future__ import annotations\nimport functions_framework\n"
    "class C:\n    from_dict = staticmethod(lambda v: v['n'])\n"
)


def test_annotation_says_the_class_even_as_text(load, post):
    source = PLAIN_TYPED + "@functions_framework.typed\ndef f(x: C):\n    return [x]\n"

    assert load(source, "gcf").call(post({"n": 4})).body == b"[4]\n"


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("@functions_framework.typed\ndef f(x):\n    pass\n", "does not say what it takes"),
        ("@functions_framework.typed(dict)\ndef f(x):\n    pass\n", "dict, which f takes, has no from_dict"),
        ("@functions_framework.typed(C)\ndef f(x: dict):\n    pass\n", "the decorator says C"),
        ("@functions_framework.typed\ndef f():\n    pass\n", "does not say"),
    ],
)
def test_typed_function_without_a_usable_class_is_refused(load, definition, words):
    with pytest.raises(FunctionLoadError, match=words) as raised:
        load(PLAIN_TYPED + definition, "gcf")

    assert "from_dict" in raised.value.hint or "YourClass" in raised.value.hint


def test_unknown_signature_type_lists_the_known_ones(load):
    with pytest.raises(FunctionLoadError, match="'odd' is unknown") as raised:
        load("def f(x):\n    pass\n", "gcf", target="f", signature="odd")

    assert "http, event, cloudevent, typed" in raised.value.hint
