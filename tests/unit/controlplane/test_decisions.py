"""Rules of the record of scaling."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pelton.autoscale.decision import Decision
from pelton.controlplane import decisions
from pelton.controlplane.decisions import DecisionLog, in_effect, read_changes

KEY = "default/hello"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Log:
    """A log whose time goes on by a second per note."""

    def __init__(self, directory: Path) -> None:
        self.at = START
        self.log = DecisionLog(directory, lambda: self.at)

    def note(self, desired: int, key: str = KEY) -> bool:
        self.at += timedelta(seconds=1)
        return self.log.note(key, Decision(desired=desired, steps=(("idle",),)), {"ready": 1})


def numbers(directory: Path, key: str = KEY) -> list[tuple[int, int]]:
    return [(change["from"], change["to"]) for change in read_changes(directory, key)]


def test_only_changes_are_kept_and_a_function_starts_from_none(tmp_path):
    log = Log(tmp_path)

    assert [log.note(desired) for desired in (0, 2, 2, 1)] == [False, True, False, True]
    assert numbers(tmp_path) == [(0, 2), (2, 1)]
    (first, _) = read_changes(tmp_path, KEY)
    assert first["time"] == "2026-01-02T03:04:07.000000Z"
    assert first["inputs"] == {"ready": 1}
    assert first["decision"]["steps"] == [{"code": "idle", "text": "nothing runs and nothing waits"}]


def test_wake_that_was_quicker_than_the_decision_is_told(tmp_path):
    log = DecisionLog(tmp_path, lambda: START)
    log.note(KEY, Decision(desired=1, steps=(("idle",),)), {"instances": 1})
    log.note(KEY, Decision(desired=2, steps=(("idle",),)), {"instances": 1})

    codes = [[step["code"] for step in c["decision"]["steps"]] for c in read_changes(tmp_path, KEY)]
    assert codes == [["woken", "idle"], ["idle"]]


def test_record_goes_on_after_a_restart(tmp_path):
    Log(tmp_path).note(3)
    again = Log(tmp_path)

    assert again.note(3) is False
    assert again.note(0) is True
    assert numbers(tmp_path) == [(0, 3), (3, 0)]


def test_change_in_effect_at_a_time_is_the_last_one_before(tmp_path):
    log = Log(tmp_path)
    log.note(1)
    log.note(2)
    changes = read_changes(tmp_path, KEY)

    def at(seconds: float) -> int | None:
        change = in_effect(changes, START + timedelta(seconds=seconds))
        return change["to"] if change else None

    assert [at(0.5), at(1.0), at(1.9), at(2.0), at(99.0)] == [None, 1, 1, 2, 2]


def test_file_is_rotated_once_and_keeps_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(decisions, "LIMIT_BYTES", 2000)
    log = Log(tmp_path)
    for turn in range(100):
        log.note(turn % 2 + 1)
    found = numbers(tmp_path)

    assert 4 < len(found) < 30
    assert found[-1] == (1, 2)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl")) < 6000


def test_line_that_a_crash_cut_off_is_left_out(tmp_path):
    Log(tmp_path).note(1)
    path = tmp_path / "default" / "hello.jsonl"
    path.write_text('{"half": ' + "\n" + path.read_text() + '{"at": 1, "key"')

    assert numbers(tmp_path) == [(0, 1)]
    assert Log(tmp_path).note(2)


def test_disk_that_takes_no_more_costs_records_and_is_counted(tmp_path):
    (tmp_path / "default").write_text("no directory")
    log = Log(tmp_path)

    assert log.note(1) and log.note(2)
    assert log.log.dropped == 2
    assert numbers(tmp_path) == []


def test_revisions_share_a_file_and_keep_their_own_numbers(tmp_path):
    log = Log(tmp_path)
    log.note(1)
    log.note(4, f"{KEY}:v2")
    log.note(2)
    log.log.rename({f"{KEY}:v2": KEY})
    log.note(5)

    assert numbers(tmp_path) == [(0, 1), (0, 4), (1, 2), (4, 5)]


def test_function_that_is_gone_leaves_nothing(tmp_path):
    log = Log(tmp_path)
    log.note(1)
    log.note(1, f"{KEY}:v2")
    log.log.forget(KEY)

    assert numbers(tmp_path) == []
    assert log.note(1) is True


@pytest.mark.parametrize("key", ["default/never", "other/hello"])
def test_unknown_function_has_no_changes(tmp_path, key):
    Log(tmp_path).note(1)

    assert read_changes(tmp_path, key) == []
