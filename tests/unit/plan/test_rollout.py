"""Rules of canary steps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.function import Function
from pelton.plan.rollout import HISTORY_LIMIT, ROLLOUT, Rollout, Step, advance, history_limit, read

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = (Step(weight=10, pause_s=60.0), Step(weight=50, pause_s=None), Step(weight=100, pause_s=0.0))


def steps_of(text: str):
    return read(Function(name="f", annotations={ROLLOUT: text}))


def go(recorded: Rollout | None = None, at: float = 0.0, **changes) -> Rollout | None:
    asked = {"revision": "new", "stable": "old", "steps": STEPS, "action": "", "failure": "", **changes}
    return advance(recorded, now=NOW + timedelta(seconds=at), **asked)


def begun(at: float = 0.0) -> Rollout:
    found = go(at=at)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10% 1m, 50% pause, 100%", STEPS),
        ("10% 1m,50% pause", STEPS),
        (" 10%   60s ,50%  pause,100% ", STEPS),
        ("100%", (Step(weight=100, pause_s=0.0),)),
        ("1% 720h", (Step(weight=1, pause_s=2_592_000.0), Step(weight=100, pause_s=0.0))),
        ("5% 1.5s", (Step(weight=5, pause_s=1.5), Step(weight=100, pause_s=0.0))),
    ],
)
def test_read_understands_steps(text, expected):
    assert steps_of(text) == (expected, [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10", '"10" is no step'),
        ("10% 5m,", '"" is no step'),
        ("ten% 5m", "is no step"),
        ("10% 5m 6m", "is no step"),
        ("-5% 5m", "is no step"),
        ("10.5% 5m", "is no step"),
        ("0% 5m", "from 1 to 100"),
        ("101%", "from 1 to 100"),
        ("10%", "does not say how long it lasts"),
        ("10% soon", 'neither "pause" nor a duration'),
        ("10% 0s", "above 0"),
        ("10% -5m", "above 0"),
        ("10% 721h", "up to 720h"),
        ("50% 5m, 10% 5m", "percentages rise"),
        ("50% 5m, 50% 5m", "percentages rise"),
        ("100% 5m", "takes no pause"),
        ("100%, 100%", "percentages rise"),
        (", ".join(f"{n}% 1s" for n in range(1, 22)), "at most 20"),
    ],
)
def test_read_refuses_with_the_path(text, says):
    steps, problems = steps_of(text)

    assert steps == ()
    assert [(one.reason, one.path) for one in problems] == [
        ("InvalidAnnotation", f"metadata.annotations[{ROLLOUT}]")
    ]
    assert says in problems[0].message


@pytest.mark.parametrize(
    ("text", "limit", "bad"), [("", 5, 0), ("0", 0, 0), ("100", 100, 0), ("101", 5, 1), ("x", 5, 1)]
)
def test_history_limit(text, limit, bad):
    found, problems = history_limit(Function(name="f", annotations={HISTORY_LIMIT: text} if text else {}))

    assert (found, len(problems)) == (limit, bad)


def test_first_revision_is_no_rollout():
    assert go(stable="") is None


def test_what_serves_already_is_no_rollout():
    assert go(stable="new") is None


def test_without_steps_nothing_is_rolled_out():
    assert go(steps=()) is None


def test_steps_take_their_time_then_wait_for_the_user_then_complete():
    first = begun()
    assert (first.state, first.step, first.weight) == ("Progressing", 0, 10)
    assert go(first, at=59.9) == first
    second = go(first, at=60.0)
    assert second is not None
    assert (second.state, second.step, second.weight) == ("Paused", 1, 50)
    assert go(second, at=1e6) == second
    assert go(second, at=1e6, action="resume new 0") == second  # of a step that is over
    done = go(second, at=1e6, action="resume new 1")
    assert done is not None
    assert (done.state, done.weight) == ("Completed", 100)
    assert go(done, at=2e6, stable="new", steps=()) == done


def test_one_call_takes_one_step_however_late_it_is():
    timed = (Step(weight=10, pause_s=1.0), Step(weight=20, pause_s=1.0), Step(weight=100, pause_s=0.0))
    first = go(steps=timed)
    second = go(first, at=1000.0, steps=timed)

    assert second is not None
    assert (second.state, second.step) == ("Progressing", 1)
    assert go(second, at=1000.5, steps=timed) == second


def test_pause_of_the_user_does_not_count_for_the_step():
    paused = go(begun(), at=40.0, action="pause new 0")
    assert paused is not None
    assert paused.state == "Paused"
    assert go(paused, at=1000.0, action="pause new 0") == paused
    resumed = go(paused, at=1000.0, action="resume new 0")
    assert resumed is not None
    assert (resumed.state, resumed.step) == ("Progressing", 0)
    assert go(resumed, at=1019.0, action="resume new 0") == resumed
    later = go(resumed, at=1020.0, action="resume new 0")
    assert later is not None
    assert later.step == 1


@pytest.mark.parametrize("change", [{"action": "abort new"}, {"failure": "its instances do not start: no"}])
def test_abort_or_failure_gives_all_traffic_back(change):
    aborted = go(begun(), at=5.0, **change)

    assert aborted is not None
    assert (aborted.state, aborted.weight, aborted.stable) == ("Aborted", 0, "old")
    assert aborted.message
    assert go(aborted, at=1000.0) == aborted


def test_abort_of_another_revision_is_not_meant():
    assert go(begun(), at=5.0, action="abort other") == begun()


def test_restart_begins_again_once():
    aborted = go(begun(), at=5.0, action="abort new")
    assert aborted is not None
    action = f"restart new {aborted.since}"
    again = go(aborted, at=100.0, action=action)
    assert again is not None
    assert (again.state, again.step) == ("Progressing", 0)
    failed = go(again, at=101.0, action=action, failure="no")
    assert failed is not None
    assert go(failed, at=200.0, action=action) == failed


def test_a_new_revision_begins_anew_and_from_what_was_stable():
    second = go(begun(), at=60.0)
    third = go(second, at=70.0, revision="newer")

    assert third is not None
    assert (third.revision, third.stable, third.step) == ("newer", "old", 0)


def test_going_back_to_what_was_stable_ends_it():
    assert go(begun(), at=5.0, revision="old") is None


def test_steps_taken_away_complete_it():
    done = go(begun(), at=5.0, steps=())

    assert done is not None
    assert (done.state, done.weight) == ("Completed", 100)


def test_changed_steps_count_for_the_next_one():
    assert go(begun(), at=5.0, steps=(Step(weight=100, pause_s=0.0),)) == begun()


def test_a_clock_that_was_set_back_begins_the_step_anew():
    back = go(begun(), at=-3600.0)
    assert back is not None
    assert back.step == 0
    again = go(back, at=-3540.0)
    assert again is not None
    assert again.step == 1


def test_wait_is_until_the_step_ends_or_health_is_due():
    assert begun().wait_s(NOW + timedelta(seconds=58)) == pytest.approx(2.0)
    assert begun().wait_s(NOW) == 5.0
    assert replace(begun(), state="Completed").wait_s(NOW) is None


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"rollout": 1},
        {"rollout": {"state": "Odd", "revision": "a", "steps": "100%"}},
        {"rollout": {"state": "Paused", "revision": "a", "steps": "10% 5m", "step": 7}},
        {"rollout": {"state": "Paused", "revision": "", "steps": "10% 5m", "step": 0}},
    ],
)
def test_what_cannot_be_read_from_a_status_is_none(status):
    assert Rollout.from_status(status) is None


@given(
    st.lists(
        st.tuples(
            st.floats(-50, 200),
            st.sampled_from(["", "pause new 0", "resume new 0", "pause new 1", "resume new 1"]),
        ),
        max_size=20,
    )
)
def test_property_the_weight_never_falls_and_the_record_survives_being_stored(moves):
    recorded, at, weight = None, 0.0, 0
    for passed, action in moves:
        at += passed
        recorded = go(recorded, at=at, action=action)
        assert recorded is not None
        assert Rollout.from_status({"rollout": recorded.to_status()}) == recorded
        assert recorded.weight >= weight
        assert recorded.state in ("Progressing", "Paused", "Completed")
        weight = recorded.weight
