"""Which conditions hold for an event, by the times of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.errors import CelCompileError
from pelton.plan.trigger_window import Conditions, Stretch, decode, encode, is_true, marked, merged

WINDOW = 60.0
INPUTS = ("a", "b", "c")
times = st.floats(min_value=0, max_value=1000, allow_nan=False).map(lambda value: round(value, 3))
histories = st.lists(st.tuples(st.sampled_from(INPUTS), times), max_size=12)


def met(condition, marks, own, at):
    return Conditions.of(INPUTS, [condition]).met(marks, own, at, WINDOW) == [0]


def after(*events):
    marks: dict[str, Stretch] = {}
    for name, at in events:
        marks = marked(marks, (name,), at, WINDOW)
    return marks


@pytest.mark.parametrize(
    ("events", "condition", "fires"),
    [
        ([("a", 0.0)], "a", True),
        ([("a", 0.0)], "a && b", False),
        ([("a", 0.0), ("b", 59.9)], "a && b", True),
        ([("a", 0.0), ("b", 60.0)], "a && b", False),
        ([("a", 0.0), ("a", 50.0), ("b", 100.0)], "a && b", True),  # the window is that of the last event
        ([("a", 0.0), ("b", 10.0), ("a", 30.0)], "a && b", True),  # a match resets nothing
        ([("a", 0.0)], "a && !b", True),
        ([("b", 0.0), ("a", 10.0)], "a && !b", False),
        ([("b", 0.0), ("a", 60.0)], "a && !b", True),
        ([("c", 0.0)], "a || c", True),
        ([("b", 0.0), ("a", 1.0)], "a ? b : c", True),
        ([("a", 1.0)], "!(b || c)", True),
        ([("a", 1.0)], "true", True),
    ],
)
def test_condition_is_looked_at_with_inputs_of_the_window(events, condition, fires):
    name, at = events[-1]

    assert met(condition, after(*events), (name,), at) is fires


@pytest.mark.parametrize("condition", ["", "a &&", "a + b", "d", "1", "a ? 1 : 2", "size('x')"])
def test_condition_that_is_none_is_refused(condition):
    with pytest.raises(CelCompileError):
        Conditions.of(INPUTS, [condition])


def test_event_that_comes_late_meets_what_became_true_behind_it():
    """After an outage the later event may be handled first: together they fire none the less."""
    marks = after(("b", 30.0))
    assert not met("a && b", marks, ("b",), 30.0)

    marks = marked(marks, ("a",), 0.0, WINDOW)

    assert met("a && b", marks, ("a",), 0.0)


def test_event_that_comes_again_decides_as_it_did():
    """A crash between the state and the deliveries: by then a later event may be in the state."""
    assert met("a && !b", after(("a", 10.0)), ("a",), 10.0)

    assert met("a && !b", after(("a", 10.0), ("b", 11.0)), ("a",), 10.0)


def test_event_of_long_ago_does_not_take_the_place_of_a_later_one():
    marks = after(("a", 500.0), ("a", 10.0))

    assert marks == {"a": Stretch(500.0, 500.0)}
    assert met("a", marks, ("a",), 10.0)


def test_several_inputs_of_one_event_are_true_together():
    marks = marked({}, ("a", "b"), 5.0, WINDOW)

    assert met("a && b", marks, ("a", "b"), 5.0)


@given(histories)
def test_in_order_an_input_is_true_iff_its_last_event_is_within_the_window(history):
    """The plain rule of the original is what is left when nothing comes late."""
    marks: dict[str, Stretch] = {}
    last: dict[str, float] = {}
    for name, at in sorted(history, key=lambda event: event[1]):
        marks = marked(marks, (name,), at, WINDOW)
        last[name] = at

        expected = {other: at - seen < WINDOW for other, seen in last.items()}
        assert {other: is_true(marks[other], at, WINDOW) for other in last} == expected


@given(histories)
def test_marking_again_keeps_the_last_event(history):
    marks = after(*history)
    for name, at in history:
        again = marked(marks, (name,), at, WINDOW)
        assert again[name].last == marks[name].last

    assert {name: after(*history)[name].last for name in marks} == {
        name: max(at for other, at in history if other == name) for name in marks
    }


@given(histories, histories)
def test_replicas_agree_whoever_writes_first(one, other):
    left = merged(after(*one), after(*other), WINDOW)
    right = merged(after(*other), after(*one), WINDOW)

    assert left == right
    assert {name: stretch.last for name, stretch in left.items()} == {
        name: max(at for found, at in [*one, *other] if found == name) for name in left
    }


@given(st.permutations(["a", "b"]), times, times)
def test_pair_fires_in_any_order_iff_it_is_within_the_window(order, one, other):
    at = {"a": one, "b": other}
    marks: dict[str, Stretch] = {}
    fired = False
    for name in order:
        marks = marked(marks, (name,), at[name], WINDOW)
        fired = met("a && b", marks, (name,), at[name])

    assert fired is (abs(one - other) < WINDOW)


@given(histories, st.text(max_size=8))
def test_state_survives_its_encoding(history, uid):
    marks = after(*history)

    assert decode(encode(uid, marks), uid) == marks
    assert decode(encode(uid, marks), uid + "x") == {}
    assert decode(b"", uid) == {}
