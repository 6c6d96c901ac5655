"""Reading alerts from request bodies."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.clock import rfc3339
from pelton.errors import ProtocolError
from pelton.notify.alert import FIRING, RESOLVED, ZERO_TIME, fingerprint, parse

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def read(document: object):
    return parse(json.dumps(document).encode(), now=NOW)


def test_parse_object_keeps_what_the_sender_said():
    alert = {
        "status": "resolved",
        "labels": {"alertname": "404 Request"},
        "annotations": {"summary": "s"},
        "startsAt": "2026-01-01T00:00:00.123456789+02:00",
        "endsAt": "2026-01-01T01:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "0123456789abcdef",
    }

    (found,) = read({"version": "4", "status": "firing", "alerts": [alert], "truncatedAlerts": 3})

    assert found.status == RESOLVED
    assert found.labels == {"alertname": "404 Request"}
    assert found.annotations == {"summary": "s"}
    assert found.starts_at == "2026-01-01T00:00:00.123456789+02:00"
    assert found.ends_at == "2026-01-01T01:00:00Z"
    assert found.generator_url == "http://prometheus/graph"
    assert found.fingerprint == "0123456789abcdef"


def test_parse_object_merges_shared_labels_under_the_alerts_own():
    (found,) = read(
        {
            "groupLabels": {"alertname": "group", "a": "group"},
            "commonLabels": {"a": "common", "b": "common"},
            "commonAnnotations": {"summary": "common", "x": "y"},
            "alerts": [{"labels": {"b": "own"}, "annotations": {"summary": "own"}}],
        }
    )

    assert found.labels == {"alertname": "group", "a": "common", "b": "own"}
    assert found.annotations == {"summary": "own", "x": "y"}


def test_parse_object_firing_alert_with_zero_end_stays_firing_without_end():
    (found,) = read({"alerts": [{"startsAt": "2026-01-02T03:04:05Z", "endsAt": ZERO_TIME}]})

    assert (found.status, found.ends_at) == (FIRING, ZERO_TIME)


def test_parse_object_uses_the_common_status_where_an_alert_has_none():
    (found,) = read({"status": "resolved", "alerts": [{"labels": {}}]})

    assert found.status == RESOLVED


def test_parse_array_defaults_start_to_now_and_leaves_the_end_open():
    (found,) = read([{"labels": {"alertname": "a"}}])

    assert found.status == FIRING
    assert found.starts_at == "2026-01-02T03:04:05.000000Z"
    assert found.ends_at == ZERO_TIME


@pytest.mark.parametrize(
    ("ends_at", "status"),
    [
        ("2026-01-02T03:04:05Z", RESOLVED),
        ("2026-01-02T03:04:06Z", FIRING),
        ("2026-01-02T05:04:04+02:00", RESOLVED),
        (ZERO_TIME, FIRING),
    ],
)
def test_parse_array_alert_is_resolved_once_its_end_has_come(ends_at, status):
    (found,) = read([{"labels": {"a": "b"}, "endsAt": ends_at}])

    assert found.status == status


@pytest.mark.parametrize("document", [{"alerts": []}, {"alerts": None}, []])
def test_parse_nothing_is_no_alerts(document):
    assert read(document) == []


def test_parse_null_members_count_as_absent():
    (found,) = read({"commonLabels": None, "alerts": [{"labels": None, "annotations": None, "endsAt": None}]})

    assert (found.labels, found.annotations, found.ends_at) == ({}, {}, ZERO_TIME)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"null", "key `alerts`"),
        (b'"x"', "key `alerts`"),
        (b'{"labels": {}}', "key `alerts`"),
        (b'{"alerts": {}}', "alerts is an object; expected an array"),
        (b'{"alerts": [1]}', "alerts[0] is a number; expected an object"),
        (b"[[]]", "[0] is an array; expected an object"),
        (b'[{}, {"labels": []}]', "[1].labels is an array"),
        (b'{"alerts": [{"labels": {"code": 404}}]}', "alerts[0].labels.code is a number; expected text"),
        (b'{"alerts": [{"annotations": {"a": null}}]}', "alerts[0].annotations.a is null"),
        (b'{"alerts": [{"status": "broken"}]}', "alerts[0].status is 'broken'"),
        (b'{"alerts": [{"status": []}]}', "alerts[0].status is an array"),
        (b'{"alerts": [], "commonLabels": {"a": true}}', "commonLabels.a is a boolean"),
        (b'{"alerts": [{"startsAt": "yesterday"}]}', "alerts[0].startsAt is 'yesterday'"),
        (b'{"alerts": [{"startsAt": "2026-01-01T00:00:00"}]}', "alerts[0].startsAt"),
        (b'{"alerts": [{"startsAt": 5}]}', "alerts[0].startsAt is a number"),
        (b'{"alerts": [{"generatorURL": {}}]}', "alerts[0].generatorURL is an object"),
    ],
)
def test_parse_wrong_input_names_the_place(body, words):
    with pytest.raises(ProtocolError) as caught:
        parse(body, now=NOW)

    assert words in caught.value.message
    assert caught.value.http_status == 400


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["alerts", "labels", "annotations", "status", "startsAt", "endsAt", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_json)
def test_parse_any_json_gives_alerts_or_a_sentence(document):
    try:
        found = read(document)
    except ProtocolError as error:
        assert error.message.endswith(".")
    else:
        assert all(alert.status in {FIRING, RESOLVED} for alert in found)


@given(st.binary(max_size=60))
def test_parse_any_bytes_give_alerts_or_a_sentence(body):
    try:
        parse(body, now=NOW)
    except ProtocolError as error:
        assert error.message


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=5), st.randoms())
def test_fingerprint_does_not_depend_on_order(labels, random):
    items = list(labels.items())
    random.shuffle(items)

    assert fingerprint(dict(items)) == fingerprint(labels)
    assert len(fingerprint(labels)) == 16


def test_fingerprint_of_no_labels_is_the_empty_hash():
    """The offset of FNV-1a, 64 bit: what Prometheus gives for an empty label set."""
    assert fingerprint({}) == "cbf29ce484222325"


def test_parse_the_zero_time_counts_as_none():
    body = json.dumps([{"labels": {}, "startsAt": ZERO_TIME, "endsAt": "0001-01-01T00:00:00.000Z"}]).encode()

    (found,) = parse(body, now=NOW)

    assert found.starts_at == rfc3339(NOW, fraction=True)
    assert found.ends_at == ZERO_TIME


@pytest.mark.parametrize(("version", "expected"), [("4", "{}:{}"), (None, "")])
def test_parse_an_alertmanagers_group_is_noted_as_such(version, expected):
    body = {"groupKey": "{}:{}", "version": version, "alerts": [{"labels": {"a": "b"}}]}

    (found,) = read(body)

    assert found.upstream == expected


def test_parse_alerts_of_metrics_say_when_they_came_like_those_of_events():
    metric, event, other = read(
        [
            {"labels": {"alerttype": "metric"}},
            {"labels": {"alerttype": "event"}, "annotations": {"alerttime": "then"}},
            {"labels": {"alerttype": "metric"}, "annotations": {"alerttime": "then"}},
        ]
    )

    assert metric.annotations == {"alerttime": rfc3339(NOW, fraction=True)}
    assert event.annotations == other.annotations == {"alerttime": "then"}
