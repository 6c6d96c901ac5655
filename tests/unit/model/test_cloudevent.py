import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.errors import ProtocolError
from pelton.model import cloudevent
from pelton.model.cloudevent import CloudEvent

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,12}", fullmatch=True).filter(
    lambda name: name not in {"id", "source", "type", "specversion", "data", "subject", "time", "dataschema"}
)


def wrap(data=b"{}", **options):
    settings = {
        "id": "1",
        "source": "ns/fn",
        "topic": "orders",
        "pubsub": "bus",
        "time": "2026-01-02T03:04:05Z",
    }
    return cloudevent.wrap(data, **{**settings, **options})


@given(
    WORDS,
    WORDS,
    st.binary(max_size=60),
    st.sampled_from(["", "a/b", "application/octet-stream"]),
    st.dictionaries(NAMES, st.one_of(WORDS, st.integers(-9, 9), st.booleans()), max_size=4),
)
def test_json_round_trip_keeps_bytes_and_attributes(id, subject, data, content_type, extensions):
    if not content_type:
        data = json.dumps(data.hex()).encode()
    event = CloudEvent(
        id=id,
        source="s",
        type="t",
        subject=subject,
        content_type=content_type,
        extensions=extensions,
        data=data,
    )

    assert cloudevent.from_json(cloudevent.to_json(event)) == event


@given(WORDS, st.binary(max_size=60))
def test_http_binary_round_trip_keeps_bytes_and_attributes(id, data):
    event = CloudEvent(
        id=id, source="s", type="t", content_type="text/plain", extensions={"topic": "ä %"}, data=data
    )
    headers, body = cloudevent.to_headers(event)

    assert all(value.isascii() for _, value in headers)
    assert cloudevent.from_headers(headers, body) == event


@pytest.mark.parametrize(
    ("data", "json"),
    [(b"1e400", True), (b"123456789012345678901234567890", True), (b"{", False), (b'"\xff"', False)],
)
def test_json_is_told_by_its_form_not_by_what_a_number_type_holds(data, json):
    assert cloudevent.is_json_text(data) is json


def test_json_payload_keeps_big_numbers_exact():
    data = b'{"n": 123456789012345678901234567890, "f": 1.10}'
    event = cloudevent.from_json(cloudevent.to_json(wrap(data, content_type="application/json")))

    assert event.data == data


def test_text_data_becomes_the_text_and_json_data_stays_json():
    head = b'{"id":"1","source":"s","type":"t","specversion":"1.0",'

    assert cloudevent.from_json(head + b'"datacontenttype":"text/plain","data":"a\\n"}').data == b"a\n"
    assert cloudevent.from_json(head + b'"datacontenttype":"application/json","data":"a"}').data == b'"a"'
    assert cloudevent.from_json(head + b'"data":{"a":1}}').data == b'{"a":1}'
    assert cloudevent.from_json(head + b'"data":null}').data == b""
    assert cloudevent.from_json(head + b'"data_base64":"AP8="}').data == b"\x00\xff"


@pytest.mark.parametrize(
    ("content_type", "data", "member", "value"),
    [
        ("application/json", b'{"a": 1}', "data", {"a": 1}),
        ("application/json", b"not json", "data", "not json"),
        ("application/vnd.x+json; charset=utf-8", b"[1]", "data", [1]),
        ("text/plain", b"hello", "data", "hello"),
        ("application/octet-stream", b"hello", "data_base64", "aGVsbG8="),
        ("text/plain", b"\xff", "data_base64", "/w=="),
    ],
)
def test_envelope_holds_data_by_its_media_type(content_type, data, member, value):
    assert json.loads(cloudevent.to_json(wrap(data, content_type=content_type)))[member] == value


def test_envelope_has_the_keys_of_dapr():
    found = json.loads(cloudevent.to_json(wrap(b'"x"', content_type="application/json")))

    assert found == {
        "id": "1",
        "source": "ns/fn",
        "type": "com.dapr.event.sent",
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "data": "x",
        "topic": "orders",
        "pubsubname": "bus",
        "time": "2026-01-02T03:04:05Z",
    }


def test_envelope_without_media_type_is_plain_text():
    assert wrap(b"x").content_type == "text/plain"


def test_metadata_overrides_some_attributes_only():
    event = wrap(
        metadata={"cloudEvent.ID": "9", "cloudevent.traceparent": "00-a", "cloudevent.topic": "x", "ttl": "5"}
    )

    assert event.id == "9"
    assert event.extensions == {
        "traceparent": "00-a",
        "traceid": "00-a",
        "topic": "orders",
        "pubsubname": "bus",
    }


def test_ready_event_keeps_its_attributes_but_not_its_topic():
    event = wrap(
        b'{"id":"mine","source":"me","topic":"forged","data":{"a":1}}', content_type=cloudevent.STRUCTURED
    )

    assert (event.id, event.source, event.type) == ("mine", "me", "com.dapr.event.sent")
    assert event.extensions["topic"] == "orders"
    assert event.data == b'{"a":1}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "must be a JSON object"),
        (b"{", "must be a JSON object"),
        (b'{"data":' + b"[" * 5000 + b"]" * 5000 + b"}", "must be a JSON object"),
        (b'{"id":"1","specversion":"1.0"}', "lacks source, type"),
        (b'{"id":"1","source":"s","type":"t","specversion":"0.3"}', "only 1.0 is"),
        (b'{"id":"1","source":"s","type":"t","specversion":"1.0","data_base64":"?"}', "not base64"),
    ],
)
def test_broken_event_is_refused(text, message):
    with pytest.raises(ProtocolError, match=message):
        cloudevent.from_json(text)


def test_structured_http_is_found_by_its_media_type():
    text = cloudevent.to_json(wrap(b"1", content_type="application/json"))
    event = cloudevent.from_headers({"Content-Type": "application/cloudevents+json; charset=utf-8"}, text)

    assert event == wrap(b"1", content_type="application/json")


def test_request_without_event_headers_is_none():
    assert cloudevent.from_headers({"Content-Type": "application/json"}, b"{}") is None


@pytest.mark.parametrize(
    "body", [b"", b"x", b'{"a":1}', b'{"specversion":"1.0"}', b'{"specversion":', b"\xff"]
)
def test_raw_message_is_no_event(body):
    assert cloudevent.from_message({}, body) is None


def test_message_is_an_event_by_its_looks_or_its_headers():
    assert cloudevent.from_message({}, cloudevent.to_json(wrap())) == wrap()
    headers = {"ce_id": "1", "ce_source": "s", "ce_type": "t", "ce_specversion": "1.0", "content-type": "a/b"}
    found = cloudevent.from_message(headers, b"x")
    assert found == CloudEvent(id="1", source="s", type="t", content_type="a/b", data=b"x")


def test_batch_is_split_into_its_events_as_they_are():
    headers = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}

    assert cloudevent.split_batch(headers, b'[{"id": "1", "n": 12345678901234567890}, 3]') == [
        b'{"id": "1", "n": 12345678901234567890}',
        b"3",
    ]
    assert cloudevent.split_batch(headers, b"[") is None
    assert cloudevent.split_batch({"content-type": "application/json"}, b"[]") is None
    assert cloudevent.split_batch({}, b"[]") is None


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain", "image/png"])
@pytest.mark.parametrize("data", [b"null", b" null ", b"no JSON", b'"text"', b"[1]", b"\xff", b"1e400"])
def test_exact_envelope_gives_the_payload_back(content_type, data):
    event = CloudEvent(id="1", source="s", type="t", content_type=content_type, data=data)

    assert cloudevent.from_json(cloudevent.to_json(event, exact=True)).data.strip() == data.strip()


@pytest.mark.parametrize("data", [b'"' * 9000, b"\x01" * 9000, "\u00e9".encode() * 4500, b"\xff" * 9000])
def test_exact_envelope_is_larger_by_a_third_at_most(data):
    event = CloudEvent(id="1", source="s", type="t", content_type="text/plain", data=data)

    assert len(cloudevent.to_json(event, exact=True)) < 12000 + 150
    assert cloudevent.from_json(cloudevent.to_json(event, exact=True)).data == data


def test_attribute_that_no_header_can_name_is_left_out():
    event = CloudEvent(
        id="1", source="s", type="t", extensions={"a b\r\nc": "v", "list": [1, "x"], "flag": True}
    )

    headers, _ = cloudevent.to_headers(event)

    assert headers[4:] == [("ce-list", "[1,%22x%22]"), ("ce-flag", "true")]


def test_header_that_would_name_the_payload_is_no_attribute():
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-data": "other"}
    found = cloudevent.from_headers(headers, b"")

    assert found is not None
    assert found.extensions == {}
