"""Rules of the pod autoscaler; the numbered rows are those of the contract (autoscaling, section 7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.autoscale.kpa import TICK_S, Kpa, burst_capacity, target_value
from pelton.autoscale.window import Window, panic_window_s
from pelton.model.desired import Scaling


def row(target: float, **changes: float) -> Scaling:
    """Parameters of the contract's rows: rates 10, target/total 0.75, panic threshold 2, no bounds."""
    base = Scaling(
        max_replicas=0,
        target=target / 0.75,
        utilization=0.75,
        max_scale_up_rate=10.0,
        max_scale_down_rate=10.0,
        window_s=60.0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # floats stand for ints in these rows


def decide(scaling: Scaling, *, ready: int, stable: float, panic: float, now: float = 0.0, **more: bool):
    return Kpa(scaling, now=now, ready=0).decide(now=now, stable=stable, panic=panic, ready=ready, **more)


def test_row_target_10_load_50_gives_5():
    assert decide(row(10), ready=1, stable=50, panic=50).desired == 5


def test_row_panic_load_100_panics_and_gives_10():
    decision = decide(row(10), ready=1, stable=50, panic=100)

    assert (decision.mode, decision.desired) == ("panic", 10)


def test_row_burst_capacity():
    assert burst_capacity(ready=1, total_target=10 / 0.75, panic=50, wanted=-1) == -1
    assert burst_capacity(ready=1, total_target=10 / 0.75, panic=50, wanted=0) == 0
    assert burst_capacity(ready=5, total_target=1 / 0.75, panic=30, wanted=100) == -124


def test_row_growth_rate_limits_growth():
    decision = decide(row(1, max_scale_up_rate=1.1), ready=2, stable=3.1, panic=3.1)

    assert decision.desired == 3
    assert "up-rate" in decision.causes


def test_row_shrink_rate_limits_shrinking_while_reachable():
    scaling = row(1, max_scale_down_rate=1.1)

    assert decide(scaling, ready=100, stable=1, panic=1).desired == 90
    assert decide(scaling, ready=100, stable=1, panic=1, reachable=False).desired == 1


def test_row_scale_down_delay_of_five_minutes():
    kpa = Kpa(row(10, scale_down_delay_s=300.0), now=0.0, ready=0)

    assert kpa.decide(now=2.0, stable=40, panic=40, ready=1).desired == 4
    assert kpa.decide(now=300.0, stable=0, panic=0, ready=4, silent=True).desired == 4
    assert kpa.decide(now=302.0, stable=0, panic=0, ready=4, silent=True).desired == 0


def test_target_is_total_times_utilization_and_never_zero():
    assert target_value(Scaling(target=100.0, utilization=0.7)) == 70.0
    assert target_value(Scaling(target=0.001, utilization=0.7)) == 0.01


def test_new_decider_with_several_ready_starts_in_panic_and_keeps_them():
    kpa = Kpa(row(10), now=0.0, ready=4)

    decision = kpa.decide(now=0.0, stable=1, panic=1, ready=4)
    assert (decision.mode, decision.desired) == ("panic", 4)
    assert kpa.decide(now=62.0, stable=1, panic=1, ready=4).desired == 1


def test_panic_never_lowers_and_ends_a_stable_window_after_it_was_last_needed():
    kpa = Kpa(row(10), now=0.0, ready=1)

    assert kpa.decide(now=0.0, stable=10, panic=100, ready=1).desired == 10
    assert kpa.decide(now=2.0, stable=10, panic=20, ready=10).desired == 10
    assert kpa.panicking
    assert kpa.decide(now=60.0, stable=10, panic=20, ready=10).desired == 10
    ended = kpa.decide(now=62.0, stable=10, panic=20, ready=10)
    assert (ended.mode, ended.desired) == ("stable", 1)


def test_panic_clock_restarts_while_over_the_threshold():
    kpa = Kpa(row(10), now=0.0, ready=1)
    kpa.decide(now=0.0, stable=100, panic=100, ready=1)
    kpa.decide(now=40.0, stable=100, panic=100, ready=1)

    assert kpa.decide(now=70.0, stable=10, panic=10, ready=10).mode == "panic"


def test_silent_window_ends_panic_and_all_instances_at_the_next_boundary():
    kpa = Kpa(replace(row(10), max_scale_down_rate=2.0), now=0.0, ready=1)
    kpa.decide(now=1.0, stable=100, panic=100, ready=1)

    assert kpa.decide(now=1.9, stable=0, panic=0, ready=10, silent=True).desired == 10
    decision = kpa.decide(now=2.0, stable=0, panic=0, ready=10, silent=True)
    assert decision.desired == 0
    assert decision.reason == "0 wanted: nothing ran or waited for 60 s"


def test_growth_is_taken_at_any_time_and_shrinking_waits_for_the_boundary():
    kpa = Kpa(row(10), now=0.0, ready=0)

    assert kpa.decide(now=0.0, stable=10, panic=10, ready=1).desired == 1
    assert kpa.decide(now=0.1, stable=20, panic=15, ready=2).desired == 2
    kept = kpa.decide(now=0.2, stable=10, panic=10, ready=2)
    assert (kept.desired, kept.causes[-1]) == (2, "boundary")
    assert kpa.decide(now=2.0, stable=10, panic=10, ready=2).desired == 1


def test_growth_limit_of_a_step_does_not_compound_between_boundaries():
    kpa = Kpa(row(1, max_scale_up_rate=2.0, panic_threshold_percentage=1000.0), now=0.0, ready=0)

    assert kpa.decide(now=0.0, stable=100, panic=1, ready=1).desired == 2
    assert kpa.decide(now=1.0, stable=100, panic=1, ready=2).desired == 2
    assert kpa.decide(now=2.0, stable=100, panic=1, ready=2).desired == 4


def test_bounds_hold_whatever_is_measured():
    scaling = row(10, min_replicas=2, max_replicas=3)

    assert decide(scaling, ready=1, stable=1000, panic=1000).desired == 3
    assert decide(scaling, ready=3, stable=0, panic=0, silent=True).desired == 2


def test_initial_scale_is_a_floor_until_it_was_reached():
    kpa = Kpa(row(10, initial_scale=3), now=0.0, ready=0)

    assert kpa.decide(now=0.0, stable=0, panic=0, ready=0, silent=True).desired == 3
    assert kpa.decide(now=2.0, stable=0, panic=0, ready=3, silent=True).desired == 0


def test_activation_scale_is_the_least_that_traffic_asks_for():
    scaling = row(10, activation_scale=3)

    assert decide(scaling, ready=0, stable=1, panic=1).desired == 3
    assert decide(scaling, ready=0, stable=55, panic=55).desired == 6
    assert decide(scaling, ready=3, stable=0, panic=0, silent=True).desired == 0


def test_retention_keeps_one_instance_after_the_window_went_silent():
    kpa = Kpa(row(10, retention_s=30.0), now=0.0, ready=1)
    kpa.decide(now=0.0, stable=5, panic=5, ready=1)

    assert kpa.decide(now=60.0, stable=0, panic=0, ready=1, silent=True).desired == 1
    assert kpa.decide(now=88.0, stable=0, panic=0, ready=1, silent=True).desired == 1
    assert kpa.decide(now=90.0, stable=0, panic=0, ready=1, silent=True).desired == 0


def test_tiny_load_keeps_one_instance():
    assert decide(Scaling(), ready=1, stable=1e-6, panic=0).desired == 1


@pytest.mark.parametrize(
    ("stable", "panic", "ready", "expected"),
    [
        (35.0, 35.0, 1, "1 wanted: 35 concurrent on average over 60 s, at 70 per instance"),
        (
            140.0,
            700.0,
            1,
            "10 wanted: panic, 700 concurrent on average over 0 s, at 70 per instance (140 over 60 s)",
        ),
    ],
)
def test_reason_names_the_numbers(stable, panic, ready, expected):
    assert decide(Scaling(), ready=ready, stable=stable, panic=panic).reason == expected


# --- properties: a simulated function whose instances become ready at once


loads = st.lists(
    st.tuples(st.integers(1, 40), st.one_of(st.just(0.0), st.floats(0.01, 800.0))), min_size=1, max_size=8
)
scalings = st.builds(
    Scaling,
    min_replicas=st.integers(0, 3),
    max_replicas=st.one_of(st.just(0), st.integers(3, 20)),
    target=st.floats(1, 100),
    window_s=st.integers(6, 30).map(float),
    scale_down_delay_s=st.sampled_from([0.0, 10.0]),
)


def simulate(scaling: Scaling, load: list[tuple[int, float]], step_s: float = 0.5):
    """Yield (now, load, decision); load is [(seconds, concurrency)]."""
    panic_s = panic_window_s(scaling.window_s, scaling.panic_window_percentage)
    stable, panic = Window(int(scaling.window_s)), Window(panic_s)
    now, ready = 1000.0, 0
    kpa = Kpa(scaling, now=now, ready=ready)
    for seconds, level in load:
        for _ in range(int(seconds / step_s)):
            for window in (stable, panic):
                window.add(now, now + step_s, level * step_s, active=level > 0)
            now += step_s
            decision = kpa.decide(
                now=now,
                stable=stable.average(now),
                panic=panic.average(now),
                ready=ready,
                silent=stable.silent(now),
            )
            ready = decision.desired
            yield now, level, decision


@settings(deadline=None, max_examples=60)
@given(scalings, loads)
def test_property_desired_never_leaves_its_bounds(scaling, load):
    for _, _, decision in simulate(scaling, load):
        assert scaling.min_replicas <= decision.desired
        assert scaling.max_replicas == 0 or decision.desired <= scaling.max_replicas


@settings(deadline=None, max_examples=60)
@given(scalings, loads)
def test_property_silence_leads_to_the_minimum_within_window_and_boundary(scaling, load):
    silence = int(scaling.window_s + scaling.scale_down_delay_s + 1 + 2 * TICK_S) + 1
    *_, (_, _, last) = simulate(scaling, [*load, (silence, 0.0)])

    assert last.desired == scaling.min_replicas


@settings(deadline=None, max_examples=60)
@given(scalings, st.floats(0.01, 500.0))
def test_property_constant_load_settles_and_stays(scaling, level):
    decisions = [decision for _, _, decision in simulate(scaling, [(int(scaling.window_s) * 3, level)])]
    settled = decisions[len(decisions) // 2 :]

    assert len({decision.desired for decision in settled}) == 1
    assert settled[-1].desired >= 1


@settings(deadline=None, max_examples=60)
@given(
    scalings,
    st.floats(0, 500),
    st.floats(0, 500),
    st.floats(0, 500),
    st.floats(0, 500),
    st.integers(0, 20),
)
def test_property_more_load_never_wants_fewer(scaling, stable, panic, more_stable, more_panic, ready):
    low = decide(scaling, ready=ready, stable=stable, panic=panic)
    high = decide(scaling, ready=ready, stable=stable + more_stable, panic=panic + more_panic)

    assert low.desired <= high.desired


@settings(deadline=None, max_examples=40)
@given(scalings, loads)
def test_property_lower_numbers_only_appear_at_boundaries(scaling, load):
    before, slot = 0, None
    for now, _, decision in simulate(scaling, load):
        if decision.desired < before:
            assert slot != now // TICK_S
        before, slot = decision.desired, now // TICK_S
