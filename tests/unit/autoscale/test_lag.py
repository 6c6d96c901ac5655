"""Rules of scaling on waiting events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.autoscale.kpa import Decision
from pelton.autoscale.lag import STEADY_S, Lag, combine, wanted_for
from pelton.model.desired import Scaling


@pytest.mark.parametrize(
    ("pending", "threshold", "activation", "bounds", "expected"),
    [
        (0, 10, 0, (0, 10), 0),
        (1, 10, 0, (0, 10), 1),
        (40, 10, 0, (0, 10), 4),
        (41, 10, 0, (0, 10), 5),
        (1000, 10, 0, (0, 10), 10),
        (1000, 10, 0, (0, 0), 100),
        (5, 10, 5, (0, 10), 0),
        (6, 10, 5, (0, 10), 1),
        (1, 10, 0, (3, 10), 3),
    ],
)
def test_wanted_is_pending_by_threshold_within_bounds(pending, threshold, activation, bounds, expected):
    scaling = Scaling(
        lag_threshold=threshold,
        activation_lag_threshold=activation,
        min_replicas=bounds[0],
        max_replicas=bounds[1],
    )

    assert wanted_for(pending, scaling) == expected


def test_falling_count_is_followed_after_the_steady_time():
    lag = Lag(Scaling(lag_threshold=10.0, cooldown_s=60.0))

    assert lag.decide(now=0.0, pending=50) == (5, "lag")
    assert lag.decide(now=1.0, pending=10) == (5, "cooldown")
    assert lag.decide(now=STEADY_S + 0.5, pending=10) == (1, "lag")


def test_cooldown_keeps_one_instance_and_then_none():
    lag = Lag(Scaling(cooldown_s=60.0))
    lag.decide(now=0.0, pending=1)

    assert lag.decide(now=59.9, pending=0) == (1, "cooldown")
    assert lag.decide(now=60.0, pending=0) == (0, "")


def test_cooldown_shorter_than_the_steady_time_wins():
    lag = Lag(Scaling(cooldown_s=6.0))
    lag.decide(now=0.0, pending=100)

    assert lag.decide(now=5.0, pending=0)[0] == 10
    assert lag.decide(now=6.0, pending=0) == (0, "")


def test_combine_takes_the_larger_and_its_reason():
    http = Decision(desired=2, causes=("stable",), maximum=10)

    more = combine(http, pending=55, lag_desired=6, cause="lag")
    assert (more.desired, more.reason) == (6, "6 wanted: 55 events are pending")
    assert combine(http, pending=5, lag_desired=1, cause="lag").causes == ("stable",)
    assert combine(http, pending=0, lag_desired=0, cause="") is http


def test_combine_says_when_the_maximum_cut_the_number():
    http = Decision(desired=0, causes=("silent",), maximum=10)

    assert combine(http, pending=500, lag_desired=10, cause="lag").causes == ("lag", "maximum")


@given(
    st.integers(0, 5),
    st.integers(0, 20),
    st.lists(st.tuples(st.floats(0.1, 30), st.integers(0, 500)), max_size=40),
)
def test_property_wanted_is_zero_or_within_bounds_and_never_flaps_within_the_steady_time(low, more, steps):
    scaling = Scaling(min_replicas=low, max_replicas=low + more)
    lag = Lag(scaling)
    now = 0.0
    history: list[tuple[float, int]] = []
    for gap, pending in steps:
        now += gap
        wanted, _ = lag.decide(now=now, pending=pending)
        history.append((now, wanted))

        assert wanted == 0 or (scaling.max_replicas == 0 and wanted > 0) or low <= wanted <= low + more
        assert wanted >= wanted_for(pending, scaling)
        assert all(wanted >= wanted_for(0, scaling) for _ in history)
