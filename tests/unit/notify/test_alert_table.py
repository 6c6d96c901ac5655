"""What fires at present."""

from datetime import UTC, datetime, timedelta

from pelton.notify.alert import FIRING, RESOLVED, Alert, fingerprint
from pelton.notify.alert_table import AlertTable

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def alert(name="a", status=FIRING, started="2026-01-02T03:00:00Z", **annotations):
    labels = {"alertname": name}
    return Alert(
        status=status,
        labels=labels,
        annotations=annotations,
        starts_at=started,
        fingerprint=fingerprint(labels),
    )


def names(table, now=NOW):
    return sorted(item.alert.labels["alertname"] for item in table.firing(now))


def test_repeated_alerts_are_one_with_the_earliest_start_and_the_latest_words():
    table = AlertTable()

    table.note([alert(message="old")], now=NOW)
    table.note([alert(started="2026-01-02T03:03:00Z", message="new")], now=NOW + timedelta(minutes=4))

    (item,) = table.firing(NOW + timedelta(minutes=8))
    assert item.alert.starts_at == "2026-01-02T03:00:00Z"
    assert item.alert.annotations == {"message": "new"}


def test_alerts_go_when_resolved_and_when_not_repeated():
    table = AlertTable()
    table.note([alert("a"), alert("b")], now=NOW)

    table.note([alert("a", status=RESOLVED)], now=NOW)

    assert names(table) == ["b"]
    assert names(table, NOW + timedelta(minutes=5)) == []


def test_a_full_table_pushes_out_what_was_received_longest_ago():
    table = AlertTable(most=2)

    table.note([alert("a"), alert("b"), alert("a"), alert("c")], now=NOW)

    assert names(table) == ["a", "c"]
    assert table.pushed_out == 1
