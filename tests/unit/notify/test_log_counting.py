"""Counting log records by a rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.log_rule import LogRule, RuleAlert
from pelton.notify.alert import FIRING, RESOLVED
from pelton.notify.log_counting import LASTS_S, MOST_GROUPS, Counting, ended, records_of

T0 = 1_767_323_045.0  # 2026-01-02T03:04:05Z


def rule(**change: Any) -> LogRule:
    values: dict[str, Any] = {
        "name": "errors",
        "namespace": "shop",
        "match": 'text.contains("ERROR")',
        "group_by": {"pod": "record.pod"},
        "window_s": 60.0,
        "threshold": 3,
        "resolve_after_s": 300.0,
        "alert": RuleAlert(
            labels={"severity": "warning"},
            annotations={"summary": "{{ $value }} in {{ $labels.pod }}: {{$log}}"},
        ),
    }
    return LogRule(**(values | change))


def feed(counting, *moments, text="ERROR x", pod="a", came=None):
    """Feed records with these times; returns the alerts."""
    found = []
    for moment in moments:
        record = {"log": text, "pod": pod, "time": moment + T0}
        outcome = counting.feed(record, text, (came if came is not None else moment) + T0)
        found += [outcome[1]] if outcome is not None and outcome[1] is not None else []
    return found


def test_so_many_records_within_the_window_make_an_alert_that_says_what_the_rule_says():
    (alert,) = feed(Counting(rule()), 0, 30, 60, 61)

    assert alert.status == FIRING
    assert alert.labels == {"alertname": "errors", "severity": "warning", "pod": "a"}
    assert alert.annotations == {"summary": "3 in a: ERROR x"}
    assert alert.starts_at == "2026-01-02T03:05:05.000000Z"


@pytest.mark.parametrize("moments", [(0, 30, 61), (0, 30), (0, 61, 122)])
def test_fewer_or_slower_records_make_none(moments):
    assert feed(Counting(rule()), *moments) == []


def test_records_are_counted_by_the_time_that_they_say_in_whatever_order_they_come():
    assert feed(Counting(rule()), 0, 200, 400, came=500) == []
    assert len(feed(Counting(rule()), 400, 30, 200, 0, 60, came=500)) == 0
    assert len(feed(Counting(rule()), 60, 0, 30, came=500)) == 1


def test_each_value_of_the_labels_counts_for_itself():
    counting = Counting(rule(threshold=2))

    found = [*feed(counting, 0, pod="a"), *feed(counting, 1, pod="b"), *feed(counting, 2, pod="a")]

    assert [alert.labels["pod"] for alert in found] == ["a"]


def test_what_does_not_match_does_not_count_and_what_cannot_be_judged_is_counted_as_such():
    counting = Counting(rule(match='record.level == "ERROR"', threshold=1))

    assert counting.feed({"log": "x", "level": "INFO", "pod": "a"}, "x", T0) is None
    assert counting.feed({"log": "x"}, "x", T0) is None
    assert (counting.counts.records, counting.counts.matched, counting.counts.failed) == (2, 0, 1)
    assert "level" in counting.counts.error


def test_an_alert_is_over_when_it_was_quiet_for_long_enough_and_may_come_again():
    counting = Counting(rule())
    feed(counting, 0, 1, 2)
    feed(counting, 200)

    assert counting.tick(T0 + 499) == []
    ((values, alert),) = counting.tick(T0 + 500)

    assert (values, alert and alert.status) == (("a",), RESOLVED)
    assert alert is not None
    assert alert.labels["pod"] == "a"
    assert alert.starts_at == "2026-01-02T03:04:07.000000Z"
    assert counting.groups == {}
    assert len(feed(counting, 600, 601, 602)) == 1


def test_catching_up_is_no_flapping():
    """Records of an hour ago keep an alert alive for as long as they come in."""
    counting = Counting(rule())
    assert len(feed(counting, -3600, -3599, -3598, came=0)) == 1

    for second in range(250):
        feed(counting, -3500 + second, came=second)
        assert counting.tick(T0 + second) == []


def test_a_long_alert_is_told_again_before_its_end_comes():
    counting = Counting(rule(resolve_after_s=LASTS_S * 2))
    feed(counting, 0, 1, 2)

    ((_, alert),) = counting.tick(T0 + 2 + LASTS_S / 2)

    assert alert is not None
    assert alert.status == FIRING
    assert counting.tick(T0 + 3 + LASTS_S / 2) == []


def test_groups_that_came_to_nothing_are_forgotten():
    counting = Counting(rule())
    feed(counting, 0)

    assert counting.tick(T0 + 59) == []
    assert counting.tick(T0 + 60) == [(("a",), None)]
    assert counting.groups == {}


def test_there_is_room_for_so_many_groups(monkeypatch):
    counting = Counting(rule(threshold=2))
    for number in range(MOST_GROUPS + 5):
        feed(counting, 0, pod=str(number))

    assert len(counting.groups) == MOST_GROUPS
    assert counting.counts.crowded == 5


def test_alerts_of_a_rule_that_is_gone_are_over():
    counting = Counting(rule())
    feed(counting, 0, 1, 2)
    feed(counting, 0, pod="quiet")

    (alert,) = ended(counting.groups.values(), T0 + 10)

    assert (alert.status, alert.labels["pod"]) == (RESOLVED, "a")
    assert alert.ends_at == "2026-01-02T03:04:15.000000Z"


def test_what_was_kept_counts_on():
    first = Counting(rule())
    feed(first, 0, 1)

    assert len(feed(Counting(rule(), first.groups), 2)) == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"null", []),
        (b'{"log":"a\\n","n":1}', ["a\n"]),
        (b'{"message":"a"}', ["a"]),
        (b'{"n":1}', ['{"n":1}']),
        (b'[{"log":"a"},{"log":"b"},null,3]', ["a", "b", "3"]),
        (b'"text"', ["text"]),
        (b"plain text", ["plain text"]),
        (b"\xff\xfe{", ["��{"]),
        (b"[" * 5000, ["[" * 5000]),
    ],
)
def test_any_message_is_some_records(data, expected):
    assert [text for _, text in records_of(data)] == expected


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (T0, T0),
        ("2026-01-02T03:04:05Z", T0),
        ("2026-01-02T03:04:05.5+00:00", T0 + 0.5),
        ("2026-01-02T03:04:05", T0),
        ("yesterday", T0 + 9),
        (True, T0 + 9),
        (None, T0 + 9),
        (T0 + 1000, T0 + 9),  # a clock that is ahead
        (10**400, T0 + 9),
        (-1, T0 + 9),
        ("9999-12-31T23:59:59-14:00", T0 + 9),
        ("0001-01-01T00:00:00+14:00", T0 + 9),  # Go's zero time, in a year that is none in UTC
    ],
)
def test_the_time_of_a_record_is_what_it_says_where_that_can_be(time, expected):
    counting = Counting(rule(group_by={}))

    counting.feed({"time": time}, "ERROR", T0 + 9)

    assert counting.groups[()].times == [expected]


MOMENTS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab")), min_size=1, max_size=40)


@given(MOMENTS, st.integers(1, 5), st.integers(1, 60))
def test_an_alert_begins_exactly_when_so_many_lie_in_the_window(steps, threshold, window):
    counting = Counting(rule(threshold=threshold, window_s=float(window), resolve_after_s=1e6))
    at = 0
    moments: dict[str, list[int]] = {"a": [], "b": []}
    firing: set[str] = set()
    for step, pod in steps:
        at += step
        moments[pod].append(at)
        recent = [moment for moment in moments[pod] if at - moment <= window]
        expected = pod not in firing and len(recent) >= threshold
        firing |= {pod} if expected else set()

        assert bool(feed(counting, at, pod=pod)) is expected
    assert json.dumps(sorted(counting.groups)) == json.dumps([[pod] for pod in "ab" if moments[pod]])
