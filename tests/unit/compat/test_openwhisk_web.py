"""Web actions: parameters from requests, answers from results."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.compat.openwhisk.web import (
    RESERVED,
    Refused,
    arguments,
    cors,
    http,
    is_binary,
    project,
    split_name,
)
from pelton.model.invocation import Invocation

PNG = base64.b64encode(b"\x89PNG\0").decode()


def ask(target=b"/", body=b"", kind="", method="POST", headers=()):
    found = [*([(b"content-type", kind.encode())] if kind else []), *headers]
    return Invocation(id="i", method=method, target=target, headers=found, body=body)


def kind_of(reply):
    return dict(reply.headers).get(b"content-type", b"").decode()


# --- parameters ---


def test_context_is_always_there():
    found = arguments(ask(method="GET", headers=[(b"x-a", b"1"), (b"x-a", b"2")]), "/below")

    assert found == {"__ow_method": "get", "__ow_headers": {"x-a": "1, 2"}, "__ow_path": "/below"}


def test_body_wins_over_query():
    found = arguments(ask(b"/?a=q&b=q", b'{"a": 1}', "application/json; charset=utf-8"), "")

    assert (found["a"], found["b"]) == (1, "q")


def test_form_is_spread():
    assert arguments(ask(b"/", b"a=1&b=%C3%A9", "application/x-www-form-urlencoded"), "")["b"] == "é"


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"[1, 2]", "application/json", [1, 2]),
        (b"3", "application/vnd.x+json", 3),
        (b"hi", "text/plain", "hi"),
        (b"<a/>", "application/xml", "<a/>"),
        (b"\x00\xff", "application/octet-stream", "AP8="),
        (b"hi", "", "aGk="),
        (b"\x89PNG\0", "image/png", PNG),
    ],
)
def test_body_that_is_no_object_stays_one_value(body, kind, expected):
    assert arguments(ask(b"/", body, kind), "")["__ow_body"] == expected


def test_raw_action_gets_query_and_body_as_they_are():
    found = arguments(ask(b"/?a=1&a=2", b'{"b": 1}', "application/json"), "", raw=True)

    assert (found["__ow_query"], base64.b64decode(found["__ow_body"])) == ("a=1&a=2", b'{"b": 1}')
    assert "a" not in found and "b" not in found


def test_raw_action_without_body_gets_an_empty_one():
    assert arguments(ask(method="GET"), "", raw=True)["__ow_body"] == ""


def test_user_is_told_when_known():
    assert arguments(ask(), "", user="guest")["__ow_user"] == "guest"


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_refused_in_query_and_body(name):
    with pytest.raises(Refused) as refused:
        arguments(ask(f"/?{name}=1".encode()), "")
    assert refused.value.status == 400
    with pytest.raises(Refused) as refused:
        arguments(ask(b"/", json.dumps({name: 1}).encode(), "application/json"), "")
    assert refused.value.status == 400


def test_final_parameters_are_refused():
    with pytest.raises(Refused, match="not allowed"):
        arguments(ask(b"/?key=1"), "", protected=frozenset({"key"}))


def test_raw_action_may_be_sent_anything():
    assert "__ow_query" in arguments(ask(b"/?key=1"), "", raw=True, protected=frozenset({"key"}))


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff"])
def test_bad_json_is_the_clients_fault(body):
    with pytest.raises(Refused) as refused:
        arguments(ask(b"/", body, "application/json"), "")
    assert refused.value.status == 400


@pytest.mark.parametrize("raw", [True, False])
def test_long_body_is_refused(raw):
    with pytest.raises(Refused) as refused:
        arguments(ask(b"/", b"x" * 1_048_577, "text/plain"), "", raw=raw)
    assert refused.value.status == 413


@given(st.dictionaries(st.text(max_size=12), st.integers() | st.text(max_size=6), max_size=5))
def test_members_of_a_body_arrive_or_are_refused(members):
    request = ask(b"/", json.dumps(members).encode(), "application/json")
    if members.keys() & RESERVED:
        with pytest.raises(Refused):
            arguments(request, "")
    else:
        found = arguments(request, "")
        assert {key: found[key] for key in members} == members


@given(
    st.binary(max_size=200), st.sampled_from(["", "application/json", "text/plain", "image/png", "a/b+json"])
)
def test_any_body_is_taken_or_refused(body, kind):
    for raw in (True, False):
        try:
            json.dumps(arguments(ask(b"/?a=%ff", body, kind), "", raw=raw))
        except Refused as exc:
            assert 400 <= exc.status < 500


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.json", ("a", "json")), ("a", ("a", "http")), ("a.b", ("a.b", "http")), (".json", (".json", "http"))],
)
def test_known_extension_is_taken_off_a_name(name, expected):
    assert split_name(name) == expected


@pytest.mark.parametrize(
    ("media", "binary"),
    [
        ("text/x", False),
        ("application/json", False),
        ("image/svg+xml", False),
        ("image/gif", True),
        ("a/b", True),
    ],
)
def test_media_types_are_told_apart(media, binary):
    assert is_binary(media) is binary


def test_asked_headers_are_allowed():
    asked = ask(headers=[(b"access-control-request-headers", b"x-mine")])

    assert dict(cors(asked))[b"access-control-allow-headers"] == b"x-mine"
    assert b"Authorization" in dict(cors(ask()))[b"access-control-allow-headers"]


# --- .http ---


@pytest.mark.parametrize(
    ("value", "status", "kind", "body"),
    [
        ({"body": "<b>"}, 200, "text/html; charset=UTF-8", b"<b>"),
        ({"body": {"a": 1}}, 200, "application/json", b'{"a":1}'),
        ({"body": 0}, 200, "application/json", b"0"),
        ({"body": ""}, 204, "", b""),
        ({"body": None}, 204, "", b""),
        ({}, 204, "", b""),
        ({"statusCode": 404}, 404, "", b""),
        ({"statusCode": "201", "body": "x"}, 201, "text/html; charset=UTF-8", b"x"),
        ({"statusCode": 202.0}, 202, "", b""),
        ({"headers": {"Content-Type": "image/png"}, "body": PNG}, 200, "image/png", b"\x89PNG\0"),
        (
            {"headers": {"content-type": "text/csv"}, "body": "é"},
            200,
            "text/csv; charset=UTF-8",
            "é".encode(),
        ),
        ({"headers": {"content-type": "application/json"}, "body": "true"}, 200, "application/json", b"true"),
        (
            {"headers": {"content-type": "application/json"}, "body": "eyJhIjoxfQ=="},
            200,
            "application/json",
            b'{"a":1}',
        ),
        ({"headers": {"content-type": "a/b+json"}, "body": [1]}, 200, "a/b+json", b"[1]"),
        ({"headers": {"content-type": "image/svg+xml"}, "body": "<svg/>"}, 200, "image/svg+xml", b"<svg/>"),
    ],
)
def test_http_answer_is_what_the_result_says(value, status, kind, body):
    reply = http(value)

    assert (reply.status, kind_of(reply), reply.body) == (status, kind, body)


def test_array_header_is_repeated():
    reply = http({"headers": {"Set-Cookie": ["a=1", "b=2"], "X-N": 1, "X-B": True}, "body": "x"})

    assert [value for name, value in reply.headers if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert (b"x-n", b"1") in reply.headers and (b"x-b", b"true") in reply.headers


@pytest.mark.parametrize(
    "value",
    [
        [1],
        "text",
        {"headers": []},
        {"headers": {"a": None}},
        {"headers": {"a": {"b": 1}}},
        {"headers": {"a": "x\r\nb: y"}},
        {"headers": {"": "x"}},
        {"statusCode": "abc"},
        {"statusCode": True},
        {"statusCode": 99},
        {"statusCode": 600},
        {"statusCode": None},
        {"headers": {"content-type": "image/png"}, "body": "no base64!"},
        {"headers": {"content-type": "nonsense"}, "body": "x"},
        {"headers": {"content-type": "text/html"}, "body": {"a": 1}},
        {"body": {1, 2}},
    ],
)
def test_result_that_is_no_http_answer_is_refused(value):
    with pytest.raises(Refused) as refused:
        http(value)
    assert refused.value.status == 400


# --- the other extensions ---


@pytest.mark.parametrize(
    ("extension", "value", "kind", "body"),
    [
        ("json", {"a": 1}, "application/json", b'{"a":1}'),
        ("json", [1], "application/json", b"[1]"),
        ("html", {"html": "<i>"}, "text/html; charset=UTF-8", b"<i>"),
        ("html", {"body": "<b>", "html": "<i>"}, "text/html; charset=UTF-8", b"<b>"),
        ("html", "<u>", "text/html; charset=UTF-8", b"<u>"),
        ("svg", {"svg": "<svg/>"}, "image/svg+xml", b"<svg/>"),
        ("text", {"text": "t"}, "text/plain; charset=UTF-8", b"t"),
        ("text", {"body": 5}, "text/plain; charset=UTF-8", b"5"),
        ("text", {"body": True}, "text/plain; charset=UTF-8", b"true"),
        ("text", {"body": None}, "text/plain; charset=UTF-8", b"null"),
        ("text", {"body": {"a": 1}}, "text/plain; charset=UTF-8", b'{\n  "a": 1\n}'),
    ],
)
def test_extension_shows_its_part_of_the_result(extension, value, kind, body):
    reply = project(extension, value)

    assert (reply.status, kind_of(reply), reply.body) == (200, kind, body)


@pytest.mark.parametrize(
    ("extension", "value", "status"),
    [
        ("json", "x", 400),
        ("html", {"a": 1}, 400),
        ("svg", {"svg": 1}, 400),
        ("text", {"a": 1}, 404),
        ("text", {"body": {1}}, 400),
    ],
)
def test_extension_without_its_part_is_an_error(extension, value, status):
    with pytest.raises(Refused) as refused:
        project(extension, value)
    assert refused.value.status == status


def test_long_answer_is_an_error():
    with pytest.raises(Refused, match="exceeded the allowed length"):
        project("text", "x" * 1_048_577)


_RESULTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["body", "headers", "statusCode", "content-type", "text", "x"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(_RESULTS, st.sampled_from(["http", "json", "html", "svg", "text"]))
def test_any_result_is_shown_or_refused(value, extension):
    try:
        reply = project(extension, value)
    except Refused as exc:
        assert 400 <= exc.status <= 502
    else:
        assert type(reply.body) is bytes
        assert all(b"\n" not in item and b"\r" not in item for pair in reply.headers for item in pair)
