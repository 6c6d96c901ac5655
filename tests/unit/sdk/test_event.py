import pytest

from pelton.model.invocation import Event
from pelton.sdk.event import CloudEvent, TopicEvent, json_or_raw


def event(**attributes):
    return Event(
        kind="topic",
        component="bus",
        component_type="pubsub.jetstream",
        topic="orders",
        data=b"\xff",
        content_type="application/octet-stream",
        attributes=attributes,
    )


def test_topic_event_has_methods_and_properties():
    found = TopicEvent(event(id="1", source="/s", type="t", time="2026-01-01T00:00:00Z", traceid="x"), "inv")

    assert (found.EventID(), found.Source(), found.EventType()) == ("1", "/s", "t")
    assert (found.Data(), found.data) == (b"\xff", b"\xff")
    assert (found.Subject(), found.EventTime()) == ("orders", "2026-01-01T00:00:00Z")
    assert (found.ContentType(), found.Extensions()) == ("application/octet-stream", {"traceid": "x"})
    assert found.Get("id") == ("1", True)
    assert found.Get("traceid") == ("x", True)
    assert found.Get("nope") == (None, False)
    assert "time" in found.Properties()


def test_raw_message_gets_attributes_from_where_it_came():
    found = TopicEvent(event(), "inv")

    assert (found.id, found.source, found.type, found.specversion) == (
        "inv",
        "bus",
        "com.dapr.event.sent",
        "1.0",
    )


def test_cloud_event_fills_what_may_be_missing_and_refuses_the_rest():
    found = CloudEvent({"type": "t", "source": "s", "Subject": "x"}, {"a": 1})

    assert (found["specversion"], found["subject"], found.data) == ("1.0", "x", {"a": 1})
    assert found["id"]
    assert found["time"]
    assert found.get("nope", 1) == 1
    assert "type" in found
    assert set(found) == set(found.get_attributes())
    with pytest.raises(ValueError, match="lacks source"):
        CloudEvent({"type": "t"})


@pytest.mark.parametrize(
    ("data", "value"), [(b"", None), (b'{"a":1}', {"a": 1}), (b"x", b"x"), (b"\xff", b"\xff")]
)
def test_payload_is_parsed_when_it_is_json(data, value):
    assert json_or_raw(data) == value
