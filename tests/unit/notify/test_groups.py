"""When groups notify: Alertmanager's rules as tables, and properties over any history of alerts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.model.notification_timing import ALL_LABELS, Timing
from pelton.notify.alert import FIRING, RESOLVED, Alert, fingerprint
from pelton.notify.alert_table import track
from pelton.notify.groups import HOLDING, Groups, Place, Saved, Sent, group_key, send_reason

TIMING = Timing(group_wait_s=30, group_interval_s=300, repeat_interval_s=14_400, group_by=("alertname",))
OPS = Place("ops", "webhook", "", TIMING)
T0 = 1_000_000.0


def alert(name="a", *, at=T0, status=FIRING, **labels):
    labels = {"alertname": name, **labels}
    found = Alert(status=status, labels=labels, fingerprint=fingerprint(labels))
    return track(found, received=at)


def names(alerts):
    return sorted((each.labels.get("pod", each.labels["alertname"]), each.status) for each in alerts)


class Play:
    """Groups with a clock: collects (seconds since T0, reason, alerts) of what is told."""

    def __init__(self, place=OPS):
        self.groups = Groups()
        self.place = place
        self.told = []
        self.muted = set()

    def put(self, *alerts, at):
        self.until(at)
        for each in alerts:
            self.groups.put(self.place, each, T0 + at)

    def until(self, end):
        while (wake := self.groups.next_wake()) is not None and wake <= T0 + end:
            for group in self.groups.due(wake):
                flush = self.groups.look(group, wake, lambda each: each.labels["alertname"] in self.muted)
                self.groups.settle(flush)
                if flush.reason:
                    self.told.append((wake - T0, flush.reason, names(flush.alerts)))
        return self.told


@pytest.mark.parametrize(
    ("last", "firing", "resolved", "age", "expected"),
    [
        (None, {"a"}, set(), 0, "first"),
        (None, set(), {"a"}, 0, ""),
        (({"a"}, set()), {"a"}, set(), 60, ""),
        (({"a"}, set()), {"a", "b"}, set(), 60, "new alerts"),
        ((set(), {"a"}), {"a"}, set(), 60, "first"),
        (({"a"}, set()), set(), {"a"}, 60, "all resolved"),
        ((set(), {"a"}), set(), {"a"}, 60, ""),
        (({"a", "b"}, set()), {"a"}, {"b"}, 60, "some resolved"),
        (({"a"}, {"b"}), {"a"}, {"b"}, 60, ""),
        (({"a", "b"}, set()), {"a"}, set(), 60, ""),
        (({"a"}, set()), {"a"}, set(), 14_400, ""),
        (({"a"}, set()), {"a"}, set(), 14_401, "repeat"),
    ],
)
def test_a_group_notifies_for_the_reasons_of_the_original(last, firing, resolved, age, expected):
    sent = Sent(T0, frozenset(last[0]), frozenset(last[1]), T0 + 1e6) if last is not None else None

    assert send_reason(sent, frozenset(firing), frozenset(resolved), T0 + age, TIMING) == expected


def test_resolved_alerts_are_no_reason_where_nobody_wants_to_hear_of_them():
    quiet = Timing(send_resolved=False)
    sent = Sent(T0, frozenset("ab"), frozenset(), T0 + 1e6)

    assert send_reason(sent, frozenset("a"), frozenset("b"), T0 + 60, quiet) == ""


def test_a_group_waits_then_tells_what_is_new_at_its_intervals():
    play = Play()
    play.put(alert(pod="1"), at=0)
    play.put(alert(pod="2", at=T0 + 20), at=20)
    play.put(alert(pod="3", at=T0 + 40), at=40)
    play.put(alert(pod="1", at=T0 + 200), alert(pod="2", at=T0 + 200), alert(pod="3", at=T0 + 200), at=200)

    assert play.until(400) == [
        (30, "first", [("1", FIRING), ("2", FIRING)]),
        (330, "new alerts", [("1", FIRING), ("2", FIRING), ("3", FIRING)]),
    ]


def test_an_alert_that_began_long_ago_does_not_wait():
    play = Play()
    early = alert(pod="1", at=T0 - 60)

    play.put(early, at=0)

    assert play.until(1) == [(0, "first", [("1", FIRING)])]


def test_what_is_over_is_told_once_and_ends_the_group():
    play = Play()
    play.put(alert(pod="1"), at=0)
    play.put(alert(pod="1", at=T0 + 100, status=RESOLVED), at=100)

    assert play.until(5000)[1:] == [(330, "all resolved", [("1", RESOLVED)])]
    assert (len(play.groups), play.groups.count) == (0, 0)


def test_fired_and_over_before_the_first_look_is_never_told():
    play = Play()
    play.put(alert(), at=0)
    play.put(alert(at=T0 + 10, status=RESOLVED), at=10)

    assert play.until(5000) == []


def test_an_alert_that_is_not_repeated_is_over_after_its_time():
    play = Play()
    play.put(alert(pod="1"), at=0)

    assert play.until(5000)[1:] == [(330, "all resolved", [("1", RESOLVED)])]


def test_a_group_repeats_at_the_first_look_after_its_interval():
    play = Play(
        Place("ops", "webhook", "", Timing(group_wait_s=1, group_interval_s=10, repeat_interval_s=25))
    )
    for at in range(0, 100, 5):
        play.put(alert(at=T0 + at), at=at)

    assert [(at, reason) for at, reason, _ in play.until(95)] == [
        (1, "first"),
        (31, "repeat"),
        (61, "repeat"),
        (91, "repeat"),
    ]


def test_what_is_kept_back_is_told_when_nothing_keeps_it_back_any_more():
    play = Play(Place("ops", "webhook", "", Timing(group_wait_s=1, group_interval_s=10)))
    play.muted = {"a"}
    play.put(alert(), at=0)
    assert play.until(25) == []

    play.muted = set()

    assert play.until(35) == [(31, "first", [("a", FIRING)])]


def test_what_is_held_is_told_once_each():
    play = Play(Place("ops", "webhook", "", HOLDING, holding=True))
    play.muted = {"a", "b"}
    play.put(alert("a"), alert("b"), at=0)
    play.until(7)

    play.muted = {"b"}
    play.until(12)
    play.muted = set()
    play.until(17)

    assert play.told == [(10, "first", [("a", FIRING)]), (15, "new alerts", [("b", FIRING)])]
    assert len(play.until(1000)) == 2


@pytest.mark.parametrize(
    ("group_by", "groups"), [((), 1), (("alertname",), 2), ((ALL_LABELS,), 4), (("nothing",), 1)]
)
def test_groups_are_made_by_values_of_labels(group_by, groups):
    play = Play(Place("ops", "webhook", "", Timing(group_by=group_by)))
    play.put(*(alert(name, pod=pod) for name in "ab" for pod in "12"), at=0)

    assert len(play.groups) == groups


def test_group_key_says_receiver_router_and_labels():
    assert group_key(Place("ops", "slack", "night", TIMING), {"b": 'x"y', "a": "1"}) == (
        'ops/slack@night:{a="1", b="x\\"y"}'
    )


def test_an_alert_that_comes_in_between_look_and_settling_stays():
    play = Play()
    play.put(alert(pod="1"), at=0)
    (group,) = play.groups
    over = alert(pod="1", at=T0 + 20, status=RESOLVED)
    play.groups.put(OPS, over, T0 + 20)
    flush = play.groups.look(group, T0 + 30, lambda _: False)
    play.groups.put(OPS, alert(pod="1", at=T0 + 31), T0 + 31)

    ended = play.groups.settle(flush)

    assert (flush.empty, ended) == (True, False)
    assert play.until(400) == [(330, "first", [("1", FIRING)])]


def test_a_look_that_is_not_settled_is_due_again():
    play = Play()
    play.put(alert(), at=0)

    assert [each.key for each in play.groups.due(T0 + 30)] == [each.key for each in play.groups.due(T0 + 30)]


def test_there_is_room_for_so_many_and_more_are_refused():
    groups = Groups(most=2)

    found = [groups.put(OPS, alert(pod=str(number)), T0) is not None for number in range(3)]

    assert found == [True, True, False]
    assert groups.put(OPS, alert(pod="1", at=T0 + 1), T0 + 1) is not None


def test_rearranging_keeps_times_and_what_was_told():
    play = Play()
    play.put(alert("a"), alert("b"), at=0)
    play.until(30)
    other = Place("dev", "webhook", "", TIMING)

    ended = play.groups.rearrange(
        lambda each: [OPS] if each.alert.labels["alertname"] == "a" else [other], T0 + 40
    )

    assert [each.key for each in ended] == ['ops/webhook:{alertname="b"}']
    assert play.until(400)[2:] == [
        (40, "first", [("b", FIRING)]),
        (330, "all resolved", [("a", RESOLVED)]),
        (340, "all resolved", [("b", RESOLVED)]),
    ]


def test_a_restart_keeps_times_and_what_was_told():
    play = Play()
    play.put(alert(pod="1"), at=0)
    play.until(30)
    (group,) = play.groups
    sent = play.groups.last(group.key)
    assert sent is not None
    saved = Saved(group.key, group.next_flush, group.flushed)
    again = Play()
    again.groups.restore([saved, Saved("gone", 0.0, True)], [(group.key, sent)])

    again.put(alert(pod="1"), at=200)

    assert again.groups.restored() == ["gone"]
    assert again.until(400) == [(330, "all resolved", [("1", RESOLVED)])]


def test_a_clock_that_was_set_back_delays_nothing_for_long():
    play = Play()
    play.put(alert(), at=0)
    play.until(30)

    play.groups.rebase(T0 - 1_000_000)

    assert play.groups.next_wake() == T0 - 1_000_000 + 300


def test_records_are_forgotten_when_they_expire_but_not_while_their_group_lives():
    play = Play()
    play.put(alert(pod="1"), at=0)
    play.until(30)

    assert play.groups.forget(T0 + 1e6) == []
    play.until(1000)
    assert play.groups.forget(T0 + 1e6) == ['ops/webhook:{alertname="a"}']


EVENTS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from("abc"), st.sampled_from([FIRING, RESOLVED])),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(events=EVENTS, wait=st.integers(0, 20), interval=st.integers(1, 20), repeat=st.integers(1, 60))
def test_whatever_happens_nothing_that_lasts_goes_untold_or_is_told_twice(events, wait, interval, repeat):
    timing = Timing(group_wait_s=wait, group_interval_s=interval, repeat_interval_s=repeat)
    play = Play(Place("ops", "webhook", "", timing))
    at = 0
    last = {}
    for step, name, status in events:
        at += step
        play.put(alert(name, at=T0 + at, status=status), at=at)
        last[name] = (at, status)

    told = play.until(at + wait + 10 * interval + 1000)

    # Two looks are never closer than the interval, and nothing is told again before the repeat interval
    # unless something changed.
    for (before, _, was), (after, reason, now) in pairwise(told):
        assert after - before >= interval or reason == "first"
        assert reason == "repeat" or was != now or reason in ("first", "new alerts", "some resolved")
        if reason == "repeat":
            assert after - before > repeat
    firing_told = {name for name, status in (told[-1][2] if told else []) if status == FIRING}
    assert firing_told == set()
    # Whatever was told to fire is told to be over in the end; groups do not stay.
    ever = {name for _, _, alerts in told for name, status in alerts if status == FIRING}
    ended = {name for _, _, alerts in told for name, status in alerts if status == RESOLVED}
    assert ever <= ended
    assert len(play.groups) == 0
    # What lasted from before a look until after it was told at that look or before.
    for name, (since, status) in last.items():
        if status == FIRING and wait < 300:
            assert name in ever, since
