import json

import pytest

from pelton.errors import FunctionLoadError

BINARY = [
    (b"ce-id", b"1"),
    (b"ce-source", b"/shop"),
    (b"ce-type", b"order.made"),
    (b"ce-specversion", b"1.0"),
    (b"content-type", b"application/json"),
]
EVENT = "import functions_framework\nSEEN = []\n@functions_framework.cloud_event\ndef on(event):\n"


def test_decorated_http_function_answers(load, request_of):
    function = load("gcf_http", "gcf")

    reply = function.call(request_of(b"/?name=you"))

    assert (reply.status, reply.body) == (200, b"hello you")
    assert (function.signature, function.target) == ("http", "hello")
    assert function.unhandled_paths == {b"/favicon.ico", b"/robots.txt"}


def test_plain_function_of_main_is_found_by_its_parameter(load, request_of):
    assert load("def hi(request):\n    return 'hi'\n", "gcf").call(request_of()).body == b"hi"


def test_decorator_beats_the_signature_that_was_asked_for(load):
    assert load("gcf_http", "gcf", target="hello", signature="cloudevent").signature == "http"


def test_signature_that_was_asked_for_holds_without_decorator(load):
    assert load("def f(x):\n    pass\n", "gcf", target="f", signature="cloudevent").signature == "cloudevent"


async def test_coroutine_function_is_awaited(load, request_of):
    function = load("async def hi(request):\n    return {'a': 1}\n", "gcf")

    reply = await function.call(request_of())

    assert function.sync is False
    assert reply.body == b'{"a":1}\n'


def test_none_is_an_error_as_in_flask(load, request_of):
    with pytest.raises(TypeError, match="returned None"):
        load("def hi(request):\n    pass\n", "gcf").call(request_of())


def test_crash_carries_the_platforms_header_and_no_detail(load):
    reply = load("gcf_http", "gcf").on_error(ValueError("secret"))

    assert reply.status == 500
    assert (b"x-google-status", b"crash") in reply.headers
    assert b"secret" not in reply.body


def test_body_that_is_no_json_is_the_clients_fault(load, request_of):
    function = load("def hi(request):\n    return request.get_json()\n", "gcf")

    replies = [
        function.call(request_of(method="POST", body=b"{", headers=[(b"content-type", b"application/json")])),
        function.call(request_of(method="POST", body=b"{}", headers=[(b"content-type", b"text/plain")])),
    ]

    assert [reply.status for reply in replies] == [400, 415]


def test_binary_cloudevent_reaches_the_function(load, request_of, capsys):
    function = load("gcf_cloudevent", "gcf")

    reply = function.call(request_of(method="POST", body=b'{"a": 1}', headers=BINARY))

    assert (reply.status, reply.body) == (200, b"OK")
    assert capsys.readouterr().out == "order.made {'a': 1}\n"


def test_structured_cloudevent_reaches_the_function(load, request_of, capsys):
    body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"b": 2}}
    headers = [(b"content-type", b"application/cloudevents+json; charset=utf-8")]

    reply = load("gcf_cloudevent", "gcf").call(
        request_of(method="POST", body=json.dumps(body).encode(), headers=headers)
    )

    assert reply.status == 200
    assert capsys.readouterr().out == "t {'b': 2}\n"


@pytest.mark.parametrize(
    ("method", "body", "headers", "status"),
    [
        ("GET", b"", [], 405),
        ("POST", b"{}", [(b"content-type", b"application/json")], 400),
        ("POST", b"{", [(b"content-type", b"application/cloudevents+json")], 400),
        ("POST", b"", BINARY[:2], 400),
    ],
    ids=["not-post", "no-event", "broken-json", "attributes-missing"],
)
def test_what_is_no_event_is_refused(load, request_of, method, body, headers, status):
    reply = load("gcf_cloudevent", "gcf").call(request_of(method=method, body=body, headers=headers))

    assert reply.status == status


def test_event_of_the_platform_reaches_a_cloudevent_function(load, event_of, capsys):
    source = EVENT + (
        "    print(event['id'], event['source'], event['type'], event.data)\n"
        "    print(event.get_attributes()['x'])\n"
    )

    reply = load(source, "gcf").call(event_of(id="e-1", x="y"))

    assert reply.status == 200
    assert capsys.readouterr().out == "e-1 bus com.dapr.event.sent {'a': 1}\ny\n"


def test_event_of_the_platform_reaches_an_http_function_as_post(load, event_of):
    source = (
        "def hi(request):\n"
        "    headers = request.headers\n"
        "    return [request.method, request.get_json(), headers['Ce-Id'], headers['ce-type']]\n"
    )

    reply = load(source, "gcf").call(event_of(id="a b\u20ac", type="t"))

    assert json.loads(reply.body) == ["POST", {"a": 1}, "a%20b%E2%82%AC", "t"]


def test_several_candidates_are_listed(load):
    with pytest.raises(FunctionLoadError, match="a, b") as raised:
        load("def a(request): ...\ndef b(request): ...\n", "gcf")

    assert "--target" in raised.value.hint


def test_class_is_no_target(load):
    with pytest.raises(FunctionLoadError, match="not a function"):
        load("class F:\n    pass\n", "gcf", target="F")
