"""`pelton why scale`: the record in words and as JSON, also without a platform."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from pelton.autoscale.kpa import Kpa
from pelton.cli.home import Home
from pelton.cli.why_scale import why_scale
from pelton.controlplane.decisions import DecisionLog
from pelton.errors import NotFoundError, UsageError
from pelton.model.scaling import KpaPolicy


@pytest.fixture
def home(tmp_path):
    """A home with two changes of one function: an hour ago to 3, a minute ago to 1."""
    home = Home(tmp_path / "home")
    now = datetime.now(UTC)
    moments = iter([now - timedelta(hours=1), now - timedelta(minutes=1)])
    log = DecisionLog(home.decisions, lambda: next(moments))
    kpa = Kpa(KpaPolicy(), now=0.0, ready=0)
    up = kpa.decide(now=0.0, stable=150.0, panic=150.0, ready=1)
    log.note("default/hello", up, {"ready": 1, "queued": 4})
    log.note("default/hello", kpa.decide(now=90.0, stable=20.0, panic=0.0, ready=3), {"ready": 3})
    return home


def ask(home, *, name="hello", at=None, output="table"):
    return why_scale(home, name, namespace="default", at=at, output=output)


def test_words_say_the_number_its_reasons_and_each_change(home, capsys):
    assert ask(home) == 0
    shown = capsys.readouterr().out

    assert "wanted               1" in shown
    assert "before that 3" in shown
    assert "20 concurrent on average over 60 s, at 70 per instance" in shown
    assert "stable window   20      70       1" in shown
    assert [line.split()[1:3] for line in shown.splitlines()[-2:]] == [["0", "3"], ["3", "1"]]


@pytest.mark.parametrize("at", ["30m", "{seconds}", "{iso}"])
def test_time_in_the_past_finds_what_was_in_effect(home, capsys, at):
    moment = datetime.now(UTC) - timedelta(minutes=30)
    said = at.format(seconds=moment.timestamp(), iso=moment.isoformat())

    assert ask(home, at=said, output="json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["inEffect"]["to"], len(found["changes"]), found["now"]) == (3, 1, None)
    assert found["inEffect"]["inputs"] == {"ready": 1, "queued": 4}
    assert found["inEffect"]["decision"]["panic"] is True


def test_time_before_the_first_change_is_not_found(home):
    with pytest.raises(NotFoundError, match="the first change was at"):
        ask(home, at="2h")


def test_function_without_a_record_is_not_found(home):
    with pytest.raises(NotFoundError, match="no change was recorded"):
        ask(home, name="other")


def test_time_that_is_none_is_refused(home):
    with pytest.raises(UsageError, match="is no time"):
        ask(home, at="yesterday")
