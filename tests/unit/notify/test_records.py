"""What is kept of notifications: outcomes for people, places of messages for later news."""

from __future__ import annotations

import os

from pelton.clock import SystemClock
from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.grouping import Group
from pelton.notify.records import DEAD, SENT, Post, Record, RecordedAlert, Records, read_history


def record(number: int, *, receiver: str = "ops", outcome: str = SENT, alert: str = "404") -> Record:
    return Record(
        at=1000.0 + number,
        id=f"n{number}",
        receiver=receiver,
        block="slack",
        outcome=outcome,
        attempt=1,
        detail="HTTP 200",
        title="[FIRING:1] 404",
        alerts=(RecordedAlert(fingerprint=f"f{number}", name=alert, status=FIRING),),
    )


def post(part: str, ts: str, *states: tuple[str, str]) -> Post:
    alerts = [Alert(status=status, fingerprint=print_, labels={"a": print_}) for print_, status in states]
    return Post(part=part, channel=f"C-{part}", ts=ts, group=Group(alerts=alerts))


async def test_history_is_there_after_closing_newest_first_and_can_be_filtered(tmp_path):
    path = tmp_path / "n.db"
    async with Records(path, SystemClock()) as made:
        for number in range(3):
            made.add(record(number))
        made.add(record(3, receiver="other", outcome=DEAD, alert="disk"))

    assert [each.id for each in read_history(path)] == ["n3", "n2", "n1", "n0"]
    assert read_history(path, receiver="ops", limit=1) == [record(2)]
    assert [each.id for each in read_history(path, alert="f1")] == ["n1"]
    assert [each.id for each in read_history(path, alert="disk")] == ["n3"]
    assert [each.id for each in read_history(path, outcome=DEAD)] == ["n3"]
    assert os.stat(path).st_mode & 0o077 == 0


def test_history_without_a_file_is_empty(tmp_path):
    assert read_history(tmp_path / "none.db") == []


async def test_post_is_found_when_it_tells_all_alerts_and_over_a_restart(tmp_path):
    path = tmp_path / "n.db"
    kept = post("#a", "1.1", ("x", FIRING), ("y", FIRING))
    async with Records(path, SystemClock()) as made:
        await made.keep("ops", "slack", [kept])
    async with Records(path, SystemClock()) as made:
        assert await made.posts("ops", "slack", ["x"]) == {"#a": kept}
        assert await made.posts("ops", "slack", ["x", "y"]) == {"#a": kept}
        assert await made.posts("ops", "slack", ["x", "new"]) == {}
        assert await made.posts("other", "slack", ["x"]) == {}


async def test_post_is_forgotten_when_nothing_of_it_fires_any_more(tmp_path):
    async with Records(tmp_path / "n.db", SystemClock()) as made:
        await made.keep("ops", "slack", [post("#a", "1.1", ("x", FIRING), ("y", FIRING))])
        await made.keep("ops", "slack", [post("#a", "1.1", ("x", RESOLVED), ("y", FIRING))])
        assert "#a" in await made.posts("ops", "slack", ["x"])

        await made.keep("ops", "slack", [post("#a", "1.1", ("x", RESOLVED), ("y", RESOLVED))])
        assert await made.posts("ops", "slack", ["x"]) == {}


async def test_alerts_in_different_posts_have_none_in_common(tmp_path):
    async with Records(tmp_path / "n.db", SystemClock()) as made:
        await made.keep("ops", "slack", [post("#a", "1.1", ("x", FIRING)), post("#a", "1.2", ("y", FIRING))])

        assert await made.posts("ops", "slack", ["x", "y"]) == {}


async def test_later_post_takes_an_alert_over(tmp_path):
    newer = post("#a", "1.2", ("x", FIRING), ("y", FIRING))
    async with Records(tmp_path / "n.db", SystemClock()) as made:
        await made.keep("ops", "slack", [post("#a", "1.1", ("x", FIRING))])
        await made.keep("ops", "slack", [newer])

        assert await made.posts("ops", "slack", ["x"]) == {"#a": newer}


async def test_file_that_cannot_be_read_is_moved_aside(tmp_path, caplog):
    path = tmp_path / "n.db"
    path.write_bytes(b"this is no database, and long enough to be taken for one" * 20)
    async with Records(path, SystemClock()) as made:
        made.add(record(1))

    assert [each.id for each in read_history(path)] == ["n1"]
    assert path.with_suffix(".unreadable").exists()


async def test_missing_directory_stops_nothing_and_is_said_once(tmp_path, caplog):
    async with Records(tmp_path / "none" / "n.db", SystemClock()) as made:
        made.add(record(1))
        await made.keep("ops", "slack", [post("#a", "1.1", ("x", FIRING))])
        assert await made.posts("ops", "slack", ["x"]) == {}

    assert sum("records of notifications are not kept" in line for line in caplog.messages) == 1


async def test_old_records_and_posts_make_room_for_new_ones(tmp_path):
    path = tmp_path / "n.db"
    async with Records(path, SystemClock(), most_bytes=3000, prune_every=10) as made:
        for number in range(100):
            made.add(record(number))
            await made.keep("ops", "slack", [post("#a", f"1.{number:03}", (f"x{number}", FIRING))])

        assert await made.posts("ops", "slack", ["x0"]) == {}
        assert "#a" in await made.posts("ops", "slack", ["x99"])

    kept = read_history(path)
    assert kept[0].id == "n99"
    assert 5 < len(kept) < 60


async def test_post_that_is_too_large_is_not_followed(tmp_path):
    huge = post("#a", "1.1", *((f"{number:0200}", FIRING) for number in range(400)))
    async with Records(tmp_path / "n.db", SystemClock()) as made:
        await made.keep("ops", "slack", [huge])

        assert await made.posts("ops", "slack", [f"{1:0200}"]) == {}
