"""Rules of the HPA; the numbered rows are those of the contract (autoscaling, sections 3 and 7)."""

from __future__ import annotations

import json
from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.autoscale.hpa import Changes, Extremes, Hpa, Reading, propose
from pelton.model.scaling import Behavior, DirectionRules, HpaPolicy, MetricTarget, RateLimit

LAG = MetricTarget(name="lag", target=10.0)
CPU = MetricTarget(name="cpu", kind="Resource", target_type="Utilization", target=50.0)
PODS = MetricTarget(name="pods", kind="Pods", target=10.0)
NO_WAIT = Behavior(down=replace(Behavior().down, window_s=0.0))


def policy(**changes) -> HpaPolicy:
    return replace(HpaPolicy(max_replicas=100, metrics=(LAG,)), **changes)


def look(hpa: Hpa, now: float, lag: float | None, current: int, **more):
    return hpa.decide(
        now=now, readings={"lag": None if lag is None else Reading(value=lag)}, current=current, **more
    )


# --- proposals


@pytest.mark.parametrize(("total", "expected"), [(32, 3), (33, 3), (34, 4), (27, 3), (26, 3), (20, 2)])
def test_row_average_value_keeps_three_replicas_within_tolerance(total, expected):
    assert propose(LAG, Reading(value=total), current=3, ready=3) == expected


def test_external_value_scales_ready_pods_by_the_ratio():
    metric = replace(LAG, target_type="Value")

    assert propose(metric, Reading(value=25), current=4, ready=4) == 10
    assert propose(metric, Reading(value=25), current=4, ready=2) == 5
    assert propose(metric, Reading(value=25), current=0, ready=0) == 3
    assert propose(metric, Reading(value=10.5), current=4, ready=4) == 4


def test_dust_of_floating_point_is_no_replica():
    metric = replace(LAG, target=0.1)

    assert propose(metric, Reading(value=1.1), current=1, ready=1) == 11


@pytest.mark.parametrize(
    ("mean", "ready", "expected"),
    [(80.0, 4, 7), (55.9, 4, 4), (56.0, 4, 5), (20.9, 4, 2)],  # whole percents: 55.9 counts as 55
)
def test_utilization_is_cut_to_whole_percents(mean, ready, expected):
    assert propose(CPU, Reading(value=mean), current=4, ready=ready) == expected


@pytest.mark.parametrize(
    ("metric", "pods", "unready", "current", "expected"),
    [
        # Scaling down, a missing pod counts as 100 % of its request: (10 + 10 + 100) / 3 = 40 -> 0.8 x 3.
        (CPU, (10.0, 10.0, None), 0, 3, 3),
        # Scaling up, a missing pod counts as 0: (90 + 90 + 0) / 3 = 60 -> 1.2 x 3 = 3.6.
        (CPU, (90.0, 90.0, None), 0, 3, 4),
        # An unready one too: (90 + 90 + 0 + 0) / 4 = 45, which would turn the direction: keep.
        (CPU, (90.0, 90.0), 2, 4, 4),
        (CPU, (200.0, 200.0), 1, 3, 8),
        # Unready pods say nothing when scaling down.
        (CPU, (10.0, 10.0), 2, 4, 1),
        # Values: a missing pod counts as the target: (2 + 2 + 10) / 3.
        (PODS, (2.0, 2.0, None), 0, 3, 2),
        (PODS, (30.0, 30.0, None), 0, 3, 6),
        # The new count contradicts the direction (fewer metrics than replicas): keep.
        (PODS, (12.0, 12.0, 12.0, None), 0, 9, 9),
    ],
)
def test_missing_and_unready_pods_are_taken_cautiously(metric, pods, unready, current, expected):
    reading = Reading(pods=pods, unready=unready)

    assert propose(metric, reading, current=current, ready=len(pods)) == expected


def test_tolerance_can_differ_by_direction():
    assert propose(LAG, Reading(value=35), current=3, ready=3, tolerance=(0.2, 0.0)) == 3
    assert propose(LAG, Reading(value=29), current=3, ready=3, tolerance=(0.2, 0.0)) == 3
    assert propose(LAG, Reading(value=14), current=3, ready=3, tolerance=(0.2, 0.5)) == 2


# --- several metrics


def test_largest_proposal_counts_and_a_failed_metric_forbids_shrinking_only():
    hpa = Hpa(policy(metrics=(LAG, replace(LAG, name="other"))))

    more = hpa.decide(now=0.0, readings={"lag": Reading(value=80), "other": None}, current=5)
    assert more.desired == 8
    fewer = hpa.decide(now=1.0, readings={"lag": Reading(value=8), "other": None}, current=5)
    assert (fewer.desired, fewer.causes[-1]) == (5, "metrics-failed-down")
    none = hpa.decide(now=2.0, readings={}, current=5)
    assert (none.desired, none.causes) == (5, ("metrics-failed",))
    both = {"lag": Reading(value=20), "other": Reading(value=70)}
    assert hpa.decide(now=3.0, readings=both, current=5).raw == 7


# --- bounds and switches


def test_zero_replicas_switch_scaling_off_and_bounds_come_first():
    hpa = Hpa(policy(min_replicas=2, max_replicas=10))

    assert look(hpa, 0.0, 500, 0).causes == ("scaling-disabled",)
    assert look(hpa, 0.0, 0, 12).desired == 10
    assert look(hpa, 0.0, 500, 1).desired == 2


# --- without behavior


def test_row_without_behavior_growth_doubles_from_four():
    hpa = Hpa(policy())
    numbers, current = [], 1
    for tick in range(5):
        current = look(hpa, 15.0 * tick, 500, current).desired
        numbers.append(current)

    assert numbers == [4, 8, 16, 32, 50]


def test_without_behavior_shrinking_waits_five_minutes():
    hpa = Hpa(policy())
    look(hpa, 0.0, 80, 8)

    assert look(hpa, 299.0, 20, 8).desired == 8
    assert look(hpa, 300.0, 20, 8).desired == 2


def test_growth_limit_does_not_compound_between_boundaries():
    hpa = Hpa(policy())

    assert look(hpa, 0.0, 500, 1).desired == 4
    assert look(hpa, 1.0, 500, 4, boundary=False).desired == 4
    assert look(hpa, 15.0, 500, 4).desired == 8


def test_shrinking_waits_for_the_boundary():
    hpa = Hpa(policy(stabilization_s=0.0))

    kept = look(hpa, 1.0, 20, 8, boundary=False)
    assert (kept.desired, kept.causes[-1]) == (8, "boundary")
    assert look(hpa, 15.0, 20, 8).desired == 2


# --- with behavior


def with_changes(*changes: tuple[float, int], **fields) -> Hpa:
    hpa = Hpa(policy(**({"behavior": NO_WAIT} | fields)))
    for at, change in changes:
        hpa.changed(now=at, before=50, after=50 + change)
    return hpa


@pytest.mark.parametrize(
    ("changes", "current", "wanted", "expected"),
    [
        (((-5.0, 4),), 4, 6, 4),
        (((-5.0, 4), (-5.0, -2)), 4, 60, 6),
        (((-5.0, 10),), 30, 50, 40),
        (((-15.0, 4),), 4, 60, 8),  # just out of the period
    ],
)
def test_row_growth_policies_count_from_the_start_of_the_period(changes, current, wanted, expected):
    assert look(with_changes(*changes), 0.0, wanted * 10, current).desired == expected


def test_row_shrinking_policy_counts_what_was_removed():
    down = DirectionRules(window_s=0.0, limits=(RateLimit(kind="Pods", value=5, period_s=60),))
    hpa = with_changes((-5.0, -4), behavior=Behavior(down=down))

    assert look(hpa, 0.0, 40, 6).desired == 5


def test_percent_policies_round_away_from_standing_still():
    rules = DirectionRules(window_s=0.0, limits=(RateLimit(kind="Percent", value=10, period_s=60),))
    hpa = Hpa(policy(behavior=Behavior(up=rules, down=rules)))

    assert look(hpa, 0.0, 500, 5).desired == 6
    assert look(hpa, 100.0, 10, 15).desired == 13


@pytest.mark.parametrize(("select", "up", "down"), [("Max", 20, 1), ("Min", 14, 5), ("Disabled", 10, 10)])
def test_policies_are_selected(select, up, down):
    limits = (RateLimit(kind="Pods", value=4, period_s=15), RateLimit(kind="Percent", value=100, period_s=15))
    smaller = (RateLimit(kind="Pods", value=5, period_s=15), RateLimit(kind="Percent", value=90, period_s=15))
    behavior = Behavior(
        up=DirectionRules(window_s=0.0, select=select, limits=limits),
        down=DirectionRules(window_s=0.0, select=select, limits=smaller),
    )

    assert look(Hpa(policy(behavior=behavior)), 0.0, 900, 10).desired == up
    assert look(Hpa(policy(behavior=behavior)), 0.0, 10, 10).desired == down


def test_stabilization_windows_hold_both_directions():
    up = replace(Behavior().up, window_s=60.0)
    hpa = Hpa(policy(behavior=Behavior(up=up)))

    assert look(hpa, 0.0, 30, 3).desired == 3
    assert look(hpa, 30.0, 80, 3).causes[-1] == "stabilized-up"
    assert look(hpa, 61.0, 80, 3).desired == 7
    assert look(hpa, 62.0, 10, 7).causes[-1] == "stabilized-down"


def test_every_change_is_remembered_for_the_longest_period():
    limits = (RateLimit(kind="Pods", value=2, period_s=15), RateLimit(kind="Pods", value=10, period_s=1800))
    hpa = Hpa(policy(behavior=Behavior(up=DirectionRules(window_s=0.0, select="Min", limits=limits))))
    current = 1
    for tick in range(10):
        current = look(hpa, 15.0 * tick, 900, current).desired

    assert current == 11
    assert look(hpa, 1800.5, 900, current).desired == 13


# --- pieces and properties


def test_extremes_are_those_newer_than_the_window():
    extremes = Extremes()
    extremes.record(0.0, 9)
    extremes.record(1.0, 5)

    assert extremes.largest(10.0, 10.0, 2) == 5
    assert extremes.largest(11.0, 10.0, 2) == 2


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 9)), max_size=30), st.floats(0, 100))
def test_changes_within_a_period_add_up(steps, period):
    steps = sorted(steps, key=lambda step: step[0])
    changes = Changes(steps)

    assert changes.within(100.0, period) == sum(change for at, change in steps if at > 100.0 - period)
    assert changes.to_list() == [list(step) for step in steps]


behaviors = st.one_of(
    st.none(),
    st.builds(
        Behavior,
        up=st.builds(
            DirectionRules,
            window_s=st.sampled_from([0.0, 30.0]),
            select=st.sampled_from(["Max", "Min"]),
            limits=st.just(Behavior().up.limits),
        ),
        down=st.builds(
            DirectionRules, window_s=st.sampled_from([0.0, 60.0]), limits=st.just(Behavior().down.limits)
        ),
    ),
)
traces = st.lists(st.tuples(st.integers(1, 60), st.one_of(st.none(), st.integers(0, 900))), max_size=30)


@settings(max_examples=80)
@given(behaviors, traces, st.integers(1, 5), st.integers(0, 40))
def test_property_bounds_hold_and_a_restored_state_decides_the_same(behavior, trace, low, more):
    bounded = policy(behavior=behavior, min_replicas=low, max_replicas=low + more)
    hpa, now, current = Hpa(bounded), 0.0, low
    for seconds, lag in trace:
        now += seconds
        copy = Hpa.from_dict(bounded, json.loads(json.dumps(hpa.to_dict())))
        decision = look(hpa, now, lag, current)

        assert look(copy, now, lag, current) == decision
        assert decision.reason.startswith(f"{decision.desired} wanted: ")
        assert low <= decision.desired <= low + more
        current = decision.desired


@settings(max_examples=60)
@given(behaviors, st.integers(0, 900))
def test_property_constant_load_settles_and_stays(behavior, lag):
    hpa, current, numbers = Hpa(policy(behavior=behavior)), 1, []
    for tick in range(80):
        current = look(hpa, 15.0 * tick, lag, current).desired
        numbers.append(current)

    assert len(set(numbers[50:])) == 1
    assert numbers[-1] >= min(100, lag / 10 / 1.1)


@given(st.integers(1, 30), st.floats(0, 900), st.floats(0, 900))
def test_property_more_load_never_proposes_fewer(current, value, more):
    low = propose(LAG, Reading(value=value), current=current, ready=current)
    high = propose(LAG, Reading(value=value + more), current=current, ready=current)

    assert low <= high


# --- the plain reading of the contract, looking through the whole history every time


def plainly(trace, behavior, low, high):
    """Yield the numbers of section 3 for one AverageValue metric with target 10."""
    asked: list[tuple[float, int]] = []
    events: list[tuple[float, int]] = []
    current = low
    for now, lag in trace:
        if lag is None:
            yield current
            continue
        ratio = lag / (10 * current)
        wanted = current if 0.9 <= ratio <= 1.1 else ceil(lag / 10)
        desired = current
        if behavior is None:
            desired = max([wanted, *(n for at, n in asked if now - at < 300)])
            desired = min(max(desired, low), min(high, max(2 * current, 4)))
        else:
            least = min([wanted, *(n for at, n in asked if now - at < behavior.up.window_s)])
            most = max([wanted, *(n for at, n in asked if now - at < behavior.down.window_s)])
            desired = max(desired, least)
            desired = min(desired, most)
            ups: list[int] = []
            downs: list[int] = []
            for limits, rules in ((ups, behavior.up), (downs, behavior.down)):
                for limit in rules.limits:
                    begin = current - sum(change for at, change in events if now - at < limit.period_s)
                    if limits is ups:
                        pods, share = begin + limit.value, ceil(begin * (1 + limit.value / 100))
                    else:
                        pods, share = begin - limit.value, int(begin * (1 - limit.value / 100))
                    limits.append(pods if limit.kind == "Pods" else share)
            choose = max if behavior.up.select == "Max" else min
            if desired > current:
                desired = min(desired, max(current, choose(ups)), high)
            elif desired < current:
                desired = max(desired, min(current, min(downs)), low)
            if desired != current:
                events.append((now, desired - current))
        asked.append((now, wanted))
        current = desired
        yield current


@settings(max_examples=150)
@given(behaviors, traces, st.integers(1, 5), st.integers(0, 60))
def test_property_equals_the_plain_reading_of_the_contract(behavior, trace, low, more):
    moments, now = [], 0.0
    for seconds, lag in trace:
        now += seconds
        moments.append((now, lag))
    hpa, current = Hpa(policy(behavior=behavior, min_replicas=low, max_replicas=low + more)), low
    for (at, lag), expected in zip(moments, plainly(moments, behavior, low, low + more), strict=True):
        current = look(hpa, at, lag, current).desired

        assert current == expected
