"""Rules of KEDA's loop; the numbered rows are those of the contract (autoscaling, sections 2 and 7)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.autoscale.formula import FormulaError
from pelton.autoscale.keda import COMPOSITE, Keda, fallback_replicas, fallback_value, hpa_policy, stored
from pelton.model.scaling import FallbackPolicy, FormulaPolicy, KedaPolicy, TriggerTarget

LAG = TriggerTarget(name="lag", type="kafka", target=10.0)
CPU = TriggerTarget(name="cpu", type="cpu", target=50.0, metric_type="Utilization")
BASE = KedaPolicy(triggers=(LAG,), stabilization_s=0.0)


def keda(**changes) -> Keda:
    return Keda(replace(BASE, **changes), now=0.0)


def look(decider: Keda, now: float, lag: float | None, current: int, **more):
    return decider.decide(now=now, values={"lag": lag}, current=current, **more)


# --- 0 to 1, and back


def test_row_lag_40_at_10_each_asks_for_four():
    decider = keda()

    assert look(decider, 0.0, 40, 0).desired == 1
    assert look(decider, 15.0, 40, 1).desired == 4


def test_activation_goes_on_to_the_hpa_where_that_is_asked_for():
    assert look(keda(), 0.0, 40, 0, chain=True).desired == 4
    assert look(keda(), 0.0, 900, 0, chain=True).desired == 4  # twice one, at least four


@pytest.mark.parametrize(
    ("changes", "lag", "current", "expected"),
    [
        ({}, 1, 0, 1),
        ({"min_replicas": 3}, 1, 0, 3),
        ({"min_replicas": 3, "idle_replicas": 1}, 1, 1, 3),
        ({"min_replicas": 3, "idle_replicas": 0}, 0, 0, 0),
        ({"min_replicas": 3}, 0, 1, 3),
        ({"force_active": True}, 0, 0, 1),
        ({"paused_out": True}, 50, 0, 0),
        ({"paused": True}, 500, 7, 7),
        ({"paused_replicas": 5}, 0, 2, 5),
    ],
)
def test_decision_table_up(changes, lag, current, expected):
    assert look(keda(**changes), 1.0, lag, current).desired == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"min_replicas": 2}, 2),
        ({"min_replicas": 3, "idle_replicas": 1}, 1),
        ({"paused_in": True}, 3),
    ],
)
def test_cooldown_counts_from_the_last_activity_and_ends_strictly_after(changes, expected):
    decider = keda(cooldown_s=60.0, stabilization_s=300.0, **changes)
    look(decider, 10.0, 30, 3)

    before = look(decider, 70.0, 0, 3)
    assert before.desired == 3
    assert look(decider, 70.5, 0, 3).desired == (3 if changes.get("min_replicas") == 2 else expected)


def test_active_is_strictly_above_the_activation_value():
    decider = keda(triggers=(replace(LAG, activation=5.0),))

    assert look(decider, 0.0, 5, 0).desired == 0
    assert look(decider, 1.0, 5.001, 0).desired == 1


def test_initial_cooldown_counts_from_creation_while_nothing_was_ever_active():
    decider = keda(initial_cooldown_s=100.0)

    assert look(decider, 100.0, 0, 1).desired == 1
    assert look(decider, 100.1, 0, 1).desired == 0


def test_last_replicas_go_at_a_poll_only():
    decider = keda(cooldown_s=10.0)
    look(decider, 0.0, 5, 1)

    assert look(decider, 20.0, 0, 1, poll=False).desired == 1
    assert look(decider, 20.1, 0, 1).desired == 0


def test_cpu_alone_is_always_active_and_beside_others_does_not_activate():
    alone = Keda(replace(BASE, triggers=(CPU,), min_replicas=1), now=0.0)
    assert alone.decide(now=0.0, values={"cpu": 10.0}, current=0).desired == 1

    mixed = Keda(replace(BASE, triggers=(CPU, LAG)), now=0.0)
    assert mixed.decide(now=0.0, values={"cpu": 900.0, "lag": 0.0}, current=0).desired == 0
    assert mixed.decide(now=1.0, values={"cpu": 100.0, "lag": 1.0}, current=4).desired == 8


def test_cpu_that_cannot_be_read_is_no_error_of_a_trigger():
    alone = Keda(replace(BASE, triggers=(CPU,), min_replicas=1), now=0.0)
    assert alone.decide(now=0.0, values={"cpu": None}, current=0).desired == 1

    mixed = Keda(replace(BASE, triggers=(CPU, LAG), cooldown_s=10.0), now=0.0)
    mixed.decide(now=0.0, values={"cpu": None, "lag": 5.0}, current=1)
    assert mixed.decide(now=9.0, values={"cpu": None, "lag": 0.0}, current=1).desired == 1
    assert mixed.decide(now=11.0, values={"cpu": None, "lag": 0.0}, current=1).desired == 0
    assert not mixed.seen.failed


def test_decider_that_takes_over_goes_on_with_the_cooldown():
    decider = keda(cooldown_s=60.0)
    decider.resume(created=-500.0, active_at=-20.0)

    assert look(decider, 40.0, 0, 1).desired == 1
    assert look(decider, 40.1, 0, 1).desired == 0


def test_reason_says_when_the_last_replica_goes():
    decider = keda(cooldown_s=60.0)
    look(decider, 10.0, 30, 3)

    assert "the cooldown of 60 s ends in 25 s" in look(decider, 45.0, 0, 1).reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.23456, 1.235), (-1.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (0.0004, 0.0)],
)
def test_values_are_kept_with_three_decimals(value, expected):
    assert stored(value) == expected


# --- errors and fallback


def test_error_without_fallback_holds():
    decider = keda(cooldown_s=0.0)

    assert look(decider, 5.0, None, 3).desired == 3
    assert look(decider, 6.0, None, 0).causes == ("trigger-error",)


def test_error_beside_an_active_trigger_does_not_count_as_activity():
    decider = Keda(replace(BASE, triggers=(LAG, replace(LAG, name="b")), cooldown_s=10.0), now=0.0)
    decider.decide(now=0.0, values={"lag": 5.0, "b": 5.0}, current=1)
    decider.decide(now=9.0, values={"lag": 5.0, "b": None}, current=1)

    assert decider.decide(now=11.0, values={"lag": 0.0, "b": 0.0}, current=1).desired == 0


def test_fallback_counts_after_more_failures_than_its_threshold():
    decider = keda(fallback=FallbackPolicy(failure_threshold=2, replicas=6))

    assert look(decider, 0.0, None, 2).causes[0] == "fallback-hold"
    assert look(decider, 15.0, None, 2).desired == 2
    assert look(decider, 30.0, None, 2).desired == 4  # 6 wanted, at most twice the present
    assert look(decider, 45.0, None, 4).desired == 6
    assert look(decider, 60.0, 20, 6).desired == 2
    assert look(decider, 75.0, None, 2).desired == 2


def test_fallback_activates_from_zero():
    decider = keda(fallback=FallbackPolicy(failure_threshold=0, replicas=3))

    assert look(decider, 0.0, None, 0).desired == 1


@pytest.mark.parametrize(
    ("behavior", "replicas", "value"),
    [
        ("static", 10, 100.0),
        ("currentReplicas", 6, 60.0),
        ("currentReplicasIfHigher", 10, 100.0),
        ("currentReplicasIfLower", 6, 60.0),
    ],
)
def test_row_fallback_behaviours(behavior, replicas, value):
    fallback = FallbackPolicy(failure_threshold=1, replicas=10, behavior=behavior)

    assert fallback_replicas(fallback, 6) == replicas
    assert fallback_value(replicas, target=10.0, metric_type="AverageValue", ready=6) == value


def test_fallback_for_value_divides_by_ready_and_needs_one():
    assert fallback_value(10, target=10.0, metric_type="Value", ready=5) == 20.0
    assert fallback_value(10, target=10.0, metric_type="Value", ready=0) is None


def test_fallback_for_value_does_not_answer_without_a_ready_replica():
    policy = replace(BASE, triggers=(replace(LAG, metric_type="Value"),))
    decider = Keda(replace(policy, fallback=FallbackPolicy(failure_threshold=0, replicas=6)), now=0.0)

    assert look(decider, 0.0, None, 0).desired == 0
    assert not decider.seen.fallback
    assert look(decider, 1.0, None, 2).desired == 4  # 6 wanted, at most twice the present
    assert decider.seen.fallback


# --- scalingModifiers


def composed(formula: str, **changes) -> Keda:
    modifiers = FormulaPolicy(formula=formula, target=10.0, **changes.pop("modifiers", {}))
    triggers = (LAG, replace(LAG, name="rate"))
    return Keda(replace(BASE, triggers=triggers, modifiers=modifiers, **changes), now=0.0)


def test_formula_replaces_the_triggers():
    decider = composed("(lag + rate) / 2")

    assert decider.decide(now=0.0, values={"lag": 100.0, "rate": 20.0}, current=6).desired == 6
    assert [metric.name for metric in hpa_policy(decider.policy).metrics] == [COMPOSITE]
    assert decider.decide(now=15.0, values={"lag": 100.0, "rate": 80.0}, current=6).desired == 9


def test_formula_alone_says_what_is_active():
    decider = composed("lag - rate", modifiers={"activation_target": 5.0})

    assert decider.decide(now=0.0, values={"lag": 105.0, "rate": 100.0}, current=0).desired == 0
    assert decider.decide(now=1.0, values={"lag": 106.0, "rate": 100.0}, current=0).desired == 1
    assert decider.decide(now=2.0, values={"lag": 900.0, "rate": None}, current=0).desired == 0


def test_formula_that_fails_is_an_error_and_holds():
    decider = composed("lag > rate")

    assert decider.decide(now=0.0, values={"lag": 1.0, "rate": 2.0}, current=4).desired == 4


def test_fallback_scaling_modifiers_lets_the_formula_supply_a_value():
    fallback = FallbackPolicy(failure_threshold=0, replicas=7, behavior="scalingModifiers")
    decider = composed("(rate ?? 30) + lag", fallback=fallback)
    assert decider.decide(now=0.0, values={"lag": 20.0, "rate": None}, current=4).desired == 5

    nothing = composed("rate ?? nil", fallback=fallback)
    assert nothing.decide(now=0.0, values={"lag": 20.0, "rate": None}, current=4).desired == 7


def test_static_fallback_with_a_formula_uses_its_target():
    decider = composed("lag + rate", fallback=FallbackPolicy(failure_threshold=0, replicas=6))

    assert decider.decide(now=0.0, values={"lag": None, "rate": 1.0}, current=4).desired == 6


def test_static_fallback_for_a_formula_by_value_needs_a_ready_replica():
    fallback = FallbackPolicy(failure_threshold=0, replicas=6)
    decider = composed("lag + rate", fallback=fallback, modifiers={"metric_type": "Value"})

    assert decider.decide(now=0.0, values={"lag": None, "rate": 1.0}, current=0).desired == 0
    assert not decider.seen.fallback


def test_unreadable_formula_is_refused_at_once():
    with pytest.raises(FormulaError, match="not the name of a trigger"):
        composed("cpu + 1")


# --- properties

traces = st.lists(
    st.tuples(st.integers(1, 200), st.one_of(st.none(), st.floats(0, 500))), min_size=1, max_size=40
)


@settings(max_examples=80)
@given(
    st.sampled_from([{}, {"min_replicas": 2}, {"min_replicas": 3, "idle_replicas": 1}]),
    st.one_of(st.none(), st.just(FallbackPolicy(failure_threshold=1, replicas=4))),
    traces,
)
def test_property_bounds_hold_and_a_restored_state_decides_the_same(changes, fallback, trace):
    policy = replace(BASE, max_replicas=20, fallback=fallback, stabilization_s=300.0, **changes)
    decider, now, current = Keda(policy, now=0.0), 0.0, 0
    least = min(changes.get("idle_replicas", 99), changes.get("min_replicas", 0))
    for seconds, lag in trace:
        now += seconds
        copy = Keda.from_dict(policy, json.loads(json.dumps(decider.to_dict())))
        decision = look(decider, now, lag, current)

        assert look(copy, now, lag, current) == decision
        assert decision.reason.startswith(f"{decision.desired} wanted: ")
        assert decision.desired <= 20
        assert decision.desired >= least or current < least
        current = decision.desired


@settings(max_examples=40)
@given(st.floats(0, 900))
def test_property_constant_load_settles_and_stays(lag):
    decider, current, numbers = keda(cooldown_s=60.0, stabilization_s=300.0), 0, []
    for tick in range(60):
        current = look(decider, 15.0 * tick, lag, current).desired
        numbers.append(current)

    assert len(set(numbers[40:])) == 1
    assert (numbers[-1] > 0) is (stored(lag) > 0)
