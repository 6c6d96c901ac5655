"""Which alerts go together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.grouping import aggregate, split

_labels = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["", "1", "2"]))
_alerts = st.lists(
    st.builds(Alert, status=st.sampled_from([FIRING, RESOLVED]), labels=_labels, annotations=_labels),
    max_size=8,
)


def alert(status: str = FIRING, **labels: str) -> Alert:
    return Alert(status=status, labels=labels)


@given(_alerts, st.lists(st.sampled_from("abc"), unique=True))
def test_aggregate_keeps_every_alert_once_in_order(alerts, names):
    groups = aggregate(alerts, group_labels=names, receiver="ops")

    kept = [found.labels for group in groups for found in group.alerts]
    assert sorted(map(repr, kept)) == sorted(repr({"receiver": "ops"} | item.labels) for item in alerts)
    assert all(group.alerts for group in groups)


@given(_alerts, st.lists(st.sampled_from("abc"), unique=True))
def test_aggregate_group_agrees_on_group_and_common_labels(alerts, names):
    groups = aggregate(alerts, group_labels=names, receiver="ops")

    for group in groups:
        for name in names:
            values = {found.labels.get(name, "") for found in group.alerts}
            assert values == {group.group_labels.get(name, "")}
        assert "" not in group.group_labels.values()
        for name, value in group.common_labels.items():
            assert value != ""
            assert all(found.labels.get(name) == value for found in group.alerts)
    keys = [tuple(group.group_labels.get(name, "") for name in names) for group in groups]
    assert len(keys) == len(set(keys))


def test_aggregate_without_group_labels_makes_one_group():
    (group,) = aggregate([alert(a="1", b="2"), alert(a="1", b="3")], group_labels=(), receiver="ops")

    assert group.group_labels == {}
    assert group.common_labels == {"a": "1"}


def test_aggregate_nothing_makes_no_group():
    assert aggregate([], group_labels=("a",), receiver="ops") == []


def test_aggregate_receiver_label_of_the_alert_wins():
    (group,) = aggregate([alert(receiver="theirs")], group_labels=(), receiver="ops")

    assert group.alerts[0].labels == {"receiver": "theirs"}


def test_group_status_is_firing_while_any_alert_fires():
    (mixed,) = aggregate([alert(RESOLVED), alert(FIRING)], group_labels=(), receiver="ops")
    (over,) = aggregate([alert(RESOLVED)], group_labels=(), receiver="ops")

    assert (mixed.status, over.status) == (FIRING, RESOLVED)


@given(st.lists(st.integers(1, 50)), st.integers(1, 5), st.integers(1, 100))
def test_split_keeps_all_within_both_limits(sizes, max_alerts, max_bytes):
    alerts = [alert(size=str(size)) for size in sizes]

    batches = split(
        alerts, max_alerts=max_alerts, max_bytes=max_bytes, size=lambda item: int(item.labels["size"])
    )

    assert [item for batch in batches for item in batch] == alerts
    for batch in batches:
        assert 1 <= len(batch) <= max_alerts
        assert len(batch) == 1 or sum(int(item.labels["size"]) for item in batch) <= max_bytes
