"""Requests in the forms of Lambda's HTTP fronts, and results as their answers."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.compat.aws_lambda.answers import STREAM_TYPE, read_prelude, split_prelude
from pelton.compat.aws_lambda.calls import LambdaCall, LambdaResult, encode
from pelton.compat.aws_lambda.fronts import FRONTS
from pelton.compat.aws_lambda.fronts import front_of as find_front
from pelton.errors import FunctionLoadError
from pelton.model.invocation import Reply

NAMED = [name for name, front in FRONTS.items() if front is not None]
GET = (b"/a%20b/c?x=1&y=%20&x=2&z", "GET")
HEADERS = ((b"user-agent", b"t/1"), (b"accept", b"a"), (b"accept", b"b"), (b"cookie", b"k=v; l=w"))


def front_of(name, info) -> Any:
    return find_front(name, info)


def result(value):
    return LambdaResult(payload=encode(value))


@pytest.fixture
def event(info, request_of):
    def make(name, target=b"/", method="GET", body=b"", headers=(), options=None, **more):
        call = front_of(name, info(**(options or {}))).call(request_of(target, method, body, headers, **more))
        assert isinstance(call, LambdaCall)
        return call.event

    return make


@pytest.mark.parametrize(("name", "account"), [("function-url", "anonymous"), ("apigw-v2", "012345678912")])
def test_version_2_event(event, name, account):
    found = event(name, *GET, headers=HEADERS)
    context = found.pop("requestContext")

    assert len(context.pop("time").partition(" ")[0]) == 20
    assert context.pop("timeEpoch") > 10**12
    assert found == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/a%20b/c",
        "rawQueryString": "x=1&y=%20&x=2&z",
        "cookies": ["k=v", "l=w"],
        "headers": {
            "host": "f.test:8080",
            "user-agent": "t/1",
            "accept": "a,b",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-proto": "http",
            "x-forwarded-port": "8080",
        },
        "queryStringParameters": {"x": "1,2", "y": " ", "z": ""},
        "isBase64Encoded": False,
    }
    assert context == {
        "accountId": account,
        "apiId": "f",
        "domainName": "f.test",
        "domainPrefix": "f",
        "http": {
            "method": "GET",
            "path": "/a%20b/c",
            "protocol": "HTTP/1.1",
            "sourceIp": "192.0.2.1",
            "userAgent": "t/1",
        },
        "requestId": "i-1",
        "routeKey": "$default",
        "stage": "$default",
    }


def test_version_1_event(event):
    found = event("apigw-v1", *GET, headers=HEADERS)
    context = found.pop("requestContext")

    assert found == {
        "resource": "/{proxy+}",
        "path": "/a%20b/c",
        "httpMethod": "GET",
        "headers": {
            "Host": "f.test:8080",
            "User-Agent": "t/1",
            "Accept": "b",
            "Cookie": "k=v; l=w",
            "X-Forwarded-For": "192.0.2.1",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Port": "8080",
        },
        "multiValueHeaders": {
            "Host": ["f.test:8080"],
            "User-Agent": ["t/1"],
            "Accept": ["a", "b"],
            "Cookie": ["k=v; l=w"],
            "X-Forwarded-For": ["192.0.2.1"],
            "X-Forwarded-Proto": ["http"],
            "X-Forwarded-Port": ["8080"],
        },
        "queryStringParameters": {"x": "2", "y": " ", "z": ""},
        "multiValueQueryStringParameters": {"x": ["1", "2"], "y": [" "], "z": [""]},
        "pathParameters": {"proxy": "a b/c"},
        "stageVariables": None,
        "body": None,
        "isBase64Encoded": False,
    }
    assert context["identity"]["sourceIp"] == "192.0.2.1"
    assert context["identity"]["userAgent"] == "t/1"
    assert (context["stage"], context["path"]) == ("Prod", "/Prod/a%20b/c")
    assert (context["httpMethod"], context["resourcePath"]) == ("GET", "/{proxy+}")


def test_version_1_root_has_null_maps(event):
    found = event("apigw-v1", options={"http_stage": "dev"})

    assert (found["resource"], found["pathParameters"]) == ("/", None)
    assert found["queryStringParameters"] is found["multiValueQueryStringParameters"] is None
    assert found["requestContext"]["path"] == "/dev/"


def test_load_balancer_event_keeps_parameters_encoded(event):
    found = event("alb", *GET, headers=HEADERS)

    assert found["requestContext"]["elb"]["targetGroupArn"].startswith(
        "arn:aws:elasticloadbalancing:eu-west-1:"
    )
    assert found["queryStringParameters"] == {"x": "2", "y": "%20", "z": ""}
    assert found["headers"]["accept"] == "b"
    assert (found["body"], found["isBase64Encoded"]) == ("", False)
    assert "multiValueHeaders" not in found


def test_load_balancer_event_with_several_values(event):
    found = event("alb", *GET, headers=HEADERS, options={"http_event_multi_value": "true"})

    assert found["multiValueQueryStringParameters"] == {"x": ["1", "2"], "y": ["%20"], "z": [""]}
    assert found["multiValueHeaders"]["accept"] == ["a", "b"]
    assert "headers" not in found and "queryStringParameters" not in found


@pytest.mark.parametrize(
    ("name", "content_type", "body", "is_base64"),
    [
        ("function-url", b"application/json", b"{}", False),
        ("function-url", b"text/plain; charset=utf-8", "é".encode(), False),
        ("function-url", b"application/problem+json", b"{}", False),
        ("function-url", b"application/x-www-form-urlencoded", b"a=1", True),
        ("function-url", b"image/png", b"a", True),
        ("function-url", b"text/plain", b"\xff", True),
        ("function-url", None, b"a", False),
        ("apigw-v1", b"application/x-www-form-urlencoded", b"a=1", False),
        ("apigw-v1", b"image/png", b"\xff", True),
        ("alb", b"application/octet-stream", b"a", True),
    ],
)
def test_body_is_text_where_its_type_says_so(event, name, content_type, body, is_base64):
    headers = [] if content_type is None else [(b"content-type", content_type)]

    found = event(name, method="POST", body=body, headers=headers)

    assert found["isBase64Encoded"] is is_base64
    assert found["body"] == (base64.b64encode(body).decode() if is_base64 else body.decode())


def test_compressed_body_is_left_as_it_is(event):
    headers = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]

    assert event("function-url", method="POST", body=b"{}", headers=headers)["isBase64Encoded"] is True


def test_gateways_forwarding_headers_are_kept(event):
    sent = [(b"x-forwarded-for", b"198.51.100.7"), (b"x-forwarded-proto", b"https")]

    found = event("function-url", headers=sent, scheme="https")

    assert found["headers"]["x-forwarded-for"] == "198.51.100.7"
    assert found["headers"]["x-forwarded-proto"] == "https"


def test_odd_bytes_do_not_break_a_request(event):
    headers = [(b"x-a", b"\xe9"), (b"cookie", b"a=\xff"), (b"x-a", "é".encode())]

    found = event("function-url", b"/\xff?%ff=%zz&&=", headers=headers)

    assert found["headers"]["x-a"] == "é,é"
    assert found["cookies"] == ["a=ÿ"]
    assert found["queryStringParameters"] == {"�": "%zz", "": ""}


@pytest.mark.parametrize(
    ("method", "path", "route", "parameters"),
    [
        ("GET", b"/items/7", "/items/{id}", {"id": "7"}),
        ("GET", b"/items/a%20b/", "/items/{id}", {"id": "a b"}),
        ("GET", b"/items/new", "/items/new", None),
        ("DELETE", b"/items/new", "/items/{id}", {"id": "new"}),
        ("PUT", b"/files/a/b", "/files/{path+}", {"path": "a/b"}),
        ("GET", b"/other", None, None),
    ],
)
def test_declared_routes_give_path_parameters(event, method, path, route, parameters):
    routes = {"http_routes": "ANY /files/{path+}, ANY /items/{id}, GET /items/new, GET /items/{id}"}

    one = event("apigw-v1", path, method, options=routes)
    two = event("apigw-v2", path, method, options=routes)

    assert one["resource"] == (route or "/{proxy+}")
    assert one["pathParameters"] == (parameters if route else {"proxy": "other"})
    assert two["routeKey"].partition(" ")[2] == (route or "")
    assert two.get("pathParameters") == parameters


def test_unknown_front_is_refused_with_the_known_ones(info):
    with pytest.raises(FunctionLoadError) as caught:
        front_of("websocket", info())

    assert all(name in caught.value.hint for name in FRONTS)


# --- answers ---


@pytest.mark.parametrize("name", ["function-url", "apigw-v2"])
def test_version_2_answer(info, name):
    front = front_of(name, info())

    reply = front.reply(
        result(
            {
                "statusCode": 201,
                "headers": {"Content-Type": "text/css", "X-N": 1, "X-B": True, "Content-Length": "9"},
                "cookies": ["a=1", "b=2"],
                "body": base64.b64encode(b"\0").decode(),
                "isBase64Encoded": True,
            }
        )
    )

    assert reply == Reply(
        201,
        [
            (b"content-type", b"text/css"),
            (b"x-n", b"1"),
            (b"x-b", b"true"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
        ],
        b"\0",
    )


@pytest.mark.parametrize(
    ("value", "body"), [("hi", b'"hi"'), ({"a": 1}, b'{"a": 1}'), (None, b"null"), ([1], b"[1]")]
)
def test_version_2_result_without_a_status_is_the_body(info, value, body):
    reply = front_of("function-url", info()).reply(result(value))

    assert reply == Reply(200, [(b"content-type", b"application/json")], body)


def test_type_of_an_answer_that_names_none(info):
    types = {
        name: dict(front_of(name, info()).reply(result({"statusCode": 200, "body": "x"})).headers)
        for name in NAMED
    }

    assert {name: headers[b"content-type"] for name, headers in types.items()} == {
        "function-url": b"application/json",
        "apigw-v2": b"text/plain; charset=utf-8",
        "apigw-v1": b"application/json",
        "alb": b"application/octet-stream",
    }


def test_version_1_headers_with_several_values_are_merged(info):
    value = {
        "statusCode": "200",
        "headers": {"Set-Cookie": "a=1", "X-A": "1"},
        "multiValueHeaders": {"set-cookie": ["a=1", "b=2"]},
    }

    reply = front_of("apigw-v1", info()).reply(result(value))

    assert sorted(reply.headers) == [
        (b"content-type", b"application/json"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-a", b"1"),
    ]


def test_load_balancer_takes_the_headers_that_its_target_group_has(info):
    value = {
        "statusCode": 200,
        "statusDescription": "200 OK",
        "headers": {"x-a": "single"},
        "multiValueHeaders": {"x-a": ["1", "2"]},
    }

    single = front_of("alb", info()).reply(result(value)).headers
    multi = front_of("alb", info(http_event_multi_value="true")).reply(result(value)).headers

    assert single == [(b"x-a", b"single")]
    assert multi == [(b"x-a", b"1"), (b"x-a", b"2")]


@pytest.mark.parametrize(
    "value",
    [
        {"statusCode": "ok"},
        {"statusCode": True},
        {"statusCode": 99},
        {"statusCode": 200, "headers": ["x"]},
        {"statusCode": 200, "headers": {"x": "a\r\nb: c"}},
        {"statusCode": 200, "headers": {"x": {}}},
        {"statusCode": 200, "headers": {"é": "a"}},
        {"statusCode": 200, "headers": {"a b": "a"}},
        {"statusCode": 200, "body": "!", "isBase64Encoded": True},
    ],
)
def test_malformed_answer_is_each_fronts_own_error(info, value):
    statuses = {name: front_of(name, info()).reply(result(value)) for name in NAMED}

    assert {name: (reply.status, reply.body[:21]) for name, reply in statuses.items()} == {
        "function-url": (502, b"Internal Server Error"),
        "apigw-v2": (500, b'{"message":"Internal '),
        "apigw-v1": (502, b'{"message": "Internal'),
        "alb": (502, b"<html>\r\n<head><title>"),
    }


@pytest.mark.parametrize("value", ["text", None, {"body": "no status"}, {"statusCode": 200, "body": {}}])
def test_older_fronts_take_only_their_own_form(info, value):
    assert front_of("apigw-v1", info()).reply(result(value)).status == 502
    assert front_of("alb", info()).reply(result(value)).status == 502


def test_failed_function_and_no_json_are_errors_without_details(info):
    failed = LambdaResult(payload=b"{}", error=True, error_type="ValueError", error_message="secret")
    front = front_of("function-url", info())

    assert front.reply(failed).body == b"Internal Server Error"
    assert front.reply(failed).error == "ValueError: secret"
    assert front.reply(LambdaResult(payload=b"\xff", content_type="application/unknown")).status == 502


@pytest.mark.parametrize(
    ("status", "answers"),
    [(413, (413, 413, 413, 413)), (503, (429, 503, 503, 503)), (504, (502, 504, 504, 502))],
)
def test_refusals_are_each_fronts_own(info, status, answers):
    assert tuple(front_of(name, info()).refusal(status).status for name in NAMED) == answers


def test_too_long_bodies_are_refused_by_each_fronts_limit(info, request_of):
    long = request_of(method="POST", body=b"x" * (1024 * 1024 + 1))

    assert front_of("alb", info()).call(long).status == 413
    assert isinstance(front_of("function-url", info()).call(long), LambdaCall)
    assert (
        front_of("function-url", info()).reply(result({"statusCode": 200, "body": "x" * 6291600})).status
        == 502
    )


# --- streams ---


async def chunks(*items):
    for item in items:
        yield item


@given(st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.text("abc")), st.binary(), st.integers(1, 7))
def test_prelude_and_body_are_found_however_they_are_cut(headers, body, size):
    import asyncio

    data = encode({"statusCode": 201, "headers": headers}) + bytes(8) + body
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    async def read():
        prelude, rest = await read_prelude(chunks(*pieces))
        return prelude, b"".join([item async for item in rest])

    assert split_prelude(data) == ({"statusCode": 201, "headers": headers}, body)
    assert asyncio.run(read()) == split_prelude(data)


async def test_streamed_answer_has_the_preludes_status_and_headers(info):
    front = front_of("function-url", info())
    prelude = json.dumps({"statusCode": 404, "headers": {"x-a": "1"}, "cookies": ["c=1"]}).encode()

    stream = LambdaResult(stream=chunks(prelude + bytes(8), b"a", b"b"), content_type=STREAM_TYPE)
    reply = await front.stream_reply(stream)
    plain = await front.stream_reply(LambdaResult(stream=chunks(b"x"), content_type="text/csv"))

    assert reply.status == 404
    assert reply.headers[:2] == [(b"x-a", b"1"), (b"set-cookie", b"c=1")]
    assert [item async for item in reply.body] == [b"a", b"b"]
    assert (plain.status, plain.headers) == (200, [(b"content-type", b"text/csv")])


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"no json" + bytes(8), b"[]" + bytes(8), b"x" * 1048577 + bytes(8)]
)
async def test_stream_without_a_prelude_is_malformed(info, data):
    front = front_of("function-url", info())

    assert (
        await front.stream_reply(LambdaResult(stream=chunks(data), content_type=STREAM_TYPE))
    ).status == 502
    assert front.reply(LambdaResult(payload=data, content_type=STREAM_TYPE)).status == 502


def test_whole_answer_may_have_a_prelude(info):
    payload = b'{"statusCode": 202}' + bytes(8) + b"\0body"

    reply = front_of("function-url", info()).reply(LambdaResult(payload=payload, content_type=STREAM_TYPE))

    assert (reply.status, reply.body) == (202, b"\0body")


# --- the short way ---

VALUES = st.one_of(
    st.text(max_size=5),
    st.none(),
    st.dictionaries(
        st.sampled_from(["statusCode", "headers", "body", "isBase64Encoded", "cookies", "other"]),
        st.one_of(
            st.sampled_from([200, 204, 99, True, False, None, "YQ==", "200", 200.0, "text é", ["c=1"], []]),
            st.dictionaries(
                st.sampled_from(["X-A", "content-type", "Content-Length", "é"]),
                st.sampled_from(["a", "é", "a\n", 1, None, True, "\t"]),
                max_size=2,
            ),
        ),
    ),
)


class Handler:
    """Returns what it is told; marshals as the runtime does."""

    def __init__(self, value):
        self.value = value

    def context(self, request_id, deadline):
        return None

    def call(self, request_id, event, context, trace_id):
        return self.value

    def marshal(self, request_id, value, *, wants_value=False):
        return result(value)


@given(VALUES)
def test_short_way_gives_the_same_answers(value):
    from pelton.compat.aws_lambda.context import info_of
    from pelton.model.invocation import Invocation, LoadRequest

    def never(_output):
        raise AssertionError

    request = LoadRequest(
        source="/x.py", target="x.f", signature="", context={}, send=never, send_async=never
    )
    front = front_of("function-url", info_of(request, {}))

    short = front.serve(Invocation("i", "GET", b"/", []), Handler(value))

    assert short == front.reply(result(value))
