import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.invocation import Event
from pelton.sdk import inner_event


def event(data, **attributes):
    return Event(
        kind="topic",
        component="bus",
        component_type="pubsub.kafka",
        topic="t",
        data=data,
        content_type="application/json",
        attributes=attributes,
    )


def wrapped(data=b'{"n": 1}', **metadata):
    return inner_event.wrap(
        data,
        id="i",
        namespace="shop",
        function="f",
        subject="in",
        time="2026-01-02T03:04:05Z",
        metadata=metadata,
    )


def test_wrapped_payload_is_the_event_that_other_frameworks_read():
    assert json.loads(wrapped(b"hi", sw8="x")) == {
        "specversion": "1.0",
        "id": "i",
        "source": "shop/f",
        "type": "io.openfunction.function.shop.f",
        "datacontenttype": "application/json",
        "time": "2026-01-02T03:04:05Z",
        "subject": "in",
        "data": {"metadata": {"sw8": "x"}, "userData": "aGk="},
    }


@pytest.mark.parametrize("any_event", [True, False])
def test_own_wrapping_is_always_taken_off(any_event):
    found, metadata = inner_event.unwrap(event(wrapped(sw8="x")), any_event=any_event)

    assert (found.data, found.content_type, metadata) == (b'{"n": 1}', "application/json", {"sw8": "x"})


def test_wrapping_whose_envelope_is_gone_is_taken_off():
    content = json.loads(wrapped(b"\x00\xff", Sw8="x"))["data"]
    delivered = event(json.dumps(content).encode(), type="io.openfunction.function.shop.f")

    found, metadata = inner_event.unwrap(delivered, any_event=False)

    assert (found.data, found.content_type, metadata) == (
        b"\x00\xff",
        "application/octet-stream",
        {"sw8": "x"},
    )


@pytest.mark.parametrize(
    ("member", "data"),
    [
        ({"data": {"a": 1}}, b'{"a": 1}'),
        ({"data": "text"}, b"text"),
        ({"data_base64": "AP8="}, b"\x00\xff"),
        ({"data": {"userData": {"a": 1}}}, b'{"a": 1}'),
        ({"data": {"userData": "not base64!"}}, b"not base64!"),
        ({}, b""),
    ],
    ids=str,
)
def test_any_cloudevent_is_unwrapped_only_when_asked_for(member, data):
    text = json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "t", **member}).encode()

    assert inner_event.unwrap(event(text), any_event=True)[0].data == data
    assert inner_event.unwrap(event(text), any_event=False)[0].data == text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b'{"specversion": "1.0"}',
        b'{"specversion" io.openfunction.function',
        b'{"a": "specversion"}',
    ],
)
def test_payload_that_is_no_event_stays_the_same_object(data):
    delivered = event(data)

    assert inner_event.unwrap(delivered, any_event=True) == (delivered, {})
    assert inner_event.unwrap(delivered, any_event=True)[0] is delivered


@pytest.mark.parametrize(
    ("data", "attributes", "expected"),
    [
        (b"{}", {}, False),
        (b"{}", {"type": "com.dapr.event.sent"}, False),
        (b"{}", {"type": "io.openfunction.function.n.f"}, True),
        (b'{"specversion": "1.0"}', {}, True),
    ],
)
def test_only_what_may_be_wrapped_is_looked_at(data, attributes, expected):
    assert inner_event.may_be_wrapped(event(data, **attributes)) is expected


@given(st.binary())
def test_property_payload_comes_back_as_it_went(data):
    assert inner_event.unwrap(event(wrapped(data)), any_event=True)[0].data == data


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("pubsub.jetstream", True),
        ("bindings.kafka", True),
        ("bindings.azure.eventhubs", True),
        ("bindings.http", False),
        ("bindings.cron", False),
        ("", False),
    ],
)
def test_topics_and_queues_get_wrapped_payloads(kind, expected):
    assert inner_event.is_wrapped_output(kind) is expected
