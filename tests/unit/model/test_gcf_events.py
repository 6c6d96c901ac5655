"""Legacy background events and CloudEvents: each row of the table, and that the way back undoes the way."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.errors import ProtocolError
from pelton.model.gcf_events import (
    KNOWN_TYPES,
    PUBSUB_MESSAGE,
    LegacyEvent,
    from_cloudevent,
    pubsub_event,
    read_legacy,
    to_cloudevent,
)

NOW = "2024-05-06T07:08:09Z"
FIRESTORE = "providers/cloud.firestore/eventTypes/document."
DATABASE = "providers/google.firebase.database/eventTypes/ref."
DOCUMENT = "projects/p/databases/(default)/documents/gcf/2"
REF = "projects/_/instances/my-db/refs/a/b"
PUBSUB = {"service": "pubsub.googleapis.com", "name": "projects/p/topics/t", "type": PUBSUB_MESSAGE}
OBJECT = {
    "service": "storage.googleapis.com",
    "name": "projects/_/buckets/b/objects/folder/Test.cs",
    "type": "storage#object",
}
ROWS = [
    ("google.pubsub.topic.publish", PUBSUB, "google.cloud.pubsub.topic.v1.messagePublished"),
    *(
        (f"google.storage.object.{old}", OBJECT, f"google.cloud.storage.object.v1.{new}")
        for old, new in (
            ("finalize", "finalized"),
            ("delete", "deleted"),
            ("archive", "archived"),
            ("metadataUpdate", "metadataUpdated"),
        )
    ),
    *(
        (FIRESTORE + old, DOCUMENT, f"google.cloud.firestore.document.v1.{new}")
        for old, new in (
            ("write", "written"),
            ("create", "created"),
            ("update", "updated"),
            ("delete", "deleted"),
        )
    ),
    *(
        (
            f"providers/firebase.auth/eventTypes/user.{old}",
            "projects/p",
            f"google.firebase.auth.user.v1.{new}",
        )
        for old, new in (("create", "created"), ("delete", "deleted"))
    ),
    (
        "providers/google.firebase.analytics/eventTypes/event.log",
        "projects/p/events/session_start",
        "google.firebase.analytics.log.v1.written",
    ),
    *(
        (DATABASE + old, REF, f"google.firebase.database.ref.v1.{new}")
        for old, new in (
            ("create", "created"),
            ("write", "written"),
            ("update", "updated"),
            ("delete", "deleted"),
        )
    ),
    (
        "providers/firebase.remoteConfig/remoteconfig.update",
        "projects/p",
        "google.firebase.remoteconfig.remoteConfig.v1.updated",
    ),
]


def legacy(kind, resource, data=None, domain=""):
    if data is None:
        data = {"kind": "storage#object", "a": 1}
    return LegacyEvent(
        event_id="7", timestamp=NOW, event_type=kind, resource=resource, data=data, domain=domain
    )


def of_row(kind, resource, data=None):
    return legacy(kind, resource, data, domain="firebaseio.com" if kind.startswith(DATABASE) else "")


@pytest.mark.parametrize(("old", "resource", "new"), ROWS, ids=[row[2] for row in ROWS])
def test_every_row_of_the_table_holds_and_comes_back(old, resource, new):
    event = of_row(old, resource)

    attributes, data = to_cloudevent(event)

    assert (attributes["id"], attributes["time"], attributes["type"]) == ("7", NOW, new)
    assert (attributes["specversion"], attributes["datacontenttype"]) == ("1.0", "application/json")
    assert from_cloudevent(attributes, data) == event


def test_table_is_complete():
    assert {new for _, _, new in ROWS} == KNOWN_TYPES


@pytest.mark.parametrize(
    ("old", "new", "preferred"),
    [
        (
            "providers/cloud.pubsub/eventTypes/topic.publish",
            "google.cloud.pubsub.topic.v1.messagePublished",
            "google.pubsub.topic.publish",
        ),
        (
            "providers/cloud.storage/eventTypes/object.change",
            "google.cloud.storage.object.v1.finalized",
            "google.storage.object.finalize",
        ),
    ],
)
def test_older_names_are_read_and_never_written(old, new, preferred):
    resource = PUBSUB["name"] if "pubsub" in old else OBJECT["name"]

    attributes, data = to_cloudevent(legacy(old, resource))

    assert attributes["type"] == new
    assert from_cloudevent(attributes, data).event_type == preferred


@pytest.mark.parametrize(
    ("event", "source", "subject"),
    [
        (legacy(ROWS[0][0], PUBSUB), "//pubsub.googleapis.com/projects/p/topics/t", None),
        (legacy(ROWS[0][0], "projects/p/topics/t"), "//pubsub.googleapis.com/projects/p/topics/t", None),
        (
            legacy("google.storage.object.finalize", OBJECT["name"]),
            "//storage.googleapis.com/projects/_/buckets/b",
            "objects/folder/Test.cs",
        ),
        (
            legacy("google.storage.object.finalize", {"name": OBJECT["name"] + "#1588778055917163"}),
            "//storage.googleapis.com/projects/_/buckets/b",
            "objects/folder/Test.cs",
        ),
        (
            legacy(FIRESTORE + "write", DOCUMENT),
            "//firestore.googleapis.com/projects/p/databases/(default)",
            "documents/gcf/2",
        ),
        (
            legacy(DATABASE + "write", REF, domain="firebaseio.com"),
            "//firebasedatabase.googleapis.com/projects/_/locations/us-central1/instances/my-db",
            "refs/a/b",
        ),
        (
            legacy(DATABASE + "write", REF, domain="europe-west1.firebasedatabase.app"),
            "//firebasedatabase.googleapis.com/projects/_/locations/europe-west1/instances/my-db",
            "refs/a/b",
        ),
        (
            legacy("providers/firebase.auth/eventTypes/user.create", "projects/p", {"uid": "U"}),
            "//firebaseauth.googleapis.com/projects/p",
            "users/U",
        ),
        (
            legacy("providers/google.firebase.analytics/eventTypes/event.log", "projects/p/events/e"),
            "//firebase.googleapis.com/projects/p",
            "events/e",
        ),
    ],
)
def test_resource_becomes_source_and_subject(event, source, subject):
    attributes, _ = to_cloudevent(event)

    assert (attributes["source"], attributes.get("subject")) == (source, subject)


def test_pubsub_message_is_wrapped_with_id_and_time_and_unwrapped_again():
    event = legacy(ROWS[0][0], PUBSUB, {"data": "aGk=", "attributes": {"a": "b"}})

    attributes, data = to_cloudevent(event)

    assert data == {
        "message": {"data": "aGk=", "attributes": {"a": "b"}, "messageId": "7", "publishTime": NOW}
    }
    assert from_cloudevent(attributes, data) == event


def test_pubsub_message_keeps_its_own_id_and_time():
    _, data = to_cloudevent(legacy(ROWS[0][0], PUBSUB, {"messageId": "own", "publishTime": "then"}))

    assert data == {"message": {"messageId": "own", "publishTime": "then"}}


def test_auth_metadata_is_renamed_both_ways_and_the_input_is_left_alone():
    given_data = {"uid": "U", "metadata": {"createdAt": "a", "lastSignedInAt": "b", "x": 1}}
    event = legacy("providers/firebase.auth/eventTypes/user.create", "projects/p", given_data)

    attributes, data = to_cloudevent(event)

    assert data["metadata"] == {"createTime": "a", "lastSignInTime": "b", "x": 1}
    assert given_data["metadata"] == {"createdAt": "a", "lastSignedInAt": "b", "x": 1}
    assert from_cloudevent(attributes, data) == event


@pytest.mark.parametrize(
    "event",
    [
        legacy("google.unknown", "projects/p"),
        legacy(DATABASE + "write", REF),
        legacy(DATABASE + "write", "projects/_/other", domain="firebaseio.com"),
        legacy(FIRESTORE + "write", "projects/p"),
        legacy("google.storage.object.finalize", None),
        legacy("google.storage.object.finalize", {"service": "storage.googleapis.com"}),
    ],
    ids=["type", "domain", "database", "firestore", "none", "nameless"],
)
def test_what_cannot_be_converted_is_a_protocol_error(event):
    with pytest.raises(ProtocolError):
        to_cloudevent(event)


@pytest.mark.parametrize(
    ("attributes", "data"),
    [
        ({"type": "order.made", "source": "//pubsub.googleapis.com/x"}, {}),
        ({"type": ROWS[0][2], "source": "/no/service"}, {}),
        ({"type": ROWS[1][2], "source": "//storage.googleapis.com/b", "subject": "objects/o"}, {}),
        ({"type": ROWS[1][2], "source": "//storage.googleapis.com/b", "subject": "objects/o"}, b"\xff"),
        ({"type": ROWS[5][2], "source": "//firestore.googleapis.com/projects/p"}, {}),
    ],
    ids=["type", "source", "kind", "bytes", "subject"],
)
def test_cloudevent_that_has_no_legacy_form_is_a_protocol_error(attributes, data):
    with pytest.raises(ProtocolError):
        from_cloudevent(attributes, data)


def test_context_may_stand_in_its_own_object_or_at_the_root():
    context = {"eventId": "7", "timestamp": NOW, "eventType": "t", "resource": "r"}

    nested = read_legacy({"context": context, "data": 1}, path="/", now="")
    flat = read_legacy({**context, "data": 1}, path="/", now="")

    assert nested == flat == legacy("t", "r", 1)


def test_push_of_a_subscription_becomes_an_event_with_the_topic_of_the_path():
    body = {"subscription": "s", "message": {"data": "aGk=", "messageId": "m", "attributes": {"a": "b"}}}

    event = read_legacy(body, path="/projects/p/topics/t", now=NOW)

    assert event == LegacyEvent(
        event_id="m",
        timestamp=NOW,
        event_type="google.pubsub.topic.publish",
        resource=PUBSUB,
        data={"@type": PUBSUB_MESSAGE, "data": "aGk=", "attributes": {"a": "b"}},
    )
    assert read_legacy(body, path="/", now=NOW).resource["name"] == ""


def test_push_keeps_the_time_of_publishing():
    body = {"subscription": "s", "message": {"data": "", "messageId": 5, "publishTime": "then"}}

    event = read_legacy(body, path="/", now=NOW)

    assert (event.event_id, event.timestamp) == ("5", "then")


@pytest.mark.parametrize("body", [None, {}, [], "text", 1, [1], {"context": 5}])
def test_what_is_no_event_object_is_refused(body):
    with pytest.raises(ProtocolError):
        read_legacy(body, path="/", now=NOW)


def test_record_is_a_pubsub_message():
    event = pubsub_event(b"\x00\xff", id="1", time=NOW, topic="orders", attributes={"k": "v"})

    assert base64.b64decode(event.data["data"]) == b"\x00\xff"
    assert (event.data["attributes"], event.resource["name"]) == ({"k": "v"}, "orders")


PART = st.text("abcXYZ09-_.", min_size=1, max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


@given(
    row=st.sampled_from(ROWS),
    event_id=PART,
    names=st.tuples(PART, PART, PART),
    data=st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUE, max_size=3),
    location=st.sampled_from(["us-central1", "europe-west1", "asia-southeast1"]),
)
def test_way_back_undoes_the_way(row, event_id, names, data, location):
    kind, resource, _ = row
    project, middle, last = names
    domain = ""
    if resource is PUBSUB:
        resource = {**PUBSUB, "name": f"projects/{project}/topics/{last}"}
    elif resource is OBJECT:
        resource = {**OBJECT, "name": f"projects/_/buckets/{middle}/objects/{last}"}
        data = {**data, "kind": "storage#object"}
    elif resource == DOCUMENT:
        resource = f"projects/{project}/databases/(default)/documents/{middle}/{last}"
    elif resource == REF:
        resource = f"projects/_/instances/{middle}/refs/{last}"
        domain = "firebaseio.com" if location == "us-central1" else f"{location}.firebasedatabase.app"
    elif "analytics" in kind:
        resource = f"projects/{project}/events/{last}"
    event = LegacyEvent(
        event_id=event_id, timestamp=NOW, event_type=kind, resource=resource, data=data, domain=domain
    )

    attributes, made = to_cloudevent(event)

    assert from_cloudevent(attributes, made) == event
    assert to_cloudevent(from_cloudevent(attributes, made)) == (attributes, made)
