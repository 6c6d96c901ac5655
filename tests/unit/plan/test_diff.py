"""Rules of what has to be done."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pelton.model.desired import Desired, Route, Scaling, Workload
from pelton.plan.diff import Apply, Check, Remove, diff


def live(revision: str = "hello-1", **changes: Any) -> Desired:
    return Desired(
        workload=Workload(namespace="default", name="hello", revision=revision, bundle="/b"),
        scaling=changes.pop("scaling", Scaling()),
        **changes,
    )


def test_diff_of_nothing_is_nothing():
    assert diff(None, None) == ()


def test_diff_of_equal_states_is_nothing():
    assert diff(live(), live()) == ()


def test_diff_creates_with_a_check_first():
    wanted = live()

    assert diff(None, wanted) == (
        Check(workload=wanted.workload),
        Apply(desired=wanted, changes=("created",)),
    )


def test_diff_does_not_check_what_is_known_to_load():
    assert diff(None, live(), checked={"hello-1"}) == (Apply(desired=live(), changes=("created",)),)


def test_diff_of_scaling_applies_without_a_check():
    wanted = live(scaling=Scaling(max_replicas=3))

    assert diff(live(), wanted) == (Apply(desired=wanted, changes=("scaling",)),)


def test_diff_of_unhonoured_fields_does_nothing():
    assert diff(live(), live(partial=(("a", "b"),))) == ()


def test_diff_removes():
    assert diff(live(), None) == (Remove(namespace="default", name="hello"),)


def test_diff_of_a_new_revision_checks_it_and_names_what_changed():
    route = Route(namespace="default", name="hello", hosts=("a",))
    wanted = live("hello-2", route=route)

    assert diff(live(), wanted) == (
        Check(workload=wanted.workload),
        Apply(desired=wanted, changes=("workload", "route")),
    )


states = st.one_of(
    st.none(),
    st.builds(live, st.sampled_from(["a", "b"]), scaling=st.builds(Scaling, max_replicas=st.integers(1, 3))),
)


@given(states, states, st.sampled_from(["", "a", "b"]))
def test_property_carrying_the_actions_out_leaves_nothing_to_do(observed, wanted, checked):
    state = observed
    for action in diff(observed, wanted, checked=checked):
        if isinstance(action, Apply):
            state = action.desired
        elif isinstance(action, Remove):
            state = None

    assert diff(state, wanted, checked=checked) == ()
